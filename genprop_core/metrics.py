"""Metrics that need no downloaded weights, computed in float64 on the CPU.

Frames are float [T,3,H,W] in [0,1], masks [T,1,H,W] of 0 and 1 (above 0.5 counts as 1). Inputs of another size raise
GenPropError. A metric over an empty region is None, never NaN, and identical regions have PSNR_CAP decibels, never
infinity: both keep means over clips, and their JSON, finite.
"""
import math

import torch
import torch.nn.functional as F

from .errors import GenPropError

PSNR_CAP = 100.0
SSIM_WINDOW = 11


def psnr(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> float | None:
    """Peak signal-to-noise ratio in dB: -10 log10 of the mean squared error over all frames, channels and, with a
    mask, the pixels inside it. All frames count together, so a frame in which the object is large weighs more."""
    errors, counts = _squared_errors(a, b, mask)
    return _decibels(errors.sum() / counts.sum()) if counts.sum() else None


def psnr_per_frame(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> list[float | None]:
    """PSNR of every frame for itself; None where the mask is empty."""
    errors, counts = _squared_errors(a, b, mask)
    return [_decibels(e / n) if n else None for e, n in zip(errors.tolist(), counts.tolist())]


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity, mean over pixels, channels and frames: Wang et al. 2004, 11x11 Gaussian window of sigma
    1.5, K1 = 0.01, K2 = 0.03, without borders. Frames need at least 11 pixels a side."""
    _same_frames(a, b)
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise GenPropError(f"Expected frames of at least {SSIM_WINDOW} pixels a side for SSIM, got "
                           f"{a.shape[-1]}x{a.shape[-2]}. Compare larger frames.")
    at = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-(at**2) / (2 * 1.5**2))
    window = window / window.sum()

    def mean(x):  # [3,h,w] -> [3,h-10,w-10]
        x = F.conv2d(x[:, None], window.view(1, 1, 1, -1))
        return F.conv2d(x, window.view(1, 1, -1, 1))[:, 0]

    frames = []
    for x, y in zip(a, b):  # frame by frame, so that a long clip needs no more memory
        x, y = _exact(x), _exact(y)
        mean_x, mean_y = mean(x), mean(y)
        var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        frames.append((luminance * (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)).mean())
    return torch.stack(frames).mean().item()


def iou(predicted: torch.Tensor, true: torch.Tensor) -> float | None:
    """Intersection over union of two masks of any one shape, all frames together; None when both are empty."""
    both, either, _ = _overlap(predicted, true)
    return both / either if either else None


def f_score(predicted: torch.Tensor, true: torch.Tensor) -> float | None:
    """F1 (Dice): twice the intersection over the sum of both masks; None when both are empty."""
    both, _, total = _overlap(predicted, true)
    return 2 * both / total if total else None


def removed(result, target, source, mask) -> bool | None:
    """Whether the object is gone: inside the mask the result is nearer (MSE) to the truth than to the source in every
    frame that has mask pixels. None when no frame has any."""
    to_target, counts = _squared_errors(result, target, mask)
    to_source, _ = _squared_errors(result, source, mask)
    there = counts > 0
    return bool((to_target < to_source)[there].all()) if there.any() else None


def colour_drift(result, reference, mask=None) -> float | None:
    """Shift of colour outside the mask, in 1/255: per frame and channel the absolute difference of the two means, then
    the mean over frames and channels. Frames that the mask fills are left out."""
    _same_frames(result, reference)
    drifts = []
    for t in range(len(result)):
        outside = _outside(mask, result, t)
        if outside.any():
            a, b = _exact(result[t])[:, outside], _exact(reference[t])[:, outside]
            drifts.append((a.mean(1) - b.mean(1)).abs().mean() * 255)
    return torch.stack(drifts).mean().item() if drifts else None


def seam_jump(frames, seams) -> float | None:
    """How far clips made in windows jump: mean absolute frame difference at the seams over that of all other
    neighbours; 1 is no jump. A seam s lies between frames s-1 and s. None without seams, without other neighbours, and
    when nothing else moves."""
    seams = sorted(set(seams))
    if any(not 1 <= s < len(frames) for s in seams):
        raise GenPropError(f"Expected seams between 1 and {len(frames) - 1}, got {seams}. "
                           "A seam is the index of the first frame after it.")
    steps = {t: (_exact(frames[t]) - _exact(frames[t - 1])).abs().mean().item() for t in range(1, len(frames))}
    at, elsewhere = [steps[s] for s in seams], [step for t, step in steps.items() if t not in seams]
    if not at or not sum(elsewhere):
        return None
    return (sum(at) / len(at)) / (sum(elsewhere) / len(elsewhere))


def warp_error(frames, reference) -> float | None:
    """Flicker along the motion: mean squared difference between a frame and the one before it, moved along the motion
    of a reference clip (Lai et al. 2018, https://arxiv.org/abs/1808.00449); per pair of neighbours the mean over the
    pixels seen in both, then the mean over pairs. None where no pair has such pixels, as with a single frame.

    Flow is OpenCV's DIS on the reference. A pixel is seen in both when going there and back ends near where it began
    (Sundaram et al. 2010) and stays inside the picture. Frames need at least 12 pixels a side.
    """
    import cv2

    _same_frames(frames, reference)
    if min(frames.shape[-2:]) < 12:
        raise GenPropError(f"Expected frames of at least 12 pixels a side for optical flow, got "
                           f"{frames.shape[-1]}x{frames.shape[-2]}. Compare larger frames.")
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def grey(t):
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) @ _exact(reference[t]).flatten(1)
        return (luma.view(reference.shape[-2:]) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    def flow(a, b):  # [2,H,W]: where pixel x of a is in b, minus x
        return torch.from_numpy(dis.calc(a, b, None)).double().movedim(-1, 0)

    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    errors = []
    for t in range(1, len(frames)):
        before, now = grey(t - 1), grey(t)
        back, forth = flow(now, before), flow(before, now)
        there = torch.stack([x, y]) + back
        size = torch.tensor([width, height]).double().view(2, 1, 1)
        grid = (2 * there / (size - 1) - 1).movedim(0, -1)[None]  # [1,H,W,2]; -1 and 1 are the outer pixels' centres
        moved, forth = (F.grid_sample(v[None], grid, align_corners=True)[0] for v in (_exact(frames[t - 1]), forth))
        loose = (back + forth).square().sum(0) > 0.01 * (back.square() + forth.square()).sum(0) + 0.5
        seen = ~loose & (there >= 0).all(0) & (there <= size - 1).all(0)
        if seen.any():
            errors.append((_exact(frames[t]) - moved)[:, seen].square().mean())
    return torch.stack(errors).mean().item() if errors else None


def score(result, target, source=None, mask=None, predicted_mask_latent=None, true_mask_latent=None) -> dict:
    """All scores of one clip against its truth: floats, and None where an input is missing or a region is empty.

    result, target, source: [T,3,H,W]; mask: [T,1,H,W]; predicted_mask_latent, true_mask_latent: masks of one shape at
    latent size. "removed" is 1.0 or 0.0, so that its mean over clips is the share of clips.
    """
    outside = None if mask is None else ~_binary(mask)
    gone = None if source is None or mask is None else removed(result, target, source, mask)
    masks = predicted_mask_latent is not None and true_mask_latent is not None
    return {
        "psnr": psnr(result, target),
        "ssim": ssim(result, target),
        "psnr_outside": None if mask is None else psnr(result, target, outside),
        "psnr_inside": None if mask is None else psnr(result, target, mask),
        "mask_iou": iou(predicted_mask_latent, true_mask_latent) if masks else None,
        "removed": None if gone is None else float(gone),
    }


def mean_over_clips(scores: list[dict]) -> dict:
    """Means of `score` dicts that leave None out (None where nothing is left), and under "spread", per key, the
    population standard deviation, minimum and maximum."""
    if not scores:
        raise GenPropError("Expected the scores of at least one clip, got none. Score a clip first.")
    means, spread = {}, {}
    for key in scores[0]:
        values = [clip[key] for clip in scores if clip[key] is not None]
        mean = sum(values) / len(values) if values else None
        means[key] = mean
        spread[key] = {
            "std": math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)) if values else None,
            "min": min(values, default=None),
            "max": max(values, default=None),
        }
    return {**means, "spread": spread}


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to("cpu", torch.float64)  # CPU: some devices have no float64


def _binary(mask: torch.Tensor) -> torch.Tensor:
    return (mask.detach() > 0.5).cpu()


def _decibels(mse) -> float:
    if math.isnan(mse):
        raise GenPropError("Expected pictures, but some of their pixels are no numbers (NaN). Look at what made them.")
    return min(PSNR_CAP, -10 * math.log10(max(float(mse), 1e-30)))


def _same_frames(a, b):
    if a.shape != b.shape or a.ndim != 4:
        raise GenPropError(f"Expected two clips [T,C,H,W] of one shape, got {list(a.shape)} and {list(b.shape)}. "
                           "Bring them to one size and length first.")


def _region(mask, frames, t: int) -> torch.Tensor:
    """bool [H,W]: the mask's pixels of frame t."""
    expected = [len(frames), 1, *frames.shape[-2:]]
    if list(mask.shape) != expected:
        raise GenPropError(f"Expected a mask {expected} for these frames, got {list(mask.shape)}. "
                           "Resize it, or give one mask per frame.")
    return _binary(mask[t, 0])


def _outside(mask, frames, t: int) -> torch.Tensor:
    return torch.ones(frames.shape[-2:], dtype=torch.bool) if mask is None else ~_region(mask, frames, t)


def _squared_errors(a, b, mask=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Per frame [T]: summed squared error over the region, and the number of values in it."""
    _same_frames(a, b)
    errors, counts = [], []
    for t in range(len(a)):
        error = (_exact(a[t]) - _exact(b[t])).square()  # [C,H,W]
        error = error if mask is None else error[:, _region(mask, a, t)]
        errors.append(error.sum())
        counts.append(error.numel())
    return torch.stack(errors), torch.tensor(counts)


def _overlap(predicted, true) -> tuple[float, float, float]:
    """Pixels in both, in either, and the sum of each."""
    if predicted.shape != true.shape:
        raise GenPropError(f"Expected two masks of one shape, got {list(predicted.shape)} and {list(true.shape)}. "
                           "Resize one of them first.")
    p, q = _binary(predicted), _binary(true)
    return (p & q).sum().item(), (p | q).sum().item(), p.sum().item() + q.sum().item()
