"""The frame a window starts from: all of the edit as it was made, the rest as the source has it."""

import pytest
import torch

from genprop_core.anchor import anchored, with_missed

HEIGHT = WIDTH = 96


def scene(missed=0.5):
    """A source with a dark object in columns 20 to 40, made without it; the mask knows a part of it."""
    source = torch.full((1, 3, HEIGHT, WIDTH), 0.6)
    made = source + 0.01 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    source[..., 20:40, 20:40] = 0.1
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    mask[..., 20:40, 20 : 20 + int(20 * (1 - missed))] = 0.9
    return source, made, mask


def test_what_the_mask_missed_of_an_object_does_not_come_back():
    source, made, mask = scene()
    before = source.clone(), made.clone(), mask.clone()
    keyframe = anchored(made, source, mask)
    assert (keyframe[..., 18:42, 18:42] - 0.6).abs().max() < 0.1, "none of the object is in the keyframe"
    assert torch.equal(keyframe[..., 60:, :], source[..., 60:, :]), "and the rest is the source's own"
    assert all(torch.equal(a, b) for a, b in zip(before, (source, made, mask)))


def test_another_object_that_was_made_badly_is_put_back():
    source, made, mask = scene()
    source[..., 70:80, 4:14] = 0.9  # it is to stay, and was not made at all
    assert torch.equal(anchored(made, source, mask)[..., 70:80, 4:14], source[..., 70:80, 4:14])


def test_inaccuracy_is_not_an_edit():
    source, made, mask = scene(missed=0)
    soft = made + 0.07 * torch.linspace(-1, 1, WIDTH)
    found = with_missed(mask, soft, source)
    assert (found >= mask).all() and (found > 0.5).sum() < 1.5 * (mask > 0.5).sum(), "a rim at most"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_a_border_stays_as_it_is(value):
    source, made, _ = scene()
    mask = torch.full((1, 1, HEIGHT, WIDTH), value)
    assert torch.equal(with_missed(mask, made, source), mask)


def test_masks_and_frames_of_bytes_serve():
    source, made, mask = scene()
    whole = with_missed(mask, made, source)
    parts = with_missed(*((v.clamp(0, 1) * 255).round().byte() for v in (mask, made, source)))
    assert torch.equal(whole > 0.5, parts > 0.5)
