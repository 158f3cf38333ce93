"""scripts/: the virtual environments' bookkeeping, the search for ComfyUI, and what a user reads when it goes wrong.

No network and no real virtual environment: pip and venv are replaced by what they leave behind.
"""
import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def environment(scripts):
    return scripts("environment")


@pytest.fixture
def installing(scripts):
    return scripts("installing")


@pytest.fixture
def processes(scripts):
    return scripts("processes")


@pytest.fixture
def demo(scripts):
    return scripts("demo")


@pytest.fixture
def pip(environment, monkeypatch):
    """Replaces venv and pip. Lists what they were asked for; `failing` names a step that is interrupted."""

    class Pip:
        calls, failing = [], None

        def make_venv(self, folder):
            self.calls.append("venv")
            python = environment.venv_python(folder)
            python.parent.mkdir(parents=True)
            python.touch()

        def install(self, python, step, log, lock):
            assert python.exists() and not (log.parent / environment.STAMP).exists()
            if step.name == self.failing:
                raise KeyboardInterrupt
            self.calls.append(step.name)

        def take(self):
            taken, self.calls = self.calls, []
            return taken

    fake = Pip()
    fake.calls = []
    monkeypatch.setattr(environment, "make_venv", fake.make_venv)
    monkeypatch.setattr(environment, "pip_install", fake.install)
    return fake


@pytest.fixture
def steps(environment):
    return tuple(environment.Step(name, name, (f"{name}==1",)) for name in ("torch", "genprop"))


def checkout(folder):
    """The files by which a ComfyUI checkout is known."""
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "folder_paths.py", "requirements.txt", "comfy/model_management.py"):
        (folder / name).touch()
    return folder


# ---- what is installed -------------------------------------------------------------------------------------------


def test_a_second_run_installs_nothing(environment, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    python = environment.prepare(folder, steps)
    assert pip.take() == ["venv", "torch", "genprop"]
    assert python == environment.venv_python(folder)
    assert environment.prepare(folder, steps) == python
    assert pip.take() == []
    assert not (folder / environment.UNFINISHED).exists()


def test_more_steps_are_added_and_fewer_are_in_already(environment, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    environment.prepare(folder, steps)
    pip.take()
    tests = environment.Step("tests", "tests", ("pytest",))
    environment.prepare(folder, (*steps, tests))
    assert pip.take() == ["tests"]
    environment.prepare(folder, steps)  # demo.py after test.py
    environment.prepare(folder, (*steps, tests))  # and test.py again
    assert pip.take() == []


def test_an_interrupted_install_is_repaired_from_the_start(environment, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    pip.failing = "genprop"
    with pytest.raises(KeyboardInterrupt):
        environment.prepare(folder, steps)
    assert not (folder / environment.STAMP).exists()
    (folder / "half-written").touch()
    pip.take()
    pip.failing = None
    environment.prepare(folder, steps)
    assert pip.take() == ["venv", "torch", "genprop"]
    assert not (folder / "half-written").exists()


def test_an_interrupted_addition_is_repaired_too(environment, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    environment.prepare(folder, steps)
    tests = environment.Step("tests", "tests", ("pytest",))
    pip.take()
    pip.failing = "tests"
    with pytest.raises(KeyboardInterrupt):
        environment.prepare(folder, (*steps, tests))
    pip.failing = None
    environment.prepare(folder, steps)
    assert pip.take() == ["venv", "torch", "genprop"]


def test_changed_requirements_are_installed_again_and_only_they(environment, pip, tmp_path):
    listed = tmp_path / "requirements.txt"
    listed.write_text("diffusers>=0.33\n")
    steps = (environment.Step("torch", "torch", ("torch==1",)), environment.Step("genprop", "rest", (), (listed,)))
    environment.prepare(tmp_path / ".venv", steps)
    pip.take()
    listed.write_text("diffusers>=0.34\n")
    environment.prepare(tmp_path / ".venv", steps)
    assert pip.take() == ["genprop"]


def test_fingerprint_follows_contents_and_not_paths(environment, monkeypatch, tmp_path):
    one, other, constraints = tmp_path / "one.txt", tmp_path / "other.txt", tmp_path / "constraints.txt"
    for file in (one, other, constraints):
        file.write_text("numpy<3\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", constraints)
    before = environment.Step("a", "a", ("torch==1",), (one,)).fingerprint()
    assert environment.Step("a", "said otherwise", ("torch==1",), (other,)).fingerprint() == before
    assert environment.Step("a", "a", ("torch==2",), (one,)).fingerprint() != before
    constraints.write_text("numpy<2\n")
    assert environment.Step("a", "a", ("torch==1",), (one,)).fingerprint() != before


@pytest.mark.parametrize("damage", ["another python", "python gone", "not json", "a list"])
def test_a_stamp_that_does_not_fit_means_making_it_anew(damage, environment, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    environment.prepare(folder, steps)
    stamp = folder / environment.STAMP
    if damage == "another python":
        stamp.write_text(stamp.read_text().replace(environment.PYTHON, "cpython 3.9 elsewhere"))
    elif damage == "python gone":
        environment.venv_python(folder).unlink()
    else:
        stamp.write_text({"not json": "{", "a list": "[1]"}[damage])
    pip.take()
    environment.prepare(folder, steps)
    assert pip.take() == ["venv", "torch", "genprop"]
    assert json.loads(stamp.read_text())["python"] == environment.PYTHON


def test_somebody_elses_folder_is_left_alone(environment, processes, pip, steps, tmp_path):
    folder = tmp_path / ".venv"
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("theirs")
    with pytest.raises(processes.SetupError, match=r"\.venv.* something else made it\. Rename or delete it"):
        environment.prepare(folder, steps)
    assert (folder / "pyvenv.cfg").read_text() == "theirs"
    assert pip.take() == []


def test_the_sets_of_packages(environment, tmp_path):
    comfy = checkout(tmp_path / "ComfyUI")
    folder, steps = environment.plain()
    assert folder == ROOT / ".venv"
    assert [step.name for step in steps] == ["torch", "genprop"]
    assert steps[0].packages == ("torch==2.13.0",)
    assert [step.name for step in environment.plain(tests=True)[1]] == ["torch", "genprop", "tests"]
    folder, steps = environment.with_comfyui(comfy, tests=True)
    assert folder == ROOT / ".venv-comfyui"
    assert [step.name for step in steps] == ["torch", "torchaudio", "comfyui", "genprop", "tests"]
    assert steps[2].files == (comfy / "requirements.txt",)
    for step in steps:  # no later step may bring another torch
        assert {"torch==2.9.1", "torchvision==0.24.1"} <= set(step.packages)


def test_every_step_says_size_and_time_before_it_starts(environment, tmp_path):
    comfy = checkout(tmp_path / "ComfyUI")
    for step in (*environment.plain(tests=True)[1], *environment.with_comfyui(comfy, tests=True)[1]):
        assert "GB" in step.what or "MB" in step.what
        assert "minute" in step.what or "seconds" in step.what
        assert "\n" not in step.what


def test_pip_is_given_files_and_constraints(environment, tmp_path):
    step = environment.Step("a", "a", ("torch==1",), (tmp_path / "a b.txt",))
    constraints = str(ROOT / "scripts" / "constraints.txt")
    assert step.arguments() == ["torch==1", "-r", str(tmp_path / "a b.txt"), "-c", constraints]


def test_where_python_lies(environment):
    assert environment.venv_python(Path("v"), windows=True) == Path("v/Scripts/python.exe")
    assert environment.venv_python(Path("v"), windows=False) == Path("v/bin/python")


# ---- the lock ----------------------------------------------------------------------------------------------------


def test_the_second_of_two_runs_waits_and_then_finds_all_done(environment, pip, steps, tmp_path, monkeypatch, capsys):
    install, running, most = pip.install, [], []

    def slow(*arguments):
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        install(*arguments)
        running.pop()

    monkeypatch.setattr(environment, "pip_install", slow)
    runs = [threading.Thread(target=environment.prepare, args=(tmp_path / ".venv", steps)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert pip.take() == ["venv", "torch", "genprop"]
    assert max(most) == 1
    assert "waiting for it" in capsys.readouterr().out


def test_the_lock_of_a_killed_process_is_free(processes, tmp_path):
    lock, held = tmp_path / ".venv.lock", tmp_path / "held"
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import processes\n"
        f"from pathlib import Path\n"
        f"with processes.locked({str(lock)!r}):\n    Path({str(held)!r}).touch()\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as holder:
        try:
            while not held.exists():
                assert holder.poll() is None
                time.sleep(0.05)
            with open(lock, "a+b") as file:
                assert not processes._try_lock(file)
        finally:
            holder.kill()
    with processes.locked(lock) as file:
        assert not file.closed


# ---- where ComfyUI is --------------------------------------------------------------------------------------------


def test_search_order(environment, tmp_path):
    home = tmp_path / "home"
    root = tmp_path / "around" / "custom_nodes" / "genprop"
    assert environment.find_comfyui({}, home, root) is None
    at_home = checkout(home / "comfy" / "ComfyUI")
    assert environment.find_comfyui({}, home, root) == at_home
    around = checkout(tmp_path / "around")
    assert environment.find_comfyui({}, home, root) == around
    named = checkout(tmp_path / "named")
    assert environment.find_comfyui({"COMFYUI_PATH": str(named)}, home, root) == named
    assert environment.find_comfyui({"COMFYUI_PATH": ""}, home, root) == around


def test_a_checkout_two_folders_up_counts_in_custom_nodes_only(environment, tmp_path):
    checkout(tmp_path / "around")
    assert environment.find_comfyui({}, tmp_path / "home", tmp_path / "around" / "projects" / "genprop") is None


def test_a_wrong_comfyui_path_is_refused(environment, processes, tmp_path):
    checkout(tmp_path / "comfy" / "ComfyUI")
    (tmp_path / "empty").mkdir()
    with pytest.raises(processes.SetupError, match=r"Expected a ComfyUI checkout .* but .*empty is none\. Correct"):
        environment.find_comfyui({"COMFYUI_PATH": str(tmp_path / "empty")}, tmp_path, ROOT)


def test_a_home_folder_in_comfyui_path_and_relative_ones_are_understood(environment, tmp_path, monkeypatch):
    here = checkout(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (os.path.join("~", "here"), "here"):
        found = environment.find_comfyui({"COMFYUI_PATH": text}, tmp_path / "home", ROOT)
        assert found.is_absolute() and os.path.samefile(found, here)


# ---- what the user reads -----------------------------------------------------------------------------------------

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


# ---- demo.py and test.py -----------------------------------------------------------------------------------------


def test_the_demo_brings_the_sample_and_its_truth(demo):
    arguments = demo.command(["--steps", "3"])
    assert arguments[-2:] == ["--steps", "3"]
    assert demo.given(arguments, "--base") == "mini"
    assert Path(demo.given(arguments, "--out")) == ROOT / "output" / "demo"
    assert demo.given(arguments, "--truth") and demo.given(arguments, "--truth-mask")


@pytest.mark.parametrize("own", [["--source", "a.mp4", "--keyframe", "a.png"], ["--source=a.mp4", "--keyframe=a.png"]])
def test_the_samples_truth_is_not_held_against_another_clip(own, demo):
    arguments = demo.command(own + ["--out=here"])
    assert demo.given(arguments, "--truth") is None and demo.given(arguments, "--truth-mask") is None
    assert demo.given(arguments, "--source") == "a.mp4" and demo.given(arguments, "--keyframe") == "a.png"
    assert demo.given(arguments, "--out") == "here"


def test_another_keyframe_for_the_sample_has_no_truth_either(demo):
    arguments = demo.command(["--keyframe", "mine.png"])
    assert demo.given(arguments, "--source").endswith("source.mp4")
    assert demo.given(arguments, "--truth") is None


def test_the_table_shows_what_was_measured_and_dashes(demo):
    metrics = {
        "result": dict(psnr=27.123, ssim=0.9, psnr_outside=28, psnr_inside=25, mask_iou=0.87, removed=1.0),
        "floors": {"copy_source": {"psnr": 20.5, "removed": 0.0}, "plain_svd": {"psnr": None}},
    }
    head, result, source, plain = demo.table(metrics)
    assert head.split() == ["PSNR", "SSIM", "outside", "inside", "mask", "IoU", "removed"]
    assert result.split() == ["GenProp", "27.12", "0.900", "28.00", "25.00", "0.87", "100%"]
    assert source.split()[-6:] == ["20.50", "-", "-", "-", "-", "0%"]
    assert plain.split()[-6:] == ["-"] * 6
    assert len({len(line) for line in (head, result, source, plain)}) == 1


def test_the_demo_fails_with_propagate_and_prints_no_old_table(demo, tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.json").write_text('{"result": {"psnr": 99}}')
    monkeypatch.setattr(demo, "prepare", lambda folder, steps: sys.executable)
    monkeypatch.setattr(demo, "run", lambda command, **more: 2)
    assert demo.body(["--out", str(tmp_path)]) == 2
    assert "99" not in capsys.readouterr().out


def test_the_demo_says_where_the_picture_is(demo, tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.json").write_text('{"result": {"psnr": 27.5}, "floors": {}}')
    ran = []
    monkeypatch.setattr(demo, "prepare", lambda folder, steps: "python")
    monkeypatch.setattr(demo, "run", lambda command, **more: ran.append((command, more)) or 0)
    assert demo.body(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "comparison.png") in said and "27.50" in said
    assert ran[0][0][:4] == ["python", "-m", "genprop_core", "propagate"] and ran[0][1] == {"PYTHONPATH": ROOT}


def test_the_demo_says_why_there_are_no_scores(demo, tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.json").write_text('{"result": {"psnr": null}, "floors": {}}')
    monkeypatch.setattr(demo, "prepare", lambda folder, steps: "python")
    monkeypatch.setattr(demo, "run", lambda command, **more: 0)
    assert demo.body(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "No scores: they need --truth" in said and "GenProp" not in said


@pytest.fixture
def runner(scripts, monkeypatch):
    """scripts/test.py under another name (`test` is a package of Python's own), and what it would have run."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("genprop_runner", ROOT / "scripts" / "test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ran = []
    monkeypatch.setattr(module, "prepare", lambda folder, steps: folder.name)
    monkeypatch.setattr(module, "run", lambda command, cwd, **more: module.ran.append((command, cwd, more)) or 5)
    return module


def test_arguments_go_to_pytest_and_its_exit_code_comes_back(runner, monkeypatch):
    monkeypatch.setattr(runner, "find_comfyui", lambda: None)
    assert runner.body(["tests/core", "-k", "edm"]) == 5
    command = [".venv", "-m", "pytest", "tests/core", "-k", "edm"]
    assert runner.ran == [(command, ROOT, {"COMFYUI_PATH": ""})]


def test_full_size_and_comfyui(runner, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "find_comfyui", lambda: checkout(tmp_path / "ComfyUI"))
    runner.body(["-x", "--full-size"])
    ((command, cwd, more),) = runner.ran
    assert command == [".venv-comfyui", "-m", "pytest", "-m", "full_size", "-rP", "-x"]
    assert (cwd, more) == (ROOT, {"COMFYUI_PATH": tmp_path / "ComfyUI"})


def test_full_size_tests_are_left_out_unless_asked_for(pytestconfig):
    assert "not full_size" in " ".join(pytestconfig.getini("addopts"))
