"""Metrics against references written here in plain float64, and against clips whose score is known beforehand."""
import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from genprop_core import metrics
from genprop_core.errors import GenPropError
from genprop_core.metrics import (
    PSNR_CAP,
    colour_drift,
    f_score,
    iou,
    mean_over_clips,
    psnr,
    removed,
    score,
    seam_jump,
    ssim,
    warp_error,
)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def box(frames=3, size=16, where=(slice(4, 9), slice(2, 8))):
    mask = torch.zeros(frames, 1, size, size)
    mask[(slice(None), slice(None), *where)] = 1
    return mask


def test_psnr_is_minus_ten_log_of_the_mean_squared_error():
    a, b = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)
    expected = -10 * math.log10(np.mean((a.numpy().astype(np.float64) - b.numpy().astype(np.float64)) ** 2))
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9)
    assert psnr(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.1)) == pytest.approx(20, abs=1e-5)
    assert psnr(noise(40, 3, 32, 32), noise(40, 3, 32, 32, seed=1)) == pytest.approx(7.78, abs=0.05), "unrelated noise"


def test_psnr_of_a_region_counts_its_pixels_in_all_frames_together():
    a, b = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)
    mask = box()
    mask[1] = 0  # an object that is away for a frame
    mask[2, 0, 10:14, 10:14] = 1
    inside = mask.expand(-1, 3, -1, -1).numpy() > 0
    difference = (a.numpy().astype(np.float64) - b.numpy().astype(np.float64)) ** 2
    assert psnr(a, b, mask) == pytest.approx(-10 * math.log10(difference[inside].mean()), abs=1e-9)
    assert psnr(a, b, 1 - mask) == pytest.approx(-10 * math.log10(difference[~inside].mean()), abs=1e-9)
    assert psnr(a, b, mask > 0) == psnr(a, b, mask), "bool masks too"
    assert psnr(a, b, torch.zeros_like(mask)) is None


def test_identical_regions_are_finite():
    a, b = noise(2, 3, 16, 16), noise(2, 3, 16, 16)
    b[0, :, 0, 0] += 0.5
    assert psnr(a, a) == PSNR_CAP
    assert psnr(a, b, box(2)) == PSNR_CAP and psnr(a, b, 1 - box(2)) < 40


def reference_ssim(a, b):
    """Wang et al. 2004 on [H,W] arrays by scipy."""
    at = np.arange(11) - 5
    window = np.exp(-(at**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(x):
        return correlate1d(correlate1d(x, window, axis=0), window, axis=1)[5:-5, 5:-5]

    mx, my = mean(a), mean(b)
    vx, vy, cov = mean(a * a) - mx * mx, mean(b * b) - my * my, mean(a * b) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("strength", [0.02, 0.2, 1.0])
def test_ssim_is_that_of_the_paper(strength):
    a = noise(2, 3, 20, 27)
    b = (a + strength * (noise(2, 3, 20, 27, seed=1) - 0.5)).clamp(0, 1)
    pairs = zip(a.double().numpy().reshape(-1, 20, 27), b.double().numpy().reshape(-1, 20, 27))
    assert ssim(a, b) == pytest.approx(np.mean([reference_ssim(x, y) for x, y in pairs]), abs=1e-10)
    assert ssim(a, b) == ssim(b, a)


def test_ssim_at_its_limits():
    flat = torch.full((2, 3, 16, 16), 0.7)
    assert ssim(flat, flat) == pytest.approx(1, abs=1e-12)
    assert ssim(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)) == pytest.approx(0.01**2 / (1 + 0.01**2), abs=1e-9)
    with pytest.raises(GenPropError, match="at least 11 pixels a side for SSIM, got 16x10"):
        ssim(noise(1, 3, 10, 16), noise(1, 3, 10, 16))


def test_iou_and_f_score_by_hand():
    a, b = torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    a[0, 0, 0] = True  # 4 pixels
    b[0, 0, 0, 2:] = True
    b[1, 0, 3] = True  # 2 shared, 4 elsewhere
    assert iou(a, b) == 2 / 8 and f_score(a, b) == 4 / 10
    assert iou(b, b) == 1 and f_score(b, b) == 1 and iou(a, ~a) == 0 and f_score(a, ~a) == 0
    empty = torch.zeros_like(a)
    assert iou(empty, empty) is None and f_score(empty, empty) is None
    assert iou(empty, b) == 0 and f_score(empty, b) == 0
    assert iou(a.float() * 0.6, b.float() * 0.6) == iou(a, b), "above a half counts as inside"


def test_removed_wants_every_frame():
    source, target = torch.zeros(3, 3, 16, 16), torch.ones(3, 3, 16, 16)
    mask = box()
    result = torch.full_like(source, 0.9)
    assert removed(result, target, source, mask) is True
    result[1] = 0.4
    assert removed(result, target, source, mask) is False, "one frame in which it is still there"
    mask[1] = 0
    assert removed(result, target, source, mask) is True, "a frame without the object does not count"
    assert removed(source, target, source, box()) is False
    assert removed(result, target, source, torch.zeros_like(mask)) is None
    result = torch.where(box() > 0, 0.9, 0.0).expand_as(source)
    assert removed(result, target, source, box()) is True, "only the inside counts"


def test_colour_drift_is_the_shift_outside_the_mask():
    reference = noise(4, 3, 16, 16) * 0.5
    result = reference + torch.tensor([2.0, -4.0, 0.0]).view(1, 3, 1, 1) / 255
    inside = box(4) > 0
    result = torch.where(inside, torch.ones(()), result)
    assert colour_drift(result, reference, box(4)) == pytest.approx(2, abs=1e-4)
    alternating = reference + torch.tensor([3.0, -3.0, 3.0, -3.0]).view(4, 1, 1, 1) / 255
    assert colour_drift(alternating, reference) == pytest.approx(3, abs=1e-4), "frames do not cancel one another"
    filled = torch.ones(4, 1, 16, 16)
    assert colour_drift(result, reference, filled) is None
    filled[2] = 0
    assert colour_drift(reference + 1 / 255, reference, filled) == pytest.approx(1, abs=1e-4)


def moving(frames=5, step=2, size=64):
    """A smooth texture that moves `step` pixels a frame to the right, [T,3,size,size]."""
    rng = np.random.default_rng(0)
    wide = rng.random((size, size + frames * abs(step), 3))
    for axis in (0, 1):
        wide = correlate1d(wide, np.hanning(9) / np.hanning(9).sum(), axis=axis)
    wide = (wide - wide.min()) / (wide.max() - wide.min())
    start = [(frames - 1 - t) * step for t in range(frames)]
    return torch.stack([torch.from_numpy(wide[:, s:s + size]).movedim(-1, 0) for s in start]).float()


def test_warp_error_follows_the_motion():
    clip = moving()
    still = (clip[1:] - clip[:-1]).square().mean().item()
    assert warp_error(clip, clip) < still / 50, "motion alone costs nearly nothing"
    flicker = clip.clone()
    flicker[1::2] = flicker[1::2] + 0.1
    assert warp_error(flicker, clip) == pytest.approx(0.01, rel=0.1)
    frozen = clip[:1].expand_as(clip)
    assert warp_error(frozen, clip) > still / 2, "a picture that stands while the reference moves"


def test_warp_error_leaves_hidden_pixels_out():
    """A bright square crosses a dark background. Flicker where it uncovers the background cannot be judged: it is free;
    the same flicker elsewhere on the background is not."""
    texture = moving(step=0, size=160)
    reference = 0.3 * texture[:3]
    for t in range(3):
        reference[t, :, 28:100, 20 + 16 * t:92 + 16 * t] = 0.5 + 0.5 * texture[0, :, :72, :72]
    plain = warp_error(reference, reference)
    free, counted = reference.clone(), reference.clone()
    free[2, :, 32:92, 36:52] -= 0.3  # where the square's left edge was a frame ago
    counted[2, :, 32:92, 20:36] -= 0.3
    assert warp_error(free, reference) - plain < 0.5 * (warp_error(counted, reference) - plain)


def test_warp_error_at_its_limits():
    clip = moving()
    assert warp_error(clip[:1], clip[:1]) is None
    with pytest.raises(GenPropError, match="at least 12 pixels a side"):
        warp_error(clip[..., :8], clip[..., :8])


def test_seam_jump_by_hand():
    brightness = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.6, 0.7])
    clip = brightness.view(6, 1, 1, 1).expand(6, 3, 4, 4)
    assert seam_jump(clip, [3]) == pytest.approx(3, rel=1e-5)
    assert seam_jump(clip, [1, 3]) == pytest.approx(2, rel=1e-5)
    assert seam_jump(clip, []) is None and seam_jump(clip, [1, 2, 3, 4, 5]) is None
    assert seam_jump(torch.zeros(6, 3, 4, 4), [3]) is None
    for seam in (0, 6, -1):
        with pytest.raises(GenPropError, match="Expected seams between 1 and 5"):
            seam_jump(clip, [seam])


def test_score_has_its_keys_and_goes_into_json():
    source, target, mask = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1), box()
    result = 0.1 * source + 0.9 * target
    latent = box(3, 4, (slice(1, 3), slice(1, 3)))
    full = score(result, target, source, mask, latent > 0.5, latent > 0.5)
    assert list(full) == ["psnr", "ssim", "psnr_outside", "psnr_inside", "mask_iou", "removed"]
    assert all(type(value) is float for value in full.values())
    assert full["psnr"] == psnr(result, target) and full["ssim"] == ssim(result, target)
    assert full["psnr_inside"] == psnr(result, target, mask)
    assert full["psnr_outside"] == psnr(result, target, 1 - mask)
    assert full["mask_iou"] == 1.0 and full["removed"] == 1.0
    assert score(source, target, source, mask)["removed"] == 0.0
    bare = score(result, target)
    assert {k for k, v in bare.items() if v is None} == {"psnr_outside", "psnr_inside", "mask_iou", "removed"}
    nothing = score(target, target, source, torch.zeros_like(mask), latent * 0, latent * 0)
    assert nothing["psnr_inside"] is None and nothing["mask_iou"] is None and nothing["removed"] is None
    for value in (full, bare, nothing):
        assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_mean_over_clips_leaves_none_out_and_gives_the_spread():
    mean = mean_over_clips([{"psnr": 20.0, "removed": 1.0, "mask_iou": None}, {"psnr": 26.0, "removed": None,
                                                                             "mask_iou": None}])
    assert mean == {"psnr": 23.0, "removed": 1.0, "mask_iou": None, "spread": {
        "psnr": {"std": 3.0, "min": 20.0, "max": 26.0}, "removed": {"std": 0.0, "min": 1.0, "max": 1.0},
        "mask_iou": {"std": None, "min": None, "max": None}}}
    with pytest.raises(GenPropError, match="at least one clip"):
        mean_over_clips([])


def test_inputs_stay_as_they_were_and_any_dtype_will_do():
    a, b, mask = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1), box(2)
    before = [x.clone() for x in (a, b, mask)]
    score(a, b, b, mask, mask, mask)
    colour_drift(a, b, mask), warp_error(a, b), seam_jump(a, [1])
    assert all(torch.equal(x, y) for x, y in zip((a, b, mask), before))
    assert psnr(a.half(), b.half(), mask) == pytest.approx(psnr(a, b, mask), abs=0.01)
    assert ssim(a.bfloat16(), b.bfloat16()) == pytest.approx(ssim(a, b), abs=0.01)


def test_shapes_that_do_not_fit_are_named():
    a, mask = noise(2, 3, 16, 16), box(2)
    for metric in (psnr, ssim, colour_drift, warp_error):
        with pytest.raises(GenPropError, match=r"one shape, got \[2, 3, 16, 16\] and \[3, 3, 16, 16\]"):
            metric(a, noise(3, 3, 16, 16))
    with pytest.raises(GenPropError, match=r"Expected a mask \[2, 1, 16, 16\] for these frames, got \[1, 1, 16, 16\]"):
        psnr(a, a, mask[:1])
    with pytest.raises(GenPropError, match="two masks of one shape"):
        iou(mask, mask[:1])


def test_importing_the_metrics_needs_torch_only():
    assert not {"cv2", "numpy", "scipy"} & set(vars(metrics))


@pytest.mark.parametrize("mask", [None, torch.ones(2, 1, 8, 8)])
def test_pictures_that_are_no_numbers_are_no_perfect_ones(mask):
    frames = torch.rand(2, 3, 8, 8)
    broken = frames.clone()
    broken[1, 0, 3, 3] = float("nan")
    with pytest.raises(GenPropError, match=r"pixels are no numbers \(NaN\)"):
        metrics.psnr(broken, frames, mask)
