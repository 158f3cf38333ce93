"""The command line on the sample clip with the mini: its files, and one plain line for each kind of bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from genprop_core import assets, cli, device
from genprop_core.video_io import read_image, read_video, write_image, write_video

ROOT = Path(__file__).resolve().parents[2]
SOURCE, KEYFRAME = assets.SAMPLE / "source.mp4", assets.SAMPLE / "keyframe.png"


def arguments(out, **changes):
    values = {"source": SOURCE, "keyframe": KEYFRAME, "out": out, "steps": 2, **changes}
    pairs = [(k, one) for k, v in values.items() for one in (v if isinstance(v, list) else [v])]
    return ["propagate", *[str(x) for k, v in pairs for x in (f"--{k.replace('_', '-')}", v)]]


def test_propagate_writes_what_it_says(tmp_path):
    truth = {"truth": assets.SAMPLE / "truth.mp4", "truth_mask": assets.SAMPLE / "mask.mp4"}
    assert cli.main(arguments(tmp_path / "a", **truth)) == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "comparison.png", "confidence.png", "mask.mp4", "metrics.json", "overlay.mp4", "result.mp4",
    ]  # fmt: skip
    source, result = read_video(SOURCE), read_video(tmp_path / "a" / "result.mp4")
    assert result.frames.shape == source.frames.shape and result.fps == source.fps
    assert read_video(tmp_path / "a" / "mask.mp4").frames.shape == source.frames.shape
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert set(metrics["floors"]) == {"copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd"}
    # what the mini that ships is known to do, and nothing beside it does
    result, floors = metrics["result"], metrics["floors"]
    assert result["removed"] == 1 and result["psnr_outside"] > 28 and result["mask_iou"] > 0.7
    assert result["psnr_inside"] > floors["plain_svd"]["psnr_inside"] + 1 and floors["vae_round_trip"]["psnr"] > 25
    # every number can be traced: which checkpoint, which seed, which settings
    assert len(metrics["checkpoint"]) == 16 and metrics["seed"] == 0 and metrics["settings"]["steps"] == 2
    assert metrics["clips"] == 1 and metrics["frames"] == 8 and metrics["size"] == [128, 128]
    # the mask reaches over a part of another shape, where the keyframe is the film's own: that is no fault of the edit
    assert not any("than your keyframe" in note for note in metrics["notes"])
    assert len(metrics["confidence"]) == len(metrics["change_outside"]) == 8 and metrics["shots"] == [[0, 8]]


def test_the_same_seed_writes_the_same_frames_and_the_device_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "accelerator", lambda: None)
    for name, given, told in (("a", {}, ", as no accelerator that works was found"), ("b", {"device": "cpu"}, "")):
        assert cli.main(arguments(tmp_path / name, **given)) == 0
        assert f"running on cpu{told}\n" in capsys.readouterr().err
        assert json.loads((tmp_path / name / "metrics.json").read_text())["settings"]["device"] == "cpu"
    a, b = (read_video(tmp_path / n / "result.mp4").frames for n in ("a", "b"))
    assert torch.equal(a, b)


def test_a_clip_longer_than_the_window_keeps_every_frame(tmp_path, capsys):
    """Two keyframes, a shot without one, and a mask of the user's that tells where nothing may change."""
    frames = read_video(SOURCE).frames
    write_video(tmp_path / "long.mkv", torch.cat([frames, frames.flip(0)[:3], 255 - frames[:5]]), 8, lossless=True)
    mask = torch.zeros_like(frames[0])
    mask[40:90, 40:90] = 255
    write_image(tmp_path / "mask.png", mask)
    given = {"source": tmp_path / "long.mkv", "keyframe": [KEYFRAME, f"7:{KEYFRAME}"], "mask": tmp_path / "mask.png"}
    assert cli.main(arguments(tmp_path / "out", steps=1, grow=0, feather=2, **given)) == 0
    assert len(read_video(tmp_path / "out" / "result.mp4").frames) == 16
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["shots"] == [[0, 11], [11, 16]] and metrics["shots_without_keyframe"] == [[11, 16]]
    assert "frames 11-15 are a shot without a keyframe" in capsys.readouterr().out
    made, source = (read_video(p).frames.int() for p in (tmp_path / "out" / "result.mp4", given["source"]))
    changed = (made - source).abs()
    assert changed[:, :20].float().mean() < 3 and changed[:11, 50:80, 50:80].float().mean() > 3  # H.264 is not exact
    # what is replaced is shown on the source, tinted: grown as the result is, and nowhere else
    shown = read_video(tmp_path / "out" / "overlay.mp4").frames.int()
    assert shown.shape == source.shape and (shown - source).abs()[:, :20].float().mean() < 3
    tint = shown[:, 50:80, 50:80].float().mean((0, 1, 2)) - source[:, 50:80, 50:80].float().mean((0, 1, 2))
    assert tint[0] > 40 and tint[0] > tint[2] + 20 > tint[1] + 20


def _bad_cases(tmp):
    frames, key = read_video(SOURCE).frames, read_image(KEYFRAME)
    (tmp / "cut.mp4").write_bytes(SOURCE.read_bytes()[: SOURCE.stat().st_size // 2])
    (tmp / "empty.mp4").write_bytes(b"")
    write_video(tmp / "one.mp4", frames[:1], 8)
    write_image(tmp / "wide.png", key[:64])
    write_image(tmp / "small.png", key[::2, ::2])
    write_video(tmp / "masks.mp4", frames[:5], 8)
    (tmp / "text.safetensors").write_text("not a checkpoint")
    (tmp / "folder").mkdir()
    (tmp / "file").write_text("in the way")
    return {
        "missing video": ({"source": tmp / "no.mp4"}, "no.mp4"),
        "truncated video": ({"source": tmp / "cut.mp4"}, "cut.mp4"),
        "video without frames": ({"source": tmp / "empty.mp4"}, "empty.mp4"),
        "one frame": ({"source": tmp / "one.mp4"}, "2 frames"),
        "another aspect": ({"keyframe": tmp / "wide.png"}, r"aspect ratio \(128x128\), got 128x64"),
        "adapters not safetensors": ({"adapters": tmp / "text.safetensors"}, "cannot be read as one"),
        "adapters are a base": ({"adapters": assets.MINI_BASE}, "Expected GenProp adapters"),
        "base missing": ({"base": tmp / "nowhere", "adapters": assets.MINI_ADAPTERS}, "There is none"),
        "not an SVD folder": ({"base": tmp / "folder", "adapters": assets.MINI_ADAPTERS}, "folder"),
        "adapters needed": ({"base": assets.MINI_BASE}, "Expected an adapter file"),
        "size": ({"width": 100, "height": 100}, "multiples of 32 for this base, got 100 x 100"),
        "window": ({"window": 1}, "2 frames"),
        "steps": ({"steps": 0}, "--steps must be at least 1, got 0"),
        "no number": ({"noise-aug": "nan"}, "--noise-aug must be a number, got nan"),
        "no device": ({"device": "meta"}, "a device that torch can use here, got meta"),
        "keyframe outside the clip": ({"keyframe": f"8:{KEYFRAME}"}, "indices from 0 to 7 for this clip, got 8"),
        "two for one frame": ({"keyframe": [KEYFRAME, f"0:{KEYFRAME}"]}, "one keyframe for frame 0, got two"),
        "unequal keyframes": (
            {"keyframe": [KEYFRAME, f"4:{tmp / 'small.png'}"]},
            "one size, got 128x128 for frame 0, 64x64 for frame 4",
        ),
        "too few masks": ({"mask": tmp / "masks.mp4"}, "The mask has 5 frames, the video 8"),
        "mask of another aspect": ({"mask": tmp / "wide.png"}, r"mask of the source's aspect ratio \(128x128\)"),
        "overlap": ({"overlap": 8}, "overlap from 1 to 7 frames for a window of 8, got 8"),
        "half a truth": ({"truth": SOURCE}, "--truth and --truth-mask together"),
        "output is a file": ({"out": tmp / "file" / "out"}, "cannot be written"),
    }


CASES = (
    "missing video",
    "truncated video",
    "video without frames",
    "one frame",
    "another aspect",
    "adapters not safetensors",
    "adapters are a base",
    "base missing",
    "not an SVD folder",
    "adapters needed",
    "size",
    "window",
    "steps",
    "no number",
    "no device",
    "keyframe outside the clip",
    "two for one frame",
    "unequal keyframes",
    "too few masks",
    "mask of another aspect",
    "overlap",
    "half a truth",
    "output is a file",
)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_earlier_output_stays(name, tmp_path, capsys):
    import re

    changes, wanted = _bad_cases(tmp_path)[name]
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.mp4").write_text("earlier")
    assert cli.main(arguments(**{"out": out, **changes})) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(wanted, errors[0]), errors
    assert [p.name for p in out.iterdir()] == ["result.mp4"] and (out / "result.mp4").read_text() == "earlier"


def test_adapters_for_another_base_are_refused(tmp_path, capsys):
    from tiny import tiny_unet

    from genprop_core.adapters import GenPropAdapters
    from genprop_core.checkpoint import Fingerprint, save_adapters

    unet = tiny_unet()
    save_adapters(tmp_path / "a.safetensors", GenPropAdapters.from_unet(unet), Fingerprint.of_unet(unet), {})
    assert cli.main(arguments(tmp_path / "out", adapters=tmp_path / "a.safetensors")) == 2
    assert "made for a base with widths [32, 64, 64], this base has" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_is_one_line_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "genprop_core", *arguments(tmp_path / "out", steps=2000)]
    # a shell's background jobs ignore Ctrl-C, and so would the process it starts
    listen = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    try:
        for line in process.stderr:
            if "steps" in line:
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped: nothing was written" in rest and "Traceback" not in rest
    assert list((tmp_path / "out").iterdir()) == []
