"""Any size in and exactly back; a region that holds the edit in every frame, and a stitch that touches nothing else."""

import pytest
import torch

from genprop_core.compositing import composite
from genprop_core.crop import Crop, boxes, edit_mask, plan_crop
from genprop_core.errors import GenPropError
from genprop_core.fit import plan_fit


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("height, width", [(64, 128), (67, 45), (1, 1), (540, 972), (241, 433)])
def test_an_unscaled_size_comes_back_to_the_last_bit(height, width):
    frames = noise(2, 3, height, width)
    fit = plan_fit(height, width, 64)
    padded = fit.apply(frames)
    assert padded.shape[-2] % 64 == padded.shape[-1] % 64 == 0 and padded.dtype == torch.float32
    assert padded.shape[-2] - height < 64 and padded.shape[-1] - width < 64
    back = fit.undo(padded)
    assert torch.equal((back * 255).round().to(torch.uint8), frames)
    assert (padded[..., height:, :width] == padded[..., height - 1 : height, :width]).all(), "the last row again"


@pytest.mark.parametrize("height, width, inner", [
    (1080, 1920, (576, 1024)), (540, 972, (569, 1024)), (1001, 333, (576, 192)), (333, 1001, (341, 1024)),
    (239, 431, (568, 1024)), (575, 1025, (576, 1024)),
])  # fmt: skip
def test_every_aspect_fits_and_keeps_its_shape(height, width, inner):
    fit = plan_fit(height, width, 64, (576, 1024))
    assert fit.inner == inner or fit.inner == (576, 1024)
    ratio = (fit.inner[0] / height) / (fit.inner[1] / width)
    assert abs(ratio - 1) < 0.025
    assert fit.apply(torch.zeros(1, 3, height, width)).shape == (1, 3, 576, 1024)
    assert fit.undo(torch.zeros(1, 3, 576, 1024)).shape == (1, 3, height, width)
    assert fit.undo_mask(torch.zeros(1, 1, 72, 128)).shape == (1, 1, height, width)


def test_places_are_kept_through_scaling_and_padding():
    ramp = torch.linspace(0, 1, 100)[:, None].expand(100, 80) * 0.5 + torch.linspace(0, 0.5, 80)
    frames = ramp.expand(1, 3, -1, -1).contiguous()
    fit = plan_fit(100, 80, 64, (256, 256))
    assert fit.inner == (256, 205)
    assert (fit.undo(fit.apply(frames)) - frames).abs().max() < 0.01
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:24, 8:16] = 1  # latents of pixels 128-192 down, 64-128 across
    (box,) = boxes(fit.undo_mask(mask))
    assert all(abs(a - b) <= 1 for a, b in zip(box, (50, 75, 25, 50)))


@pytest.mark.parametrize("height, width, size, wanted", [
    (240, 432, (96, 160), (154, 256)), (480, 600, (128, 128), (256, 256)), (100, 130, (64, 64), (130, 130)),
    (120, 160, (96, 128), (120, 160)), (1080, 1920, (576, 1024), (576, 1024)), (40, 60, (64, 96), (64, 96)),
])  # fmt: skip
def test_a_small_working_size_is_enlarged_as_far_as_the_source_has_pixels(height, width, size, wanted):
    fit = plan_fit(height, width, 32, size)
    larger = fit.enlarged(256)
    assert larger.size == wanted and larger.source == fit.source
    assert (larger is fit) == (wanted == size)
    assert larger is fit or max(a / b for a, b in zip(larger.inner, fit.source)) < 1.01, "no pixel is made up"
    assert max(abs(a / b - c / d) for a, b, c, d in zip(larger.inner, larger.size, fit.inner, fit.size)) < 0.01
    frames = noise(2, 3, height, width)
    assert larger.apply(frames).shape == (2, 3, *wanted)
    assert larger.undo_mask(torch.ones(2, 1, *wanted)).min() == 1


@pytest.mark.parametrize("height, width", [(480, 854), (480, 600)])
def test_thin_parts_of_a_mask_finer_than_the_working_size_are_kept(height, width):
    """Where the frame is stretched, and where it is padded."""
    fit = plan_fit(height, width, 32, (96, 160))
    larger = fit.enlarged(256)
    for left in range(20, 60):
        mask = torch.zeros(1, 1, *larger.size)
        mask[..., left] = 1
        there = (fit.undo_mask(mask)[0, 0] > 0.5).all(0).nonzero()[:, 0].float()
        scale = width / larger.inner[1]
        assert abs(len(there) - scale) < 1.5 and abs(there.mean() + 0.5 - (left + 0.5) * scale) < 1


def test_fits_that_cannot_be_are_refused():
    with pytest.raises(GenPropError, match="multiples of 64 for this base, got 1000x576"):
        plan_fit(100, 100, 64, (576, 1000))
    with pytest.raises(GenPropError, match="at least 1x1 pixels, got 0x5"):
        plan_fit(5, 0, 64)
    with pytest.raises(GenPropError, match="frames of 80x100, got 100x80"):
        plan_fit(100, 80, 64).apply(torch.zeros(1, 3, 80, 100))


def test_the_edit_is_found_and_a_shift_of_colour_is_not():
    frame = noise(3, 120, 160) // 2
    keyframe = (frame + 20).clone()  # a shift of the whole picture
    keyframe[:, 40:60, 30:70] = 200
    keyframe[:, 5, 5] = 255  # a speck
    (box,) = boxes(edit_mask(frame, keyframe)[None])
    assert all(abs(a - b) <= 3 for a, b in zip(box, (40, 60, 30, 70)))
    assert not edit_mask(frame, frame).any()
    with pytest.raises(GenPropError, match="frame's size 160x120, got 80x120"):
        edit_mask(frame, keyframe[:, :, :80])


def moving(frames=12, step=20):
    return [(200, 240, 50 + step * t, 90 + step * t) for t in range(frames)]


def holds(crop, found):
    for (top, left), box in zip(crop.corners, found):
        if box is not None:
            assert top <= box[0] and left <= box[2]
            assert box[1] <= top + crop.size[0] and box[3] <= left + crop.size[1]
        assert 0 <= top <= crop.frame[0] - crop.size[0] and 0 <= left <= crop.frame[1] - crop.size[1]


def test_a_still_edit_gets_a_region_that_stands_still():
    found = [(500, 560, 900 + t % 3, 980) for t in range(20)]
    crop = plan_crop(found, (1080, 1920), (576, 1024))
    holds(crop, found)
    assert len(set(crop.corners)) == 1
    assert crop.size[0] >= 288 and crop.size[0] * crop.size[1] < 0.3 * 1080 * 1920, "enlarged by two at the most"
    assert crop.size[0] / crop.size[1] == pytest.approx(576 / 1024, rel=0.02), "the working size's aspect"


@pytest.mark.parametrize("step", [6, -6, 20])
def test_a_moving_edit_is_followed_smoothly(step):
    found = [(200, 240, 900 + step * t, 940 + step * t) for t in range(40)]
    found[7] = found[8] = None  # not seen for two frames
    crop = plan_crop(found, (1080, 1920), (128, 128))
    holds(crop, found)
    lefts = torch.tensor([left for _, left in crop.corners]).double()
    assert (lefts.diff() - step).abs().max() <= 1, "as steady as the object"
    assert crop.size[0] < 200


def test_a_jumping_edit_still_lies_within():
    generator = torch.Generator().manual_seed(3)
    shifts = torch.randint(-40, 40, (60, 2), generator=generator).cumsum(0).tolist()
    found = [(500 + y, 560 + y, 900 + x, 1000 + x) for y, x in shifts]
    crop = plan_crop(found, (1200, 2000), (128, 128), margin=0)
    holds(crop, found)


def test_no_region_where_it_gains_nothing():
    assert plan_crop([None] * 5, (100, 100), (64, 64)) is None
    assert plan_crop([(0, 90, 0, 90)] * 5, (100, 100), (64, 64)) is None

    single = plan_crop([(40, 50, 40, 50)], (100, 100), (64, 64))
    holds(single, [(40, 50, 40, 50)])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_cut_stitched_back_changes_only_the_mask_inside_the_region(dtype):
    source = noise(12, 3, 300, 400)
    source = source if dtype == torch.uint8 else source / 255
    kept = source.clone()
    crop = plan_crop(moving(), (300, 400), (64, 64))
    part = crop.cut(source)
    assert part.shape == (12, 3, *crop.size) and part.dtype == dtype
    assert torch.equal(crop.stitch(source, part), source), "the same pixels again"
    result = 1 - part if dtype == torch.float32 else 255 - part
    mask = crop.cut(torch.stack([_box_mask(box, 300, 400) for box in moving()]))
    out = crop.stitch(source, result, mask, grow=2, feather=3)
    whole = crop.place(mask)
    assert whole.shape == (12, 1, 300, 400) and boxes(whole) == moving()
    assert torch.equal(out, composite(source, 1 - source if dtype == torch.float32 else 255 - source, whole, 2, 3))
    assert torch.equal(source, kept)


def _box_mask(box, height, width):
    mask = torch.zeros(1, height, width)
    mask[:, box[0] : box[1], box[2] : box[3]] = 1
    return mask


def test_without_a_mask_the_region_fades_into_the_frame():
    source, crop = torch.zeros(2, 3, 60, 80), Crop((60, 80), (30, 40), ((0, 0), (20, 30)))
    out = crop.stitch(source, torch.ones(2, 3, 30, 40))
    assert out[0, 0, 0, 0] == 1 and out[0, 0, :, 40:].eq(0).all() and out[0, 0, 30:].eq(0).all()
    assert 0 < out[0, 0, 29, 0] < 0.2, "the frame's own border is none"
    assert out[1, 0, 35, 50] == 1 and 0 < out[1, 0, 20, 50] < 0.2
    assert out[1, 0, :20].eq(0).all() and out[1, 0, :, :30].eq(0).all()


def test_frames_can_come_in_parts():
    source = noise(12, 3, 300, 400)
    crop = plan_crop(moving(), (300, 400), (64, 64))
    assert torch.equal(crop.cut(source[7:10], start=7), crop.cut(source)[7:10])
    result = noise(12, 3, *crop.size, seed=1)
    assert torch.equal(crop.stitch(source[7:10], result[7:10], start=7), crop.stitch(source, result)[7:10])
    with pytest.raises(GenPropError, match="within a clip of 12, got 400x300, 3 from 10 on"):
        crop.cut(source[:3], start=10)
    with pytest.raises(GenPropError, match=r"as 12 regions of \d+x\d+, got 12 of 10x10"):
        crop.stitch(source, torch.zeros(12, 3, 10, 10))
