"""The source's own pixels outside the feathered mask, exactly; the result's inside; an even fade between."""

import pytest
import torch

from genprop_core.compositing import alpha, blend, composite
from genprop_core.errors import GenPropError


def clips(dtype, frames=3, height=40, width=48):
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, frames, 3, height, width, generator=generator)
    return (pair * 255).round().to(dtype) if dtype == torch.uint8 else pair.to(dtype)


def square(frames=1, height=40, width=48):
    mask = torch.zeros(frames, 1, height, width)
    mask[..., 16:24, 16:24] = 1
    return mask


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("grow, feather", [(0, 0), (2, 3), (0, 5), (4, 0)])
def test_outside_is_the_source_and_inside_the_result(dtype, grow, feather):
    source, result = clips(dtype)
    kept = source.clone(), result.clone()
    out = composite(source, result, square(), grow, feather)
    assert out.dtype == dtype and out.shape == source.shape
    far = torch.ones(40, 48, dtype=torch.bool)
    reach = grow + feather
    far[16 - reach : 24 + reach, 16 - reach : 24 + reach] = False
    assert torch.equal(out[..., far], source[..., far])
    inside = (..., slice(16 - grow, 24 + grow), slice(16 - grow, 24 + grow))
    assert torch.equal(out[inside], result[inside])
    assert torch.equal(source, kept[0]) and torch.equal(result, kept[1])


def test_the_fade_is_even_and_ends_at_exactly_nothing():
    weight = alpha(square(), grow=2, feather=3)[0, 0]
    assert torch.allclose(weight[20, 22:32], torch.tensor([1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]), atol=1e-6)
    assert torch.allclose(weight[27, 27], torch.tensor(0.5)), "corners are as far as sides: a square"
    assert weight[29:].eq(0).all() and weight.max() == 1


def test_the_fade_equals_growing_step_by_step():
    """The definition: the mean of the region grown by 0, 1, ... feather pixels."""
    mask = (torch.rand(2, 1, 30, 37, generator=torch.Generator().manual_seed(1)) > 0.97).float()
    steps = [torch.nn.functional.max_pool2d(mask, 2 * g + 1, stride=1, padding=g) for g in range(2, 8)]
    assert torch.allclose(alpha(mask, 2, 5), torch.stack(steps).mean(0), atol=1e-6)


def test_uint8_source_takes_a_float_result():
    source, _ = clips(torch.uint8)
    _, result = clips(torch.float32)
    out = composite(source, result, square(), 0, 0)
    assert out.dtype == torch.uint8
    inside = (..., slice(16, 24), slice(16, 24))
    assert torch.equal(out[inside], (result[inside] * 255).round().to(torch.uint8))


def test_a_soft_mask_is_cut_at_one_half_and_may_be_uint8():
    mask = torch.full((1, 1, 8, 8), 0.4)
    assert alpha(mask).eq(0).all(), "no region anywhere"
    mask[..., 4, 4] = 0.6
    assert torch.equal(alpha(mask, 1, 1), alpha((mask * 255).round().to(torch.uint8), 1, 1))
    assert alpha(torch.ones(1, 1, 8, 8)).eq(1).all()


def test_one_mask_a_frame():
    source, result = clips(torch.uint8)
    mask = torch.cat([square(), torch.zeros(1, 1, 40, 48), torch.ones(1, 1, 40, 48)])
    out = composite(source, result, mask, 2, 2)
    assert torch.equal(out[1], source[1]) and torch.equal(out[2], result[2]) and not torch.equal(out[0], source[0])


def test_bad_sizes_say_what_to_do():
    source, result = clips(torch.uint8)
    with pytest.raises(GenPropError, match=r"one shape, got \[3, 3, 40, 48\] and \[2, 3, 40, 48\]"):
        composite(source, result[:2], square())
    with pytest.raises(GenPropError, match=r"one mask of 48x40, or 3, got \[2, 1, 40, 48\]"):
        blend(source, result, square(2))
    with pytest.raises(GenPropError, match=r"at least 0 pixels, got -1 and 2"):
        composite(source, result, square(), -1, 2)
