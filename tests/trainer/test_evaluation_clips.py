"""Data folders to be scored on, as far as they go: what is missing, damaged or does not fit."""

import pytest
import torch
from evaluation_folder import folder, picture, run

from genprop_core.errors import GenPropError
from genprop_core.video_io import write_image
from trainer import evaluate
from trainer.evaluation_clips import DataFolder
from trainer.learned_metrics import LearnedMetrics

pytestmark = pytest.mark.usefixtures("nothing_cached")


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
