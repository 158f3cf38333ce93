"""Rules of the house that nobody should have to remember: each is a check of the source, shown to catch a breach."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("genprop_core", "trainer", "nodes")
FOLDERS = (*PACKAGES, "scripts", "benchmarks", "tests")
COMFYUI = {"comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "execution"}
COMFYUI |= {"folder_paths", "latent_preview", "node_helpers", "nodes", "server"}
COMFYUI_ROOMS = ("nodes/", "tests/nodes/", "scripts/comfyui", "benchmarks/comfyui")


def sources(*folders):
    """Every Python file of these folders, as paths relative to the repository with forward slashes."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


def docstrings(tree):
    """The nodes that are docstrings; a word in one is no code."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def imported(tree):
    """(line, top-level name) of every absolute import, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module.split(".")[0]


def called(tree):
    """(call, dotted name) of every call whose function is a plain name or attributes of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node, ast.unparse(node.func)


def imports_comfyui(tree):
    return [f"{line}: imports {name}" for line, name in imported(tree) if name in COMFYUI]


def unpickles(tree):
    modules = ("pickle", "cPickle", "dill", "joblib", "shelve")
    found = [f"{line}: imports {name}" for line, name in imported(tree) if name in modules]
    for call, name in called(tree):
        keywords = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        if name == "torch.load" and keywords.get("weights_only") is not True:
            found.append(f"{call.lineno}: torch.load without weights_only=True")
        if keywords.get("allow_pickle") is True:
            found.append(f"{call.lineno}: allow_pickle=True")
    return found


def runs_text(tree):
    return [f"{call.lineno}: calls {name}()" for call, name in called(tree) if name in ("eval", "exec")]


def names_cuda(tree):
    """A device by name where it should have come as an argument. A message may speak of CUDA."""
    spared = docstrings(tree)
    found = [f"{call.lineno}: calls {name}()" for call, name in called(tree) if name.endswith(".cuda")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spared:
            if re.fullmatch(r"cuda(:\d*)?", node.value.strip()):
                found.append(f"{node.lineno}: the literal {node.value!r}")
    return found


def changes_sys_path(tree):
    """Only a file that is run by its path may, under __main__."""
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    spared = {id(node) for block in guarded for node in ast.walk(block)}
    found = [(call, name) for call, name in called(tree) if name.startswith("sys.path.") and id(call) not in spared]
    return [f"{call.lineno}: calls {name}()" for call, name in found]


def lacks_docstring(tree):
    return [] if ast.get_docstring(tree) else ["1: the module has no docstring"]


def prints(tree):
    return [f"{call.lineno}: calls print()" for call, name in called(tree) if name == "print"]


@pytest.mark.parametrize(
    "rule, source",
    [
        (imports_comfyui, "import comfy.utils"),
        (imports_comfyui, "def f():\n    from folder_paths import models_dir"),
        (unpickles, "import pickle"),
        (unpickles, "import torch\ntorch.load('x')"),
        (unpickles, "torch.load('x', weights_only=False)"),
        (unpickles, "np.load('x', allow_pickle=True)"),
        (runs_text, "x = eval('1')"),
        (runs_text, "def f():\n    exec('a = 1')"),
        (names_cuda, "x.to('cuda')"),
        (names_cuda, "d = f'cuda:{i}'"),
        (names_cuda, "model.unet.cuda()"),
        (changes_sys_path, "import sys\nsys.path.insert(0, '.')"),
        (lacks_docstring, "import os"),
        (prints, "def f():\n    print(1)"),
    ],
)
def test_each_rule_catches_a_breach(rule, source):
    assert rule(ast.parse(source))


@pytest.mark.parametrize(
    "rule, source",
    [
        (imports_comfyui, "from .nodes import GenPropExtension\nimport comfyless"),
        (unpickles, "torch.load('x', weights_only=True)"),
        (runs_text, "model.eval()"),
        (names_cuda, '"""Give cuda or cpu."""\nhelp = "for example cuda or cpu"'),
        (changes_sys_path, "if __name__ == '__main__':\n    sys.path.append('.')"),
        (lacks_docstring, '"""Says what this is."""'),
        (prints, "log.info('print(1)')"),
    ],
)
def test_each_rule_lets_good_code_pass(rule, source):
    assert rule(ast.parse(source)) == []


RULES = [
    (imports_comfyui, [f for f in sources(*FOLDERS) if not f.startswith(COMFYUI_ROOMS)] + ["__init__.py"]),
    (unpickles, sources(*FOLDERS)),
    (runs_text, sources(*FOLDERS)),
    (names_cuda, sources(*PACKAGES)),
    (changes_sys_path, sources(*PACKAGES)),
    (lacks_docstring, sources(*PACKAGES, "scripts", "benchmarks") + ["__init__.py"]),
    (prints, sources("nodes")),
]


@pytest.mark.parametrize("rule, files", RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_no_file_breaks(rule, files):
    assert len(files) > 3 or rule is prints
    trees = {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in files}
    assert [f"{file}:{breach}" for file, tree in trees.items() for breach in rule(tree)] == []


def test_ruff_has_no_complaint():
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", str(ROOT)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_root_only_points_to_the_nodes():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    kinds = [type(node).__name__ for node in tree.body]
    assert kinds == ["Expr", "Assign", "AsyncFunctionDef"]
    assert tree.body[1].targets[0].id == "WEB_DIRECTORY"
    assert tree.body[2].name == "comfy_entrypoint"


# Imports modules in a fresh Python and reports what our own code did meanwhile: the innermost caller that is not the
# standard library decides whose doing it was.
PROBE = """
import json, logging, os, sys
root, names = sys.argv[1], sys.argv[2:]
sys.path.append(root)
done = []
def ours():
    frame = sys._getframe(2)
    while frame:
        file = frame.f_code.co_filename
        if "site-packages" in file:
            return False
        if file.startswith(root):
            return True
        frame = frame.f_back
def hook(event, details):
    writes = event == "open" and isinstance(details[1], str) and set(details[1]) & set("wax+")
    acts = event in ("os.mkdir", "os.remove", "os.rename", "subprocess.Popen", "os.system", "socket.connect",
                     "socket.getaddrinfo", "urllib.Request", "os.putenv", "os.chdir")
    if (writes or acts) and ours():
        done.append([event, repr(details)[:200]])
sys.addaudithook(hook)
before = list(sys.path), len(logging.getLogger().handlers), dict(os.environ)
for name in names:
    __import__(name)
if len(names) == 1:  # more of them bring torch and others, who do touch these
    if sys.path != before[0]:
        done.append(["sys.path", repr(sys.path)])
    if (len(logging.getLogger().handlers), dict(os.environ)) != before[1:]:
        done.append(["logging or environment", ""])
print(json.dumps({"done": done, "torch": "torch" in sys.modules}))
"""


def probe(folder, root, *names):
    command = [sys.executable, "-B", "-c", PROBE, str(root), *names]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    *printed, last = result.stdout.splitlines()
    assert printed == [], "an import printed"
    assert list(Path(folder).iterdir()) == []
    return json.loads(last)


@pytest.mark.parametrize("name", ["genprop_core", "trainer"])
def test_importing_a_package_does_nothing_and_loads_no_torch(name, tmp_path):
    assert probe(tmp_path, ROOT, name) == {"done": [], "torch": False}


def test_importing_every_module_does_nothing(tmp_path):
    names = [file[:-3].replace("/", ".").removesuffix(".__init__") for file in sources("genprop_core", "trainer")]
    assert probe(tmp_path, ROOT, *names)["done"] == []


@pytest.mark.parametrize(
    "line, event",
    [
        ("open('/dev/null', 'w').close()" if sys.platform != "win32" else "open('NUL', 'w').close()", "open"),
        ("import sys; sys.path.insert(0, 'x')", "sys.path"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "socket.getaddrinfo"),
        ("import os; os.environ['GENPROP_TEST'] = '1'", "os.putenv"),
        ("import logging; logging.basicConfig()", "logging or environment"),
    ],
)
def test_the_probe_sees_what_an_import_does(line, event, tmp_path):
    package, folder = tmp_path / "package", tmp_path / "empty"
    package.mkdir()
    folder.mkdir()
    (package / "culprit.py").write_text(line, encoding="utf-8")
    assert event in [found[0] for found in probe(folder, package, "culprit")["done"]]


def requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def test_requirements_leave_comfyuis_torch_alone():
    names = [re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in requirements()]
    assert "diffusers" in names
    assert {"torch", "torchvision", "torchaudio", "xformers", "triton"} & set(names) == set()


def test_project_file_and_requirements_are_one_list():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dependencies"] == requirements()
    assert project["project"]["dynamic"] == ["optional-dependencies"]
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["optional-dependencies"]["dev"]["file"] == ["requirements-dev.txt"]
    assert project["tool"]["comfy"]["DisplayName"] == "GenProp"


def test_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "GPL-3.0-or-later"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
