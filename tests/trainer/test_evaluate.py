"""Evaluation: floors and baselines, statistics over clips, resuming, caching."""

import json
import shlex

import pytest
import torch
from evaluation_folder import OPTIONS, folder, picture, run

from genprop_core.video_io import write_image
from trainer import baselines, evaluate

FLOORS = {"copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd"}
pytestmark = pytest.mark.usefixtures("nothing_cached")


def test_a_whole_data_folder_is_scored_beside_floors_and_baselines(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    for name in ("a", "b"):
        folder(data, name, target=3, mask=3)
    html = tmp_path / "report.html"
    report = run(tmp_path, "--data", data, "--resolution", 64, "--max-cfg", 3, "--html", html)
    assert report["clips"] == 2 and report["frames"] == 3 and report["size"] == [64, 64]
    assert set(report["floors"]) == FLOORS and set(report["baselines"]) == {"telea", "latent_blending"}
    assert report["floors"]["copy_source"]["psnr_outside"] > 99 and report["floors"]["copy_source"]["removed"] == 0
    assert report["baselines"]["telea"]["psnr_inside"] > report["floors"]["copy_source"]["psnr_inside"] + 6
    kept, anew = report["baselines"]["latent_blending"], report["floors"]["plain_svd"]
    assert kept["psnr_outside"] > anew["psnr_outside"] + 4, "the source outside the mask"
    for key in ("psnr", "ssim", "psnr_outside", "psnr_inside", "mask_iou", "mask_f", "mask_ceiling", "warp_error",
                "colour_drift"):  # fmt: skip
        spread = report["result"]["spread"][key]
        assert spread["interval"][0] <= report["result"][key] <= spread["interval"][1]
        assert spread["worst_clip"] in ("a", "b") and spread["clips"] == 2
    assert report["result"]["mask_iou_pixels"] <= report["result"]["mask_ceiling"] <= 1
    assert "one window" in report["missing"]["seam_jump"] and report["controls"]["clips"] == 1
    assert "--clip-weights" in report["missing"]["clip_i"] or "torchmetrics" in report["missing"]["clip_i"]
    assert "latent_blending" in capsys.readouterr().out
    text = html.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 2 and "http" not in text.replace("http://www.w3.org", "")

    made = []
    monkeypatch.setattr(baselines, "make", lambda name, *a: made.append(name) or torch.zeros(3, 3, 64, 64))
    again = run(tmp_path, "--data", data, "--resolution", 64, "--max-cfg", 3)
    assert set(made) == {"copy_source", "repeat_keyframe"}, "the others are kept"
    assert again["result"] == report["result"] and again["baselines"] == report["baselines"], "the same numbers"
    run(tmp_path, "--data", data, "--resolution", 64, "--max-cfg", 2)
    assert "plain_svd" in made, "other settings, other baselines"


def stopped_after_one(monkeypatch):
    """The first run is stopped at its second clip, later ones are not. A list of the names of all clips made."""
    real, calls, stops = evaluate.evaluate_clip, [], [True]

    def evaluate_clip(bench, index, controls):
        if calls and stops:
            stops.pop()
            raise KeyboardInterrupt
        calls.append(bench.clips.names[index])
        return real(bench, index, controls)

    monkeypatch.setattr(evaluate, "evaluate_clip", evaluate_clip)
    return calls


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    for name in ("a", "b"):
        folder(data, name, target=3, mask=3)
    options = ["--data", str(data), "--resolution", "64", "--baselines", "none", *OPTIONS, "--json",
               str(tmp_path / "s.json")]  # fmt: skip
    calls = stopped_after_one(monkeypatch)
    assert evaluate.main(options) == 130 and calls == ["a"]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("stopped: with --json or --html the same command goes on from the finished clips")
    assert (tmp_path / "s.partial.jsonl").exists() and not (tmp_path / "s.json").exists()
    assert evaluate.main(options) == 0
    assert calls == ["a", "b"], "the first clip was not made again"
    assert not (tmp_path / "s.partial.jsonl").exists()
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["clips"] == 2 and report["floors"] == {} == report["baselines"]


def test_a_clip_without_a_mask_is_not_made_again_for_its_controls(tmp_path, monkeypatch):
    data = tmp_path / "data"
    folder(data, "a", target=3)
    folder(data, "b", target=3, mask=3)
    options = ["--data", data, "--resolution", 64, "--baselines", "none", "--controls", 2]
    calls = stopped_after_one(monkeypatch)
    assert evaluate.main([*map(str, options), "--steps", "1", "--json", str(tmp_path / "scores.json")]) == 130
    report = run(tmp_path, *options)
    assert calls == ["a", "b"] and report["controls"]["clips"] == 1 and report["clips"] == 2


@pytest.mark.parametrize("change", ["target", "task", "another clip before it", None])
def test_a_clip_that_was_changed_meanwhile_is_made_anew(tmp_path, monkeypatch, change):
    data = tmp_path / "data"
    for name in ("b", "c"):
        folder(data, name, target=3, mask=3)
    options = ["--data", str(data), "--resolution", "64", "--baselines", "none", *OPTIONS, "--json",
               str(tmp_path / "s.json")]  # fmt: skip
    calls = stopped_after_one(monkeypatch)
    assert evaluate.main(options) == 130 and calls == ["b"]
    if change == "target":
        write_image(data / "edited_videos" / "b" / "2.png", torch.zeros(64, 64, 3, dtype=torch.uint8))
    elif change == "task":
        (data / "tasks.csv").write_text("name,task\nb,edit\n")
    elif change is not None:
        folder(data, "a", target=3, mask=3)  # so that b is another one's place, and with it has another seed
    assert evaluate.main(options) == 0
    assert calls[1:] == {None: ["c"], "another clip before it": ["a", "b", "c"]}.get(change, ["b", "c"])


def test_a_clip_that_was_mended_has_its_baselines_made_anew(tmp_path):
    data = tmp_path / "data"
    folder(data, "a", target=3, mask=3)
    first = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "telea")
    for t in range(3):  # the mask had been too small
        whole = torch.full((64, 64, 3), 255, dtype=torch.uint8)
        write_image(data / "masks" / "a" / f"{t}.png", whole)
    second = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "telea")
    alone = tmp_path / "alone"
    alone.mkdir()
    assert second["baselines"] == run(alone, "--data", data, "--resolution", 64, "--baselines", "telea")["baselines"]
    assert second["baselines"]["telea"]["psnr"] != first["baselines"]["telea"]["psnr"]


def test_baselines_that_another_version_made_are_made_anew(tmp_path, monkeypatch):
    from trainer import evaluation_bench

    data, scored = tmp_path / "data", []
    folder(data, "a", target=3, mask=3)
    for version in (1, 1, 2):
        monkeypatch.setattr(evaluation_bench, "VERSION", version)
        report = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "telea")
        scored.append(report["baselines"]["telea"]["psnr"])
        monkeypatch.setattr(baselines, "telea", lambda source, mask: source)
    assert scored[0] == scored[1] != scored[2]


def test_two_processes_make_the_same_rows_as_one_and_the_report_says_how(tmp_path, monkeypatch):
    data, seen = tmp_path / "data", []
    for name in ("a", "b"):
        folder(data, name, target=3, mask=3)
    finish = evaluate.finish
    monkeypatch.setattr(evaluate, "finish", lambda bench, rows, *rest: seen.append(rows) or finish(bench, rows, *rest))
    options = ["--data", data, "--resolution", 64, "--baselines", "copy_source"]
    one, two = run(tmp_path, *options), run(tmp_path, *options, "--workers", 2)
    for row in sum(seen, []):
        assert set(row.pop("seconds")) == {"encode", "sce_and_loop", "decode"}, "these differ from run to run"
    assert seen[0] == seen[1] and [row["clip"] for row in seen[0]] == ["a", "b"]
    assert (one["workers"], two["workers"]) == (1, 2) and one["threads"] == two["threads"] == 1
    for report in (one, two):
        assert report["wall_seconds"] > 0 and report["wall_clips"] == 2
        assert {"machine", "date", "python", "torch", "diffusers"} <= set(report)
    assert evaluate.command(two["settings"]) == (
        f"python -m trainer.evaluate --data {shlex.quote(str(data))} --resolution 64 --controls 1 "
        "--baselines copy_source --workers 2 --steps 1")  # fmt: skip


def test_the_command_of_a_report_names_what_is_not_the_default():
    given = ["--clips", "3", "--guidance-range", "0.1", "100", "--sce-in-cond-only", "--json", "x.json"]
    line = evaluate.command(vars(evaluate.parse(given)))
    assert line == "python -m trainer.evaluate --clips 3 --guidance-range 0.1 100.0 --sce-in-cond-only"
    assert vars(evaluate.parse(line.split()[3:])) == vars(evaluate.parse(given)) | {"json": None}


def test_a_mask_that_marks_nothing_leaves_its_control_out(tmp_path):
    data = tmp_path / "data"
    folder(data, "a", target=3, mask=3)
    for t in range(3):
        write_image(data / "masks" / "a" / f"{t}.png", torch.zeros(64, 64, 3, dtype=torch.uint8))
    report = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "none")
    assert report["controls"] == {"clips": 1, "shuffled_source_psnr_outside": None, "shuffled_source_drop": None,
                                  "other_keyframe_change_inside": None}  # fmt: skip
    assert report["result"]["psnr_outside"] is not None and report["result"]["psnr_inside"] is None


@pytest.mark.parametrize("options, wanted", [([], "."), (["--data"], ", or a smaller --resolution.")])
def test_running_out_of_memory_names_what_the_command_has(options, wanted, tmp_path, monkeypatch, capsys):
    from genprop_core.pipeline import GenProp

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    if options:
        folder(tmp_path / "data", "a")
        write_image(tmp_path / "data" / "keyframes" / "a.png", picture(0, 64, shown=False))
        options = [*options, str(tmp_path / "data")]
    monkeypatch.setattr(GenProp, "sample", fail)
    assert evaluate.main([*OPTIONS, "--clips", "1", "--cache", "none", *options]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said.endswith(f"(CUDA out of memory). Use --dtype bf16 or fp16{wanted}")
