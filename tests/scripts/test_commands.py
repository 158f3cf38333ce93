"""demo.py and test.py: what they run, and what they print."""
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from comfyui_folder import checkout

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_brings_the_sample_and_its_truth(demo):
    arguments = demo.command(["--steps", "3"])
    assert arguments[-2:] == ["--steps", "3"]
    assert demo.given(arguments, "--base") == "mini"
    assert Path(demo.given(arguments, "--out")) == ROOT / "output" / "demo"
    assert demo.given(arguments, "--truth") and demo.given(arguments, "--truth-mask")
    assert demo.given(arguments, "--clean-plate") == "off", "the picture shows what the model makes"


def test_a_manifest_brings_its_own_clips(demo, tmp_path, monkeypatch):
    """Nothing of the sample is among them, and no one folder has all the results."""
    ran = []
    monkeypatch.setattr(demo, "prepare", lambda folder, steps: "python")
    monkeypatch.setattr(demo, "run", lambda command, **more: ran.append(command[4:]) or len(ran) - 1)
    assert [demo.body(["--manifest", "a.csv", "--out", str(tmp_path)]), demo.body(["--manifest=a.csv"])] == [0, 1]
    assert ran[0] == ["--base", "mini", "--manifest", "a.csv", "--out", str(tmp_path)]
    assert ran[1] == ["--base", "mini", "--out", str(ROOT / "output" / "demo"), "--manifest=a.csv"]


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
    assert ran[0][0][:4] == ["python", "-m", "genprop_core", "propagate"] and ran[0][1]["PYTHONPATH"] == ROOT
    assert ran[0][1]["TRANSFORMERS_VERBOSITY"] == "error"  # nothing of libraries' parts that are not used


def test_the_demo_says_why_there_are_no_scores(demo, tmp_path, monkeypatch, capsys):
    from genprop_core.evaluation import summary

    facts = {"controls": {}, "frames": 8, "size": [128, 128], "seconds": {}, "checkpoint": "0" * 16, "seed": 0}
    (tmp_path / "metrics.json").write_text(json.dumps(summary([], [], **facts)))
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
    monkeypatch.setattr(module, "prepare", lambda folder, steps: Path(folder.name, "bin", "python"))
    monkeypatch.setattr(module, "run", lambda command, cwd, **more: module.ran.append((command, cwd, more)) or 5)
    return module


def compiled(folder):
    """What lets the tests' processes share compiled code, in the environment's own folder."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": Path(folder, "bytecode")}


def test_arguments_go_to_pytest_and_its_exit_code_comes_back(runner, monkeypatch):
    monkeypatch.setattr(runner, "find_comfyui", lambda: None)
    assert runner.body(["tests/core", "-k", "edm"]) == 5
    command = [Path(".venv/bin/python"), "-m", "pytest", "tests/core", "-k", "edm"]
    assert runner.ran == [(command, ROOT, {"COMFYUI_PATH": "", **compiled(".venv")})]


def test_the_whole_suite_is_shared_by_two_processes(runner, monkeypatch):
    monkeypatch.setattr(runner, "find_comfyui", lambda: None)
    for cores, options, threads in ((4, ["-n", "2", "--dist", "loadfile"], {"OMP_NUM_THREADS": 2}), (1, [], {})):
        monkeypatch.setattr(runner.os, "cpu_count", lambda cores=cores: cores)
        runner.body([])
        more = {"COMFYUI_PATH": "", **threads, **compiled(".venv")}
        assert runner.ran[-1] == ([Path(".venv/bin/python"), "-m", "pytest", *options], ROOT, more)


def test_full_size_and_comfyui(runner, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "find_comfyui", lambda: checkout(tmp_path / "ComfyUI"))
    runner.body(["-x", "--full-size"])
    ((command, cwd, more),) = runner.ran
    assert command == [Path(".venv-comfyui/bin/python"), "-m", "pytest", "-m", "full_size", "-rP", "-x"]
    assert (cwd, more) == (ROOT, {"COMFYUI_PATH": tmp_path / "ComfyUI", **compiled(".venv-comfyui")})


def test_full_size_tests_are_left_out_unless_asked_for(pytestconfig):
    assert "not full_size" in " ".join(pytestconfig.getini("addopts"))
