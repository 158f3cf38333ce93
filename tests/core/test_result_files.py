"""What stands in the output folder, read from its files: a stand-in for the model makes the clips."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from stand_in import StandInPipeline, clip, edited
from video_clips import tone

from genprop_core import cli, propagate, result_files, video_io, video_write
from genprop_core.audio_track import SoundError
from genprop_core.compositing import alpha
from genprop_core.video_io import read_video, write_image


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(source path, *options, **of the stand-in): the output folder, and what was said (on stderr, if `fails`)."""

    def with_files(source, *options, fails=False, **of_the_model):
        monkeypatch.setattr(propagate, "load_model", lambda arguments, device: StandInPipeline(**of_the_model))
        write_image(tmp_path / "key.png", (edited(clip(10)) * 255).round().byte().movedim(0, -1))
        given = ["--source", source, "--keyframe", tmp_path / "key.png", "--out", tmp_path / "out", *options]
        assert cli.main(["propagate", *map(str, given)]) == (2 if fails else 0)
        return tmp_path / "out", capsys.readouterr()[fails]

    return with_files


def write_source(path, late=0):
    """The stand-in's clip without loss, at 24 frames a second; `late`: ticks that its second half comes later."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264rgb", rate=24, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "rgb24"
        for index, image in enumerate(clip(10).movedim(1, -1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index + late * (index > 4), Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_keyframe_of_another_size_is_resized_and_that_is_said(tmp_path, monkeypatch, capsys, size):
    monkeypatch.setattr(propagate, "load_model", lambda arguments, device: StandInPipeline())
    source, key = write_source(tmp_path / "source.mkv"), edited(clip(10))
    key = torch.nn.functional.interpolate(key[None], (size, size))[0]
    write_image(tmp_path / "key.png", (key * 255).round().byte().movedim(0, -1))
    given = ["--source", source, "--keyframe", tmp_path / "key.png", "--out", tmp_path / "out"]
    assert cli.main(["propagate", *map(str, given)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("keyframe")]
    assert told == ([] if size == 64 else [f"keyframe {size}x{size} resized to the source's size"])
    assert read_video(tmp_path / "out" / "result.mp4").frames.shape == (10, 64, 64, 3)


def test_uneven_timing_is_told_and_even_is_not(run, tmp_path):
    out, said = run(write_source(tmp_path / "even.mkv"))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["steps"] == 25 and metrics["settings"]["max_cfg"] == 3  # the base's own
    assert metrics["uneven_timing"] is False and "unequal" not in said + str(metrics["notes"])
    out, said = run(write_source(tmp_path / "uneven.mkv", late=12))
    metrics = json.loads((out / "metrics.json").read_text())
    told = [line for line in said.splitlines() if "shown for unequal times" in line]
    assert metrics["uneven_timing"] is True and told == metrics["notes"][:1] and len(told) == 1
    rate = read_video(out / "result.mp4").fps
    assert f"{float(rate):.5g} a second" in told[0] and float(rate) == pytest.approx(240 / 22, rel=0.01)


def test_a_clip_whose_sound_fails_is_kept_without_it_and_that_is_said(run, tmp_path, monkeypatch):
    def fails(output, path):
        raise SoundError("Expected a whole audio track.")

    monkeypatch.setattr(video_write, "AudioTrack", fails)
    out, said = run(tone(tmp_path / "source.mp4", "aac", video=read_video(write_source(tmp_path / "s.mkv")).frames))
    notes = json.loads((out / "metrics.json").read_text())["notes"]
    assert notes[-1] == "the result has no sound: Expected a whole audio track." and said.count(notes[-1]) == 1
    assert len(read_video(out / "result.mp4").frames) == 10


def test_without_a_mask_there_is_neither_mask_nor_overlay(run, tmp_path):
    out, _ = run(write_source(tmp_path / "source.mkv"), mask=False)
    assert sorted(p.name for p in out.iterdir()) == ["comparison.png", "confidence.png", "metrics.json", "result.mp4"]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("stuck", ["comparison.png", "metrics.json", "result.mp4", None])
def test_files_that_cannot_be_written_leave_the_earlier_ones_alone(run, tmp_path, monkeypatch, stuck, again):
    source, replace = write_source(tmp_path / "source.mkv"), result_files.os.replace
    before = {p.name: p.read_bytes() for p in run(source)[0].iterdir()} if again else {}

    def blocked(made, target):
        if stuck and target == tmp_path / "out" / stuck and ".making-" in str(made):
            raise PermissionError(13, "Permission denied")
        replace(made, target)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_files.os, "replace", blocked)
    if stuck is None:
        monkeypatch.setattr(result_files.tempfile, "mkdtemp", full)
    out, said = run(source, "--seed", 1, "--grow", 9, fails=True)
    last = said.splitlines()[-1]
    assert said.count("error: ") == 1 and last.startswith(f"error: Expected to write the result to {out}, but that fai")
    assert ("No space left" if stuck is None else "Permission denied") in last and "choose another --out" in last
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    kept = [p for p in out.iterdir() if p.is_dir()]
    if stuck is None:
        assert not kept
    else:  # what took so long to make is not thrown away
        assert f"The new ones are in {kept[0]}: move them yourself." in last and len(kept) == 1
        names = {"comparison.png", "confidence.png", "mask.mp4", "metrics.json", "overlay.mp4", "result.mp4"}
        assert {p.name for p in kept[0].iterdir()} == names
        assert not again or (kept[0] / "metrics.json").read_bytes() != before["metrics.json"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    "option, name",
    [("--source", "result.mp4"), ("--mask", "mask.mp4"), ("--keyframe", "comparison.png"), ("--source", "")],
)
def test_what_is_read_is_not_replaced(run, tmp_path, monkeypatch, option, name):
    """The result of one run may be the source of the next, if that writes to another folder."""
    out, source = tmp_path / "out", write_source(tmp_path / "source.mkv")
    write_image(out / "0.png", clip(10)[0].movedim(0, -1))
    write_image(out / "1.png", clip(10)[1].movedim(0, -1))
    if option == "--source" and name:
        shutil.copy(source, out / name)
    elif name:
        write_image(out / "comparison.png", clip(10)[0].movedim(0, -1))
        shutil.copy(source, out / "mask.mp4")
    monkeypatch.setattr(video_io, "decode", lambda path: pytest.fail("the clip was read"))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    spelled = tmp_path / "folder" / ".." / "out" / name
    (tmp_path / "folder").mkdir()
    _, said = run(source, option, spelled, fails=True)
    assert "to leave what is read alone" in said and option in said and "Choose another --out." in said
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_lossless_result_is_the_sources_own_outside_the_mask(run, tmp_path):
    source = read_video(write_source(tmp_path / "source.mkv")).frames.movedim(-1, 1)

    def outside(*options):
        """(largest difference to the source outside the feathered mask, by the files; share that is outside)."""
        out, _ = run(tmp_path / "source.mkv", "--grow", 2, "--feather", 3, *options, drift=0.05)
        result, mask = (read_video(out / name).frames.movedim(-1, 1) for name in ("result.mp4", "mask.mp4"))
        far = (alpha(mask[:, :1], 2, 3) == 0).expand_as(source)
        difference = (result.int() - source.int()).abs()
        assert difference[~far].float().mean() > 20, "and inside the edit is there"
        return int(difference[far].max()), float(far.float().mean())

    largest, share = outside("--lossless")
    assert largest == 0 and 0.3 < share < 0.95, "there is a mask, and it is not all of the frame"
    assert outside("--lossless", "on", "--composite", "off")[0] > 5, "the model alone would change it"
    assert outside("--lossless", "off")[0] > 0, "and so does H.264"
