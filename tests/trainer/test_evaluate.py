"""Evaluation: floors and baselines, statistics over clips, data folders as far as they go, resuming, caching."""

import json
import shlex

import pytest
import torch

from genprop_core.errors import GenPropError
from genprop_core.video_io import write_image
from trainer import baselines, evaluate
from trainer.evaluation_clips import DataFolder
from trainer.learned_metrics import LearnedMetrics

FLOORS = {"copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd"}
pytestmark = pytest.mark.usefixtures("nothing_cached")
OPTIONS = ["--steps", "1", "--controls", "1"]


def picture(t, size, shown=True):
    """A gradient that moves, uint8 [H,W,3], with a square on it."""
    ramp = torch.arange(size).add(3 * t).mul(255 // (size + 30)).byte()
    image = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), torch.full((size, size), 90)], -1)
    image = image.to(torch.uint8).clone()
    if shown:
        image[20:44, 10 + t : 34 + t] = torch.tensor([250, 20, 20], dtype=torch.uint8)
    return image


def folder(root, name, frames=3, size=64, target=None, mask=None):
    """One clip of a data folder, as folders of images; target and mask: frames of each, None for none."""
    for t in range(frames):
        write_image(root / "original_videos" / name / f"{t}.png", picture(t, size))
    for t in range(target or 0):
        write_image(root / "edited_videos" / name / f"{t}.png", picture(t, size, shown=False))
    for t in range(mask or 0):
        region = torch.zeros(size, size, 3, dtype=torch.uint8)
        region[20:44, 10 + t : 34 + t] = 255
        write_image(root / "masks" / name / f"{t}.png", region)


def run(tmp_path, *options):
    json_file = tmp_path / "scores.json"
    given = [*OPTIONS, "--cache", str(tmp_path / "cache"), "--json", str(json_file), *map(str, options)]
    assert evaluate.main(given) == 0
    return json.loads(json_file.read_text())


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


def test_side_files_are_found_by_any_spelling(tmp_path):
    data = tmp_path / "data"
    folder(data, "scene.01", target=3, mask=3)
    folder(data, "k")
    write_image(data / "keyframes" / "k.png", torch.zeros(64, 64, 3, dtype=torch.uint8))
    (data / "keyframes" / "k.png").rename(data / "keyframes" / "k.PNG")
    (data / "prompts.csv").write_text("name,prompt\nscene.01,a dog\nk.MP4,a cat\n")
    (data / "tasks.csv").write_text("name,task\nscene.01,edit\n")
    clips = DataFolder(data, (64,), 32)
    assert clips.names == ["k", "scene.01"] and clips.prompts == {"scene.01": "a dog", "k": "a cat"}
    assert clips.tasks == {"scene.01": "edit"} and clips[0].keyframe.max() == 0


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


def test_what_a_folder_lacks_is_named_and_the_rest_is_scored(tmp_path):
    data = tmp_path / "data"
    folder(data, "whole", target=3, mask=3)
    folder(data, "no_mask", target=3)
    folder(data, "uneven", target=2, mask=3)
    folder(data, "no_truth", mask=3)
    folder(data, "nothing")
    write_image(data / "keyframes" / "no_truth.png", picture(0, 64, shown=False))
    report = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "copy_source,telea,vae_round_trip")
    assert report["clips"] == 4 and list(report["skipped"]) == ["nothing"]
    missing = report["missing"]
    assert "no truth for 1 of 4 clips (no_truth)" in missing["psnr"]
    assert "for 2 of 4 clips (no_mask, no_truth)" in missing["psnr_inside"]
    assert "no mask for 1 of 4 clips (no_mask)" in missing["psnr_outside"]
    assert "edited_videos 2" in report["notes"]["uneven"][0] and report["frames"] == [2, 3]
    assert report["result"]["spread"]["psnr_outside"]["clips"] == 3, "without a truth against the source"
    assert report["baselines"]["telea"]["spread"]["warp_error"]["clips"] == 3
    assert report["floors"]["vae_round_trip"]["spread"]["warp_error"]["clips"] == 3


def test_single_frames_are_told_apart_and_damaged_clips_cost_only_themselves(tmp_path, capsys):
    data = tmp_path / "data"
    folder(data, "a", target=3, mask=3)
    folder(data, "broken", target=3)
    (data / "original_videos" / "broken" / "1.png").write_bytes(b"none")
    folder(data, "single", target=1, mask=1)
    folder(data, "still", frames=1, target=3)
    options = ["--data", data, "--resolution", 64, "--baselines", "none"]
    report = run(tmp_path, *options)
    assert report["clips"] == 2 and set(report["skipped"]) == {"broken", "still"}
    assert "1.png cannot be decoded" in report["skipped"]["broken"]
    assert "at least 2 frames" in report["skipped"]["still"] and "still has 1" in report["skipped"]["still"]
    assert report["notes"] == {"single": [
        "edited_videos has a single frame, which is the keyframe, without a truth",
        "masks has a single frame, which was left out"]}  # fmt: skip
    assert "no truth for 1 of 2 clips (single)" in report["missing"]["psnr"] and report["frames"] == 3
    assert report["controls"]["shuffled_source_psnr_outside"] is not None, "with the next clip that can be read"
    clips = DataFolder(data, (64,), 32)
    assert torch.equal(clips[2].keyframe, picture(0, 64, shown=False).movedim(-1, 0) / 255)
    for name in ("a", "single"):
        (data / "original_videos" / name / "0.png").write_bytes(b"none")
    assert evaluate.main([*map(str, options), "--cache", "none"]) == 2
    assert "Expected at least one clip that can be read, got 4 that cannot" in capsys.readouterr().err
    assert evaluate.main([*map(str, options), "--cache", "none", "--resolution", "72"]) == 2
    assert "multiples of 32 for this base, got 72" in capsys.readouterr().err, "no fault of the clips"


def test_parts_of_another_aspect_are_not_squeezed_into_the_sources(tmp_path):
    data = tmp_path / "data"
    for name, target, mask in (("a", 3, 3), ("b", 1, 0), ("c", 3, 1), ("d", 0, 0)):
        folder(data, name, target=target, mask=mask)
    clips, wide = DataFolder(data, (64,), 32), torch.zeros(48, 64, 3, dtype=torch.uint8)
    assert [clip.name for clip in clips] == ["a", "b", "c"]
    files = {"a": data / "masks" / "a", "b": data / "edited_videos" / "b", "d": data / "keyframes"}
    for path in files.values():
        for t in range(3 if path.name == "a" else 1):
            write_image(path / ("d.png" if path.name == "keyframes" else f"{t}.png"), wide)
    write_image(data / "masks" / "c" / "0.png", wide)  # it is left out
    clips = DataFolder(data, (64,), 32)
    for index, expected in ((0, "masks.a"), (1, "edited_videos.b"), (3, r"keyframes.d\.png")):
        with pytest.raises(GenPropError, match=rf"Expected .*{expected} of the source's .*\(64x64\), got 64x48"):
            clips[index]
    assert clips[2].mask is None
    report = run(tmp_path, "--data", data, "--resolution", 64, "--baselines", "none")
    assert set(report["skipped"]) == {"a", "b", "d"} and "without cropping it." in report["skipped"]["a"]


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


def test_folders_and_names_that_do_not_fit_are_refused(tmp_path, capsys):
    data = tmp_path / "data"
    folder(data, "a")
    with pytest.raises(GenPropError, match="edited first frame keyframes/NAME.png, got 1 clips of which none"):
        DataFolder(data, (64,), 32)
    assert evaluate.main(["--data", str(tmp_path / "nowhere"), "--cache", "none"]) == 2
    assert "Expected a folder" in capsys.readouterr().err
    assert evaluate.main(["--baselines", "telea,magic"]) == 2
    assert "got magic" in capsys.readouterr().err
    with pytest.raises(GenPropError, match="Expected a CLIP model in transformers' layout"):
        LearnedMetrics(tmp_path)
    (data / "prompts.csv").write_text("name\na\n")
    folder(data, "a", target=3)
    with pytest.raises(GenPropError, match="columns name and prompt"):
        DataFolder(data, (64,), 32)


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
