"""What a user of the scripts reads when something goes wrong."""
import ast
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


NO_NETWORK = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("Failed to establish
a new connection: [Errno -3] Temporary failure in name resolution")': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0
"""
NO_BUILD = """ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: 2.2.2)
ERROR: No matching distribution found for torch==2.13.0
"""
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
CONFLICT = """ERROR: Cannot install a and b because these package versions have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io
"""


@pytest.mark.parametrize(
    "words, line",
    [
        (NO_NETWORK, r"the package index cannot be reached\. Connect to the internet, or set PIP_PROXY"),
        (NO_BUILD, r"there is no build of it for cpython .*\. Use a 64-bit Python 3\.10 to 3\.13"),
        (FULL, r"the disk is full\. Free some space"),
        (CONFLICT, r'pip says "Cannot install a and b because .*"\. Mend that'),
        ("", r'pip says ""\. Mend that'),
    ],
)
def test_pips_failures_are_one_line_with_a_remedy(words, line, installing, environment, tmp_path):
    said = installing.explain(words, environment.Step("torch", "torch 2.13.0, 1 GB"), tmp_path / "pip.log")
    assert "\n" not in said
    assert re.fullmatch(rf"Could not install torch 2\.13\.0: {line}.*Details: .*pip\.log", said)


def test_a_failing_pip_raises_and_leaves_its_words(installing, environment, processes, tmp_path, monkeypatch):
    monkeypatch.setattr(installing.subprocess, "Popen", _popen_of("print('ERROR: [Errno 28] No space left'); exit(1)"))
    with pytest.raises(processes.SetupError, match="disk is full"):
        installing.pip_install(sys.executable, environment.Step("a", "a, 1 GB"), tmp_path / "pip.log")
    assert "No space left" in (tmp_path / "pip.log").read_text()


def test_a_working_pip_gets_no_foreign_python_settings(installing, environment, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    shown = "import os; print(os.environ.get('PYTHONPATH'), os.environ['PIP_USER'], os.environ['PYTHONUTF8'])"
    monkeypatch.setattr(installing.subprocess, "Popen", _popen_of(shown))
    installing.pip_install(sys.executable, environment.Step("a", "a"), tmp_path / "pip.log")
    assert (tmp_path / "pip.log").read_text().split() == ["None", "0", "1"]


def _popen_of(code):
    real = subprocess.Popen
    return lambda command, **options: real([sys.executable, "-c", code], **options)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv(module, installing, processes, monkeypatch):
    find = installing.importlib.util.find_spec
    monkeypatch.setattr(installing.importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(processes.SetupError, match=r"apt install python3\.\d+-venv"):
        installing.check_python()


@pytest.mark.parametrize("script", ["demo.py", "test.py"])
def test_an_old_python_is_told_so_in_one_line(script):
    file = ROOT / "scripts" / script
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 4))  # it reads all before it runs the check
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree))
    code = f"import runpy, sys; sys.version_info = (3, 9, 18); runpy.run_path({str(file)!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, encoding="utf-8")
    assert result.returncode == 1
    assert re.fullmatch(r"Error: Expected Python 3\.10 to 3\.13, this is .*python\.org\.\n", result.stderr)


@pytest.mark.parametrize("script", ["demo.py", "test.py"])
def test_a_python_that_does_not_look_beside_the_script_runs_it(script):
    """As ComfyUI's portable one; -I makes this one such."""
    command = [sys.executable, "-I", str(ROOT / "scripts" / script), "--help"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 0 and f"usage: python scripts/{script}" in result.stdout, result.stderr


def test_another_programs_stream_will_do(processes, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        processes.main(lambda arguments: processes.say("done") or 3)
    assert ended.value.code == 3 and sys.stdout.getvalue() == "done\n"


def test_errors_end_the_script_with_one_line(processes):
    def body(arguments):
        raise processes.SetupError("Expected this, got that. Do so.")

    with pytest.raises(SystemExit, match=r"^Error: Expected this, got that\. Do so\.$"):
        processes.main(body)


def test_a_full_disk_and_a_forbidden_folder_are_told_apart(processes):
    def full(arguments):
        raise OSError(28, "No space left on device")

    def forbidden(arguments):
        raise PermissionError(13, "Permission denied", "/repo/.venv.lock")

    with pytest.raises(SystemExit, match=r"disk is full: free some space, then run this again"):
        processes.main(full)
    with pytest.raises(SystemExit, match=r"\.venv\.lock.*can be written to, then run this again"):
        processes.main(forbidden)


def test_the_childs_exit_code_and_variables_come_through(processes):
    code = "import os, sys; sys.exit(int(os.environ['GENPROP_CODE']))"
    assert processes.run([sys.executable, "-c", code], GENPROP_CODE=7) == 7
