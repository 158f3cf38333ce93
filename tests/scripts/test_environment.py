"""The virtual environments' bookkeeping: installed once, repaired when broken off, one run at a time."""
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from comfyui_folder import checkout

ROOT = Path(__file__).resolve().parents[2]


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


def test_an_addition_that_never_began_leaves_what_was_there(environment, installing, processes, pip, steps, tmp_path):
    """demo.py has run; test.py is tried without a network; demo.py still works without one."""
    folder = tmp_path / ".venv"
    environment.prepare(folder, steps)
    pip.take()
    tests = environment.Step("tests", "tests", ("pytest",))
    pip.failing, pip.error = "tests", installing.NothingChanged("no network")
    for _ in range(2):
        with pytest.raises(processes.SetupError, match="no network"):
            environment.prepare(folder, (*steps, tests))
    environment.prepare(folder, steps)
    assert pip.take() == [] and not (folder / environment.UNFINISHED).exists()
    pip.failing = None
    environment.prepare(folder, (*steps, tests))
    assert pip.take() == ["tests"]


def test_an_addition_that_broke_off_halfway_is_made_anew(environment, processes, pip, steps, tmp_path):
    environment.prepare(tmp_path / ".venv", steps)
    pip.take()
    pip.failing, pip.error = "tests", processes.SetupError("disk full")
    with pytest.raises(processes.SetupError):
        environment.prepare(tmp_path / ".venv", (*steps, environment.Step("tests", "tests", ("pytest",))))
    environment.prepare(tmp_path / ".venv", steps)
    assert pip.take() == ["venv", "torch", "genprop"]


@pytest.mark.parametrize(
    "words, kind",
    [("ERROR: no network", "NothingChanged"), ("Installing collected packages: a\nERROR: full", "SetupError")],
)
def test_pip_that_fails_says_whether_it_had_begun(installing, environment, processes, tmp_path, words, kind):
    pip = tmp_path / "pip.py"  # stands for pip as `python -m pip`: a module beside the log, run from there
    pip.write_text(f"import sys; print({words!r}); sys.exit(1)")
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport runpy; runpy.run_path({str(pip)!r})\n")
    python.chmod(0o755)
    if sys.platform == "win32":
        pytest.skip("a script is no program there")
    with pytest.raises(processes.SetupError) as raised:
        installing.pip_install(python, environment.Step("a", "a", ("a==1",)), tmp_path / "log")
    assert type(raised.value).__name__ == kind


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


def test_the_python_that_runs_this_is_not_removed(environment, processes, pip, steps, tmp_path, monkeypatch):
    """As in a shell, or an editor, that activated what was left half made."""
    folder = tmp_path / ".venv"
    pip.failing = "genprop"
    with pytest.raises(KeyboardInterrupt):
        environment.prepare(folder, steps)
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "own").touch()
    monkeypatch.setattr(environment.sys, "prefix", str(folder))
    with pytest.raises(processes.SetupError, match="its own Python runs this. Type deactivate"):
        environment.prepare(folder, steps)
    assert (folder / "bin" / "own").exists()


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, PermissionError])
def test_a_folder_that_was_half_removed_is_ours(environment, installing, pip, steps, tmp_path, monkeypatch, stopped):
    folder = tmp_path / ".venv"
    environment.prepare(folder, steps)
    (folder / environment.STAMP).write_text("damaged")
    real = installing.shutil.rmtree

    def half(path, **options):
        for name in (environment.STAMP, environment.UNFINISHED):
            (Path(path) / name).unlink(missing_ok=True)
        raise stopped("in use")

    monkeypatch.setattr(installing.shutil, "rmtree", half)
    with pytest.raises(stopped):
        environment.prepare(folder, steps)
    monkeypatch.setattr(installing.shutil, "rmtree", real)
    environment.prepare(folder, steps)
    assert environment.read_stamp(folder) and [p.name for p in tmp_path.iterdir() if p.is_dir()] == [".venv"]


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
