"""Borders that follow the picture, flicker and holes gone, and inputs left alone."""

import pytest
import torch
import torch.nn.functional as F

from genprop_core import metrics
from genprop_core.conditioning import mask_to_latents
from genprop_core.mask_refine import close_holes, overlay, steady, upsample
from genprop_core.overlay_picture import overlay_picture


def scene(frames=5, height=120, width=168):
    """A slanted bar of another colour that moves over a soft background, uint8, and its exact mask."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    mask = torch.stack([((x - 0.6 * y - 30 - 3 * t).abs() < 16) & (y > 17) & (y < 95) for t in range(frames)])
    mask = mask[:, None].float()
    background = torch.stack([x / width, y / height, 1 - x / width]) * 0.5
    picture = torch.where(mask > 0, torch.tensor([0.9, 0.6, 0.2]).view(3, 1, 1), background)
    noise = 0.02 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return ((picture + noise).clamp(0, 1) * 255).round().to(torch.uint8), mask


def test_the_border_follows_the_picture():
    frames, mask = scene()
    latent = mask_to_latents(mask)
    plain = F.interpolate(latent, mask.shape[-2:], mode="bilinear")
    found = upsample(latent, frames)
    assert found.shape == mask.shape and found.dtype == torch.float32 and 0 <= found.min() and found.max() <= 1
    assert metrics.iou(found, mask) > max(0.97, metrics.iou(plain, mask) + 0.02)
    assert torch.allclose(upsample(latent, frames.float() / 255), found, atol=1e-6)
    one = upsample(latent[2:3], frames[2:3])
    assert torch.allclose(one, found[2:3], atol=1e-6), "frames can come in parts"


@pytest.mark.parametrize("height, width", [(37, 51), (64, 64), (8, 8), (270, 121)])
def test_any_size_and_a_plain_picture(height, width):
    latent = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    found = upsample(latent, torch.full((2, 3, height, width), 90, dtype=torch.uint8))
    assert found.shape == (2, 1, height, width) and found.isfinite().all()
    for value in (0.0, 1.0):
        same = upsample(torch.full((1, 1, 5, 7), value), torch.rand(1, 3, height, width))
        assert torch.allclose(same, torch.full_like(same, value), atol=1e-4)


def test_a_frame_that_drops_out_is_put_right_and_motion_keeps_its_border():
    mask = torch.zeros(7, 1, 6, 20)
    for t in range(7):
        mask[t, :, 1:5, 2 + t : 8 + t] = 1
    broken = mask.clone()
    broken[3] = 0
    broken[5, :, 0, 0] = 1
    kept = broken.clone()
    assert torch.equal(steady(mask), mask), "an edge that moves passes unchanged"
    found = steady(broken)
    assert (found[3] - mask[3]).abs().sum() <= 8 < mask[3].sum(), "all but the two columns that only frame 3 covers"
    assert found[5, 0, 0, 0] == 0
    assert torch.equal(broken, kept) and torch.equal(steady(mask[:1]), mask[:1])


def test_holes_are_filled_and_larger_or_open_gaps_kept():
    mask = torch.zeros(2, 1, 100, 100)
    mask[:, :, 10:90, 10:90] = 0.8
    mask[0, :, 20:30, 20:30] = 0.1  # 100 pixels, 1%
    mask[0, :, 40:70, 40:70] = 0.1  # 9%
    mask[1, :, 0:20, 50:52] = 0.2  # open to the outside
    kept = mask.clone()
    found = close_holes(mask)
    assert found[0, 0, 20:30, 20:30].eq(1).all() and torch.equal(mask, kept)
    found[0, 0, 20:30, 20:30] = 0.1
    assert torch.equal(found, mask)
    assert torch.equal(close_holes(torch.zeros(1, 1, 9, 9)), torch.zeros(1, 1, 9, 9))
    assert close_holes(torch.ones(1, 1, 9, 9)).eq(1).all()


def test_the_overlay_shows_grow_and_feather():
    frames = torch.full((2, 3, 60, 60), 100, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 60, 60)
    mask[..., 20:40, 20:40] = 1
    out = overlay(frames, mask, grow=4, feather=3, colour=(1.0, 0.0, 0.0))
    assert out.dtype == torch.uint8 and out.shape == frames.shape
    red = out[0, 0].int() - out[0, 1].int()
    assert red[20, 30] == 255 and red[18, 30] > red[14, 30] > 0, "the line, then the tint, then its fade"
    assert torch.equal(out[..., :12, :], frames[..., :12, :])


def test_the_overlay_picture_shows_frames_over_the_clip_and_the_keyframes():
    frames, mask = torch.full((20, 3, 60, 90), 100, dtype=torch.uint8), torch.zeros(20, 1, 60, 90, dtype=torch.uint8)
    mask[4, :, 20:40, 30:60] = 255

    def tinted(**given):
        picture = overlay_picture(frames, mask, **given).int()
        assert picture.shape[1] == 2 * 20 + 4 * 480 + 3 * 8, "four frames to a row"
        return int((picture[..., 0] - picture[..., 1] > 40).sum()) / (480 / 90) ** 2  # in pixels of the clip

    assert tinted() == 0, "frames 3 and 5 are shown, not 4"
    assert tinted(grow=0, feather=0, keyframe_index=4) == pytest.approx(20 * 30, rel=0.08)
    assert tinted(grow=5, feather=0, keyframe_index=4) == pytest.approx(30 * 40, rel=0.08)
    assert overlay_picture(frames[:3], mask[:3]).shape == (2 * 20 + 26 + 320, 2 * 20 + 3 * 480 + 2 * 8, 3)
