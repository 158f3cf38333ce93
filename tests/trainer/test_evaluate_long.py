"""Long clips measured, with a stand-in for the model: the right frames are compared; the page says what came out."""

import json
import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from genprop_core.base import Defaults
from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.video_io import write_image, write_video
from trainer import evaluate_long, long_scores, long_sources, long_tables
from trainer.long_sources import Generated


class Perfect:
    """Makes the truth of the clip it is asked for, `worse` darker a frame; the mask is the true one."""

    default_frames, size_multiple = 8, 32
    file = SimpleNamespace(digest="0123456789abcdef")
    base = SimpleNamespace(parts=lambda: (), defaults=Defaults(num_frames=8, steps=8, max_cfg=1.0), size_multiple=32)
    resolved, working_size = GenProp.resolved, GenProp.working_size

    def __init__(self, worse=0.0):
        self.worse, self.runs = worse, 0

    def propagate_clip(self, frames, keyframes, settings, mask):
        self.runs, self.given = self.runs + 1, mask
        self.asked, self.sampler = (sorted(keyframes), settings.clip), settings.sampler
        clip = long_sources.make_clip(settings.seed, len(frames), frames.shape[-1])
        fade = self.worse * torch.arange(len(frames)).view(-1, 1, 1, 1)
        truth = (clip.target - fade).clamp(0, 1)
        quick = ClipSettings(find_shots=False, colour="off", passing=False, behind=False, look_ahead=False)
        result = propagate_clip(Still(), frames, keyframes, replace(quick, overlap=settings.clip.overlap))
        result.frames, result.mask = (truth * 255).round().byte(), (clip.mask * 255).byte()
        result.confidence = 1 - fade.flatten()
        return result


class Still:
    default_frames, size_multiple, removes = 8, 32, True

    def run(self, source, keyframe, *, noise, region=None, guided=True, progress=None):
        return source, torch.full((len(source), 1, source.shape[2] // 8, source.shape[3] // 8), 0.9)


def measure(model, frames, name):
    clip = Generated(1, frames).draw("1000000003", long_scores.VARIANTS[name][1])
    return long_scores.measure(model, clip, name, PropagateSettings())


@pytest.fixture
def perfect(monkeypatch):
    made = Perfect()
    monkeypatch.setattr(GenProp, "from_files", lambda *a, **k: made)
    monkeypatch.setattr(long_sources, "make_clip", cache(long_sources.make_clip))  # drawing one takes seconds
    return made


def test_a_perfect_result_scores_as_one_and_is_not_measured_twice(perfect, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{long_tables.FIRST}\nold\n{long_tables.LAST}\nbelow\n")
    arguments = ["--clips", "1", "--frames", "16", "--variants", "as it is", "two keyframes", "large frame",
                 "--json", str(tmp_path / "long.json"), "--markdown", str(page)]  # fmt: skip
    assert evaluate_long.main(arguments) == 0 and perfect.runs == 3
    report = json.loads((tmp_path / "long.json").read_text())
    row = next(iter(report["variants"]["as it is"].values()))
    assert row["psnr_outside"] > 55 and row["psnr_inside"] > 55 and row["mask_iou"] == 1 and row["windows"] == 3
    assert report["checkpoint"] == Perfect.file.digest and report["frames"] == 16
    assert report["steps"] == 8 and report["max_cfg"] == 1 and perfect.sampler.max_cfg == 1
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert "| PSNR outside, last window minus first (dB) |" in text and "| large frame |" in text
    assert evaluate_long.main(arguments) == 0 and perfect.runs == 3  # all of it was kept
    more = [*arguments, "--variants", "guidance 1 to 3 in every window"]
    assert evaluate_long.main(more) == 0 and perfect.sampler.max_cfg == 3 and perfect.asked[1].guide_later
    report = json.loads((tmp_path / "long.json").read_text())  # what was measured before is still there, in order
    assert list(report["variants"]) == ["as it is", "two keyframes", "guidance 1 to 3 in every window", "large frame"]
    assert evaluate_long.main(arguments) == 0 and perfect.runs == 4
    assert evaluate_long.main([*arguments, "--seed", "9"]) == 0 and perfect.runs == 7
    report = json.loads((tmp_path / "long.json").read_text())  # with other settings it is not
    assert list(report["variants"]) == ["as it is", "two keyframes", "large frame"]


def test_drift_is_seen_and_confidence_judged(perfect):
    perfect.worse = 0.02
    row = measure(perfect, 24, "as it is")
    assert row["outside_last_window"] < row["outside_first_window"] - 6
    assert row["colour_drift"] > 20 and row["told_apart"] > 0.9
    report = {"frames": 24, "window": 8, "variants": {"as it is": {"1": row}}}
    kept = {what: holds for what, _, _, holds in long_tables.promises(report)}
    assert kept["PSNR outside, last window minus first (dB)"] is False
    assert kept["rank correlation of confidence and quality"] is True


def test_equal_frames_share_their_rank():
    ranks = long_scores.ranks(torch.tensor([0.9, 1.0, 0.2, 0.9, 0.9]))
    assert ranks.tolist() == [2, 4, 0, 2, 2]
    made = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]).view(-1, 1, 1, 1)

    def told_apart(confidence):
        result = SimpleNamespace(confidence=torch.tensor(confidence))
        return long_scores.told_apart(result, made + errors, made, torch.ones(6, 1, 16, 16))

    assert told_apart([1.0] * 6) is None, "ranks of nothing say nothing"
    assert told_apart([0.6, 0.5, 0.4, 0.3, 0.2, 0.1]) == pytest.approx(1)
    # two levels in the wrong order and the right one: the same size, whatever the frames' order
    wrong, right = told_apart([0.5] * 3 + [1.0] * 3), told_apart([1.0] * 3 + [0.5] * 3)
    assert right == pytest.approx(-wrong) and right == pytest.approx(27**0.5 / 35**0.5)


def test_inner_keyframes_are_measured_with_both_ends_edited(perfect):
    measure(perfect, 24, "inner keyframes")
    keyframes, settings = perfect.asked
    assert keyframes == [0, 23] and settings.inner_keyframes
    measure(perfect, 24, "two keyframes")
    assert perfect.asked[0] == [0, 23] and not perfect.asked[1].inner_keyframes
    measure(perfect, 24, "two keyframes, clean plate")
    assert perfect.asked[0] == [0, 23] and perfect.asked[1].clean_plate


def test_one_variant_alone_is_given_the_true_masks(perfect):
    for name in long_scores.VARIANTS:
        measure(perfect, 16, name)
        assert (perfect.given is not None) == (name == "mask of every frame"), name
        if perfect.given is not None:
            truth = long_sources.make_clip(1_000_000_003, 16).mask
            assert torch.equal(perfect.given, (truth * 255).byte())


def test_the_table_compares_the_same_clips():
    row = dict.fromkeys((*long_tables.COLUMNS, "outside_first_window", "outside_last_window", "inside_at_8",
                         "inside_at_end", *long_tables.HALVES, "told_apart"), 30.0)  # fmt: skip
    better = {**row, "psnr_outside": 31.0, "second_half": 33.0, "second_half_composited": 34.0}
    about = {"base": "mini", "clips": "clips", "frames": 64, "window": 8, "checkpoint": "c"}
    sampled = {"steps": 25, "max_cfg": 3.0, "solver": "euler", "seed": 0}
    report = {**about, **sampled, "variants": {
        "as it is": {"1": row, "2": {**row, "psnr_outside": 10.0}}, "two keyframes": {"1": better}}}  # fmt: skip
    text = long_tables.markdown(report)
    assert "31.00 (+1.00)" in text and "| 20.00 |" in text
    assert "| second half, two keyframes minus one (dB) | 3.00 | at least 1 | reached |" in text
    assert "| second half composited, two keyframes minus one (dB) | 4.00 | - | - |" in text
    assert "with the clean plate" not in text
    report["variants"] |= {"clean plate": {"1": better}, "two keyframes, clean plate": {"1": better}}
    text = long_tables.markdown(report)
    assert "with the clean plate, two keyframes minus one (dB) | 0.00 | at least 1 | **not reached** |" in text
    assert "| second half, with the clean plate, two keyframes minus one (dB) | 0.00 | - | - |" in text
    report["variants"]["a keyframe in every window"] = {"2": {**row, "inside_at_end": 40.0}}
    report["variants"]["two keyframes"]["1"]["second_half_inside"] = None  # out of sight
    text = long_tables.markdown(report)
    assert "that with a keyframe in every window | 0.75 | - | - |" in text
    assert "| second half inside, two keyframes minus one (dB) | - | - | - |" in text


def test_one_variant_has_a_keyframe_in_every_window(perfect):
    measure(perfect, 24, "a keyframe in every window")
    assert perfect.asked[0] == [0, 6, 12, 18]


def test_what_cannot_be_measured_is_refused(tmp_path, capsys):
    assert evaluate_long.main(["--frames", "8"]) == 2 and "of 16 frames, got 16 of 8" in capsys.readouterr().err
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(GenPropError, match="once each"):
        long_tables.put_into(tmp_path / "page.md", "x")


def test_every_row_is_held_against_the_one_it_differs_from_in_one_thing():
    against = {name: long_tables._compared_with(name) for name in long_scores.VARIANTS}
    assert against["two keyframes"] == "as it is" and against["inner keyframes"] == "two keyframes"
    assert against["large frame, crop"] == "large frame" and against["two keyframes, clean plate"] == "clean plate"


def film(folder, parts=("original_videos", "edited_videos", "masks"), frames=20, cut=12):
    """A data folder with one clip of two shots: a square on a ground, and on another one; without it in the truth."""
    ground = torch.full((frames, 64, 64, 3), 90, dtype=torch.uint8)
    ground[cut:] = torch.tensor([200, 160, 40], dtype=torch.uint8)
    ground[:, ::8] += 30
    source, mask = ground.clone(), torch.zeros_like(ground)
    source[:, 16:40, 16:40], mask[:, 16:40, 16:40] = torch.tensor([250, 0, 0], dtype=torch.uint8), 255
    for part, made in zip(("original_videos", "edited_videos", "masks"), (source, ground, mask)):
        if part in parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
            write_video(folder / part / "one.mp4", made.numpy(), 24, lossless=True)
    (folder / "tasks.csv").write_text("name,task\none,edit\n")
    return source, ground, mask


class Keyframed(Perfect):
    """Every frame is the keyframe of its shot, which is the truth here."""

    def propagate_clip(self, frames, keyframes, settings, mask):
        self.runs, self.given, self.asked = self.runs + 1, settings, sorted(keyframes)
        quick = ClipSettings(find_shots=settings.clip.find_shots, colour="off", look_ahead=False)
        result = propagate_clip(Still(), frames, keyframes, quick)
        result.frames = torch.stack([keyframes[max(k for k in keyframes if k <= t)] for t in range(len(frames))])
        return result


def test_film_is_measured_with_a_keyframe_in_every_shot(monkeypatch, tmp_path, capsys):
    made = Keyframed()
    monkeypatch.setattr(GenProp, "from_files", lambda *a, **k: made)
    film(tmp_path / "film")
    arguments = ["--data", str(tmp_path / "film"), "--variants", "as it is", "two keyframes", "--json",
                 str(tmp_path / "film.json"), "--width", "32", "--height", "64"]  # fmt: skip
    assert evaluate_long.main(arguments) == 0
    assert made.asked == [0, 11, 12, 19] and made.given.task == "edit" and made.given.clip.find_shots
    assert (made.given.width, made.given.height) == (32, 64)
    report = json.loads((tmp_path / "film.json").read_text())
    row = report["variants"]["as it is"]["one"]
    assert row["psnr_inside"] > 50 and row["psnr_outside"] > 50 and "Base mini, adapters" in capsys.readouterr().out
    assert evaluate_long.main(arguments) == 0 and made.runs == 2, "kept"
    film(tmp_path / "film", cut=13)
    assert evaluate_long.main(arguments) == 0 and made.runs == 4 and made.asked == [0, 12, 13, 19], "another clip now"
    assert evaluate_long.main([*arguments, "--variants", "large frame"]) == 2
    assert re.search("as they are with --data, got large frame.*Leave them out", capsys.readouterr().err)


def test_film_may_be_folders_of_pictures_and_what_is_cut_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(GenProp, "from_files", lambda *a, **k: Keyframed())
    source, *_ = film(tmp_path)
    (tmp_path / "original_videos" / "one.mp4").unlink()
    (tmp_path / "original_videos" / "one").mkdir()
    for t, frame in enumerate(source[:18]):
        write_image(tmp_path / "original_videos" / "one" / f"{t:03}.png", frame.numpy())
    size = ["--width", "32", "--height", "64"]
    assert evaluate_long.main(["--data", str(tmp_path), "--variants", "as it is", *size]) == 0
    assert re.search(r"parts of unequal length \(.*\) were cut to 18", capsys.readouterr().err)


def test_film_without_a_truth_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(GenProp, "from_files", lambda *a, **k: Keyframed())
    film(tmp_path / "unmasked", ("original_videos", "edited_videos"))
    assert evaluate_long.main(["--data", str(tmp_path / "unmasked")]) == 2
    assert re.search("masks of one with at least 16 frames, got 20 frames .* no masks", capsys.readouterr().err)
    film(tmp_path / "short", frames=10, cut=5)
    assert evaluate_long.main(["--data", str(tmp_path / "short")]) == 2
    assert re.search("at least 16 frames, got 10 frames with an edited video and masks", capsys.readouterr().err)
    assert evaluate_long.main(["--data", str(tmp_path / "short"), "--width", "64"]) == 2
    assert "--width and --height together" in capsys.readouterr().err
    assert evaluate_long.main(["--task", "remove", "--width", "64"]) == 2
    assert re.search("--task, --width with --data alone", capsys.readouterr().err)
    assert evaluate_long.main(["--data", str(tmp_path / "short"), "--task", "remove"]) == 2
    assert re.search("clips of the task remove in .*, got edit. Give another --task", capsys.readouterr().err)


@pytest.mark.parametrize("options, wanted", [([], "."), (["--data", "x"], ", or a smaller --width and --height.")])
def test_running_out_of_memory_names_what_the_command_has(options, wanted, monkeypatch, capsys):
    from genprop_core.out_of_memory import OutOfMemory

    def fail(*_):
        raise OutOfMemory("Expected more.", ("dtype", "offload", "window", "size"))

    monkeypatch.setattr(evaluate_long, "run", fail)
    assert evaluate_long.main(options) == 2
    assert capsys.readouterr().err == f"error: Expected more. Use --dtype bf16 or fp16{wanted}\n"
