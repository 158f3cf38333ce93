"""A known drift of colour is measured outside the mask and taken off everywhere; no drift changes nothing."""

import pytest
import torch
import torch.nn.functional as F

from genprop_core import metrics
from genprop_core.colour import KINDS, match
from genprop_core.errors import GenPropError

REGION = (..., slice(40, 80), slice(48, 88))


def scene(frames=4, height=128, width=136):
    """A smooth clip, its mask, and the clip with another thing inside the mask."""
    coarse = torch.rand(frames, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    source = 0.2 + 0.6 * F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(frames, 1, height, width)
    mask[REGION] = 1
    truth = source.clone()
    truth[REGION] = 0.5
    return source, mask, truth


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_differ_comes_back_to_the_last_bit(kind):
    source, mask, truth = scene()
    assert torch.equal(match(truth, source, mask, kind), truth), "only the inside differs"
    assert torch.equal(match(source, source, None, kind), source)
    assert torch.equal(match(truth, source, torch.ones_like(mask), kind), truth), "nothing outside to measure by"


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_of_colour_is_undone_inside_too(kind):
    source, mask, truth = scene()
    drifted = truth + torch.tensor([0.05, -0.03, 0.02]).view(1, 3, 1, 1)
    kept = drifted.clone()
    assert (match(drifted, source, mask, kind) - truth).abs().max() < 2e-3
    assert torch.equal(drifted, kept)


def test_a_change_of_contrast_is_undone_by_gain():
    source, mask, truth = scene()
    drifted = truth * torch.tensor([0.9, 1.05, 0.95]).view(1, 3, 1, 1) + 0.02
    errors = {kind: (match(drifted, source, mask, kind) - truth).abs().mean() for kind in KINDS}
    assert errors["gain"] < 1e-3 < errors["offset"]


def test_a_drift_that_varies_over_the_picture_is_undone_by_smooth():
    source, mask, truth = scene()
    drifted = truth + 0.06 * torch.linspace(-1, 1, 136)
    before = metrics.psnr(drifted, truth, mask)
    assert metrics.psnr(match(drifted, source, mask, "smooth"), truth, mask) > before + 10
    assert metrics.colour_drift(match(drifted, source, mask, "smooth"), source, mask) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_mask_misses_hardly_counts(kind):
    """A tenth of the picture outside the mask is wrong, as with a shadow that the mask does not know."""
    source, mask, truth = scene()
    drifted = truth + 0.04
    drifted[..., 100:, 50:130] = 0
    found = match(drifted, source, mask, kind)
    assert (found - truth)[..., :96, :].abs().max() < 5e-3


@pytest.mark.parametrize("kind", KINDS)
def test_detail_that_was_lost_is_not_drift(kind):
    source, mask, truth = scene()
    noisy = (source + 0.1 * torch.randn(source.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    assert (match(truth, noisy, mask, kind) - truth).abs().mean() < 3e-3


def test_a_mask_at_latent_size_serves():
    source, mask, truth = scene()
    small = F.avg_pool2d(mask, 8)
    drifted = truth + 0.05
    assert torch.allclose(match(drifted, source, small), match(drifted, source, mask), atol=1e-4)


def test_bad_input_is_refused():
    source, mask, truth = scene()
    with pytest.raises(GenPropError, match=r"one shape \[T,3,H,W\], got \[4, 3, 128, 136\] and \[3, 3, 128, 136\]"):
        match(truth, source[:3], mask)
    with pytest.raises(GenPropError, match="offset, gain, smooth, local as the colour match, got 'none'"):
        match(truth, source, mask, "none")


def test_a_light_from_one_side_is_undone_by_local_and_no_other():
    source, mask, truth = scene()
    side = torch.tanh((torch.arange(136.0) - 24) / 8).view(1, 1, 1, -1)
    drifted = truth + 0.04 * side * torch.tensor([1.0, 0.5, -0.5]).view(3, 1, 1)
    errors = {kind: (match(drifted, source, mask, kind) - truth).abs() for kind in KINDS}
    assert errors["local"][REGION].mean() < 0.005
    assert errors["local"].mean() < 0.5 * min(errors[kind].mean() for kind in KINDS if kind != "local")


def test_local_follows_every_frame():
    source, mask, truth = scene()
    drifted = truth + 0.02 * torch.arange(4.0).view(-1, 1, 1, 1)
    assert (match(drifted, source, mask, "local") - truth).abs().max() < 5e-3
