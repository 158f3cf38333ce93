"""Filmed and unusual clips through the long-clip engine: length, rate and sound stay, and every pixel outside the mask
is the source's own. A stand-in for the model changes all of the picture, so that nothing is equal by chance.

The filmed clips are no part of the project: put them into ../shared/data beside the checkout, or their tests are
skipped.
"""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stand_in import StandIn

from genprop_core import cli, propagate
from genprop_core.backdrop import Backdrop
from genprop_core.behind import Behind, box_of
from genprop_core.compositing import alpha
from genprop_core.frames import as_bytes, as_float, resize
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.moving import Moving
from genprop_core.passing import picture_of
from genprop_core.tracking import Tracking
from genprop_core.video_io import probe, read_video, write_image, write_video

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
GROW, FEATHER = 4, 4


class Inverting(StandIn):
    """The negative of the source, and a mask where the stand-in finds one: here nowhere."""

    def run(self, source, keyframe, **given):
        _, mask = super().run(source, keyframe, **given)
        return 1 - source, mask


def clip(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def inpainted(frame, mask):
    """uint8 [3,H,W] without what the mask [1,H,W] covers, by OpenCV's Telea."""
    region = cv2.dilate(mask[0].numpy(), np.ones((9, 9), np.uint8))
    return torch.from_numpy(cv2.inpaint(frame.movedim(0, -1).numpy(), region, 5, cv2.INPAINT_TELEA)).movedim(-1, 0)


def check_untouched(source, result):
    """Frame by frame: nothing differs outside the feathered mask, and something does inside."""
    assert result.frames.shape == source.shape and result.frames.dtype == torch.uint8
    touched = False
    for before, after, mask in zip(source, result.frames, result.mask):
        outside = alpha(mask[None], GROW, FEATHER)[0, 0] == 0
        assert not ((after != before).any(0) & outside).any()
        touched = touched or bool((after.int() - before.int()).abs()[:, ~outside].gt(30).any())
    assert touched, "the mask is not empty, and the model's picture shows inside"


def test_the_rider_among_trees():
    source = read_video(clip("bmx-trees.mp4")).frames.movedim(-1, 1)
    mask = read_video(clip("bmx-trees_mask.mp4")).frames[..., 0][:, None]  # [T,1,H,W]
    settings = ClipSettings(size=(96, 160), grow=GROW, feather=FEATHER, composite=True, colour="off")
    keyframe = inpainted(source[0], (mask[0] > 127).byte())
    result = propagate_clip(Inverting(), source, {0: keyframe}, settings, mask)
    assert len(result.frames) == 80
    check_untouched(source, result)
    assert (as_float(result.mask) > 0.5).float().mean() > 0.01


def test_the_rider_is_followed_past_two_trees_that_hide_him():
    source = resize(as_float(read_video(clip("bmx-trees.mp4")).frames.movedim(-1, 1)), 128, 224)
    mask = resize(as_float(read_video(clip("bmx-trees_mask.mp4")).frames[..., :1].movedim(-1, 1)), 128, 224).round()
    keyframe = as_float(inpainted(as_bytes(source[0]), mask[0].byte()))
    moving = Moving.of_film(lambda index, part: picture_of(source[index])[part], (128, 224), range(len(source)))
    tracking = Tracking(source[0], keyframe, moving, 0)
    rider = F.avg_pool2d(mask, 8)
    for index, frame in enumerate(source[1:], 1):
        tracking.advance(frame, index)
        region = tracking.region()
        if index in (5, 20, 30, 45, 60, 70, 79):
            found = (region * rider[index]).sum() / rider[index].square().sum()
            elsewhere = (region * (F.max_pool2d(rider[index], 5, 1, 2) == 0)).mean()
            assert found > 0.75 and elsewhere < 0.02, f"frame {index}: {found:.2f} of him, {elsewhere:.3f} elsewhere"


def known(behind, edit, guesses):
    """(share of the edit that is known, the frame with it) at the frame that `behind` stands at."""
    filled, other = (behind.filled(guess) for guess in guesses)
    there = edit & ((filled - other).abs().amax(0) < 0.01)
    return float(there.sum() / edit.sum()), filled, there


def test_what_is_behind_a_thing_is_known_from_before_or_not_at_all():
    """A patch pasted onto two shots, so that what is behind it is known. The first is a pan past trees; in the second
    the camera turns after a car on snow, so fast that no one motion says where the picture went."""
    patch = read_video(clip("carphone_pristine.mp4")).frames.movedim(-1, 1)[:24, :, 32:112, 48:128]
    shares = []
    for name, part, top in (("bmx-trees.mp4", slice(0, 240), 20), ("running_car.mp4", slice(260, 540), 40)):
        truth = read_video(clip(name)).frames.movedim(-1, 1)[:24, :, part, :480]
        guesses, errors, found = torch.stack([torch.zeros(truth.shape[1:]), torch.ones(truth.shape[1:])]), [], []
        for t in range(24):
            edit, frame, left = torch.zeros(truth.shape[-2:], dtype=torch.bool), truth[t].clone(), 60 + 2 * t
            edit[top : top + 80, left : left + 80] = True
            frame[:, edit] = patch[t].flatten(1)
            if t == 0:
                behind = Behind(frame, edit)
                behind.take(truth[0], edit)
                continue
            behind.advance(frame, edit)
            share, filled, there = known(behind, edit, guesses)
            found.append(share)
            errors += [float((filled - as_float(truth[t]))[:, there].abs().mean() * 255)] * bool(share)
        assert all(error < 8 for error in errors), (name, errors)
        shares.append(sum(found) / len(found))
    assert shares[0] > 0.1 and shares[1] == 0, shares


def test_the_backdrop_of_a_pan_is_what_is_behind_a_thing():
    """A patch goes its own way past a wall; trees before it move otherwise, so that the mean error counts."""
    truth = read_video(clip("bmx-trees.mp4")).frames[:40].numpy()
    frames, edits = truth.copy(), np.zeros(truth.shape[:3], bool)
    for t in range(40):
        part = (t, slice(90, 150), slice(110 + 4 * t, 170 + 4 * t))
        frames[part], edits[part] = (230, 40, 90), True
    near = [cv2.dilate(e.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for e in edits]
    backdrop = Backdrop(lambda i, part: frames[i][part], lambda i: near[i], truth.shape[1:3], range(40))
    shares, errors = [], []
    for t in range(0, 40, 3):
        part = box_of(near[t])
        plate, known = backdrop.behind(t, near[t], part)
        shares.append(float(known.mean()))
        painted = cv2.inpaint(frames[t], near[t].astype(np.uint8), 5, cv2.INPAINT_TELEA)
        errors.append(
            [float(np.abs(p - truth[t][part])[known].mean()) for p in (plate, painted[part].astype(np.float32))]
        )
    plate, painted = np.array(errors).mean(0)
    assert np.mean(shares) > 0.8 and plate < 0.6 * painted, (shares, errors)


def test_most_of_what_is_behind_the_rider_was_seen_before():
    source = read_video(clip("bmx-trees.mp4")).frames.movedim(-1, 1)
    mask = read_video(clip("bmx-trees_mask.mp4")).frames[..., 0][:, None] > 127
    edit = alpha(mask.float(), 8, 0)[:, 0] > 0
    behind = Behind(source[0], edit[0])
    behind.take(inpainted(source[0], mask[0].byte()), edit[0])
    guesses, shares = torch.stack([torch.zeros(source.shape[1:]), torch.ones(source.shape[1:])]), []
    for t in range(1, 30):
        behind.advance(source[t], edit[t])
        shares.append(known(behind, mask[t, 0], guesses)[0])
    assert sum(shares) / len(shares) > 0.5, shares


def test_the_car_in_a_region_keeps_its_length_rate_and_sound(tmp_path):
    path = clip("running_car.mp4")
    before, video = probe(path), read_video(path)
    source = video.frames.movedim(-1, 1)
    mask = torch.zeros(1, 1, 540, 972)
    mask[..., 200:340, 300:620] = 1
    keyframe = inpainted(source[0], mask[0].byte())
    settings = ClipSettings(size=(64, 128), grow=GROW, feather=FEATHER, composite=True, crop="auto", find_shots=False)
    result = propagate_clip(Inverting(), source, {0: keyframe}, replace(settings, colour="off"), mask)
    assert result.region is not None and result.region.size[0] < 400, "only a part of the frame went to the model"
    check_untouched(source, result)
    write_video(tmp_path / "result.mp4", result.frames.movedim(1, -1), video.fps, audio_from=video.audio_path)
    after = probe(tmp_path / "result.mp4")
    assert (after.frames, after.width, after.height, after.fps) == (292, 972, 540, before.fps) and after.has_audio
    sounds = []
    for file in (path, tmp_path / "result.mp4"):
        with av.open(str(file)) as container:
            sounds.append([bytes(packet) for packet in container.demux(audio=0) if packet.size])
    assert sounds[0] == sounds[1], "the sound is copied, packet by packet"


UNUSUAL = {
    "ten bits, odd": ("a.mp4", "libx264", "yuv444p10le", 47, 65),
    "alpha": ("b.mov", "png", "rgba", 48, 64),
    "grey, odd": ("c.mkv", "ffv1", "gray", 33, 51),
    "uneven times": ("d.mkv", "libx264", "yuv420p", 48, 64),
}


def unusual(folder, kind):
    """A noisy clip of 9 frames; the fifth of "uneven times" stays for half a second."""
    name, codec, pixels, height, width = UNUSUAL[kind]
    frames = np.random.default_rng(0).integers(0, 256, (9, height, width, 3), np.uint8)
    with av.open(str(folder / name), "w") as output:
        stream = output.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + 12 * (index > 4) * (kind == "uneven times"), Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return folder / name


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_videos_come_back_as_long_as_large_and_untouched(tmp_path, kind):
    path = unusual(tmp_path, kind)
    video, before = read_video(path), probe(path)
    source = video.frames.movedim(-1, 1)
    mask = torch.zeros(1, 1, *source.shape[-2:])
    mask[..., 10:20, 10:20] = 1
    settings = ClipSettings(grow=GROW, feather=FEATHER, composite=True, colour="off", find_shots=False)
    result = propagate_clip(Inverting(), source, {0: inpainted(source[0], mask[0].byte())}, settings, mask)
    check_untouched(source, result)
    write_video(tmp_path / "out.mkv", result.frames.movedim(1, -1), video.fps, lossless=True)
    after = probe(tmp_path / "out.mkv")
    assert (after.frames, after.width, after.height) == (9, before.width, before.height)
    assert float(after.fps) == pytest.approx(float(before.fps), rel=0.01)
    assert torch.equal(read_video(tmp_path / "out.mkv").frames.movedim(-1, 1), result.frames)


def test_a_clip_that_changes_size_or_ends_early_stops_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(propagate, "load_model", lambda arguments, device: pytest.fail("the model was loaded"))
    whole = unusual(tmp_path, "uneven times")
    (tmp_path / "early.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for index, size in enumerate([(48, 64), (48, 64), (32, 64)]):
        write_image(tmp_path / "folder" / f"{index}.png", torch.zeros(*size, 3, dtype=torch.uint8))
    write_image(tmp_path / "key.png", torch.zeros(48, 64, 3, dtype=torch.uint8))
    for name, words in (("early.mkv", "breaks off after"), ("folder", "frame 2 of .* is 64x32")):
        given = {"--source": tmp_path / name, "--keyframe": tmp_path / "key.png", "--out": tmp_path / "out"}
        assert cli.main(["propagate", *[str(part) for pair in given.items() for part in pair]]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and re.search(words, errors[0])
