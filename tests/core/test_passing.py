"""Pixels followed through the mask: what comes from outside is kept, what was removed and its shadow are not."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stand_in import StandIn

from genprop_core.assets import SAMPLE
from genprop_core.frames import as_bytes, as_float
from genprop_core.images import read_image
from genprop_core.long_clip import ClipSettings, propagate_clip
from genprop_core.next_keyframe import NextKeyframe
from genprop_core.passing import BRIGHTNESS, REMOVED, Passing, edited
from genprop_core.video_io import read_video

SIZE, FRAMES, SPEED = 128, 16, 4
HOLE = (slice(40, 88), slice(48, 96))  # where the thing to be removed stands; its shadow reaches 8 pixels further
PASSER, LONG = slice(52, 76), 24
NOWHERE = torch.zeros(SIZE, SIZE, dtype=torch.bool)


def texture(seed, height, width, low, high):
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(low + (high - low) * smooth).movedim(-1, 0)


def columns(frame):
    """Of the passer in a frame, but for its rims."""
    return slice(4 + SPEED * frame, SPEED * frame + LONG - 4)


def scene(shadow=1.0):
    """(source, target) [T,3,H,W]: a red thing with a shadow to its right, and a bright one that passes before it."""
    behind, passer = texture(0, SIZE, SIZE, 0.4, 0.6), texture(1, LONG, LONG, 0.6, 1.0)
    target, source = behind.repeat(FRAMES, 1, 1, 1), behind.repeat(FRAMES, 1, 1, 1)
    source[:, :, HOLE[0], 96:104] *= shadow
    source[:, :, HOLE[0], HOLE[1]] = torch.tensor([0.8, 0.1, 0.1]).view(3, 1, 1)
    for t in range(FRAMES):
        for picture in (source, target):
            picture[t, :, PASSER, SPEED * t : SPEED * t + LONG] = passer
    return source, target


def region(grow=0):
    out = NOWHERE.clone()
    out[40 - grow : 88 + grow, 48 - grow : 104 + grow] = True
    return out


def followed(source, edited, frames=FRAMES, mask=None, may_be=None):
    passing = Passing(source[0], edited)
    for t in range(1, frames):
        passing.advance(source[t], region() if mask is None else mask, region(8) if may_be is None else may_be)
    return passing.kept()


def test_what_passes_is_kept_and_what_it_passes_is_not():
    source, target = scene(shadow=0.7)
    before = source.clone()
    kept = followed(source, target[0])
    assert kept.shape == (1, SIZE, SIZE) and kept.dtype == torch.float32
    assert kept[0, 56:72, columns(FRAMES - 1)].mean() > 0.9, "the passer, which is within the mask by now"
    assert kept[0, 42:48, 52:92].max() < 0.1 and kept[0, 80:86, 52:92].max() < 0.1, "the red thing around it"
    assert kept[0, 44:84, 98:102].max() < 0.1, "its shadow"
    assert kept[0, :24].min() == 1 and kept[0, :, :32].min() == 1, "beyond the region"
    assert torch.equal(source, before)


def test_what_was_removed_is_not_kept_where_the_mask_has_lost_it():
    source, target = scene()
    kept = followed(source, target[0], frames=4, mask=NOWHERE, may_be=NOWHERE)
    assert kept[0, 44:84, 52:92].mean() < 0.1
    assert followed(target, target[0], mask=NOWHERE, may_be=NOWHERE).min() == 1, "nothing was removed"


def test_only_what_was_kept_in_the_first_frame_or_outside_since_is_kept():
    source, target = scene()
    everywhere = ~NOWHERE
    assert followed(source, target[0], may_be=everywhere)[0, 56:72, columns(FRAMES - 1)].mean() > 0.9
    assert followed(source, 0 * target[0], may_be=everywhere).max() == 0, "all of the picture was edited"


def test_bytes_are_followed_as_floats_are():
    source, target = scene()
    bytes_ = followed(as_bytes(source), as_bytes(target[0]))
    assert torch.equal(bytes_, followed(as_float(as_bytes(source)), as_float(as_bytes(target[0]))))


class Faint(StandIn):
    """Knows the truth, but for the whole of the mask, which is made grey, passer and all."""

    def run(self, source, keyframe, **others):
        made, _ = super().run(source, keyframe, **others)
        made = source.clone()
        made[:, :, HOLE[0], 48:104] = 0.5
        mask = torch.zeros(len(source), 1, SIZE, SIZE)
        mask[:, :, HOLE[0], 48:104] = 1
        return made, F.avg_pool2d(mask, 8)


@pytest.mark.parametrize("passing", [True, False])
def test_a_window_starts_with_what_passes_as_the_source_has_it(passing):
    source, target = scene()
    source = torch.cat([source, source[-1:].expand(11, -1, -1, -1)])
    model, start = Faint(), 13
    settings = ClipSettings(window=14, overlap=1, find_shots=False, colour="off", passing=passing)
    propagate_clip(model, as_bytes(source), {0: as_bytes(target[0])}, settings)
    second = model.calls[1]
    assert torch.equal(second["source"], as_float(as_bytes(source[start:])))
    passer = (second["keyframe"] - source[start])[:, 56:72, columns(start)].abs().mean()
    assert (passer < 0.02) == passing
    assert (second["keyframe"][:, 42:46, 52:92] - 0.5).abs().max() < 0.02, "the red thing stays away"


def test_in_large_pictures_what_passes_is_kept_too():
    """Where things go far from frame to frame, too far for flow to see at that size."""
    scale, count = 6, 12
    source, target = (F.interpolate(of[:count], scale_factor=scale, mode="bilinear") for of in scene())
    mask = F.interpolate(region().float()[None, None], scale_factor=scale)
    made = torch.where(mask > 0, 0.5, source)
    view = SimpleNamespace(frames=lambda indices: source[list(indices)], mask=lambda indices, predicted: mask)
    at = SimpleNamespace(frames=made, mask=mask.expand(count, -1, -1, -1), has_mask=True)
    following = NextKeyframe(view, source[0], target[0], anchor=True, passing=True, behind=False)
    for t in range(1, count):
        following.advance(at, t, t, source[t])
    picture, last = following.picture(at, count - 1, count - 1), count - 1
    rows, there = slice(56 * scale, 72 * scale), columns(last)
    passer = (picture - source[last])[:, rows, slice(max(52, there.start) * scale, there.stop * scale)]
    assert passer.numel() and passer.abs().mean() < 0.02
    assert (picture[:, 42 * scale : 46 * scale, 52 * scale : 92 * scale] - 0.5).abs().max() < 0.02


def _colour_halved(frame):
    """[3,H,W] in [0,1] with the colour of a quarter of its pixels, as most film has it (4:2:0)."""
    luma = (frame * torch.tensor(BRIGHTNESS).view(3, 1, 1)).sum(0, keepdim=True)
    half = F.avg_pool2d((frame - luma)[None], 2)
    return (luma + F.interpolate(half, scale_factor=2, mode="bilinear")[0]).clamp(0, 1)


def _film(thing=True):
    """A bright green square that stays, and a blue one that is removed."""
    frame = torch.full((3, 96, 96), 0.4)
    frame[:, 11:31, 51:71] = torch.tensor([0.05, 0.9, 0.05]).view(3, 1, 1)
    if thing:
        frame[:, 51:71, 21:41] = torch.tensor([0.1, 0.2, 0.8]).view(3, 1, 1)
    return frame


def test_colour_that_is_out_of_place_at_a_rim_is_no_edit():
    source, keyframe = _colour_halved(_film()), _film(thing=False)
    assert (source - keyframe)[:, 9:33, 49:73].abs().mean(0).max() > 24 / 255, "as much as an edit"
    where = edited(source, keyframe)
    assert where[52:70, 22:40].all() and not where[:45].any()
    kind = Passing(source, keyframe).kind
    assert (kind[54:68, 24:38] == REMOVED).all() and not (kind[:45] == REMOVED).any()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_wire_is_an_edit_though_what_is_put_there_is_to_be_seen_beside_it(width):
    keyframe = torch.full((3, 96, 96), 0.6)
    source = keyframe.clone()
    source[:, :, 40 : 40 + width] = 0.1
    assert edited(source, keyframe)[:, 40 : 40 + width].all()


def test_the_samples_keyframe_differs_from_its_film_where_it_was_edited_alone():
    """It is drawn, not taken from the film."""
    source, mask = (read_video(SAMPLE / f"{name}.mp4").frames[0] for name in ("source", "mask"))
    source, mask, keyframe = (as_float(f.movedim(-1, 0)) for f in (source, mask, read_image(SAMPLE / "keyframe.png")))
    where = edited(source, keyframe)
    near = F.max_pool2d((mask[None, :1] > 0.5).float(), 9, 1, 4)[0, 0] > 0
    assert where.sum() > 300 and not (where & ~near).any()
