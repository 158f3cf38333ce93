"""From the mask at latent size to one at pixel size: borders that follow the picture, no flicker, no holes.

How it is meant to be called: `steady` once on the latent masks of a whole clip (it looks at a frame's neighbours),
then `upsample` on any part of it with the source's frames, then `close_holes`. A user's mask joins or replaces the
result afterwards. `overlay` shows what grow and feather do.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .compositing import FEATHER, GROW, THRESHOLD, alpha, blend
from .frames import as_float, like

CELLS = 4  # the guide has this many pixels along a latent: finer ones cost time and change little
RADIUS = 2  # guide pixels: half a latent, within which a border may move
SOFTNESS = 1e-4  # variance of colour (in [0,1]) from which on a border in the picture is one of the mask's
HOLE = 0.02  # of the frame's area: a larger gap within the region is meant


def steady(probability: torch.Tensor) -> torch.Tensor:
    """[T,1,h,w] -> float32 of that shape: the median of each frame and its two neighbours.

    A region that drops out of one frame, or appears in one alone, is put right; one that moves keeps its borders, as
    a mean would not. The first and the last frame stay as they are.
    """
    before = torch.cat([probability[:1], probability[:-1]])
    after = torch.cat([probability[1:], probability[-1:]])
    return torch.stack([before, probability, after]).float().median(0).values


def upsample(probability: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """probability [n,1,h,w], frames [n,3,H,W] (uint8 or float in [0,1]) -> float32 [n,1,H,W] in [0,1].

    A guided filter (He, Sun and Tang, ECCV 2010), the mask locally a linear function of the picture's colours, in its
    fast form (He and Sun 2015, https://arxiv.org/abs/1505.00996): the function is found on a smaller guide and
    evaluated at full size.
    """
    picture, small = as_float(frames), probability.float()
    size = tuple(min(whole, CELLS * cells) for whole, cells in zip(picture.shape[-2:], small.shape[-2:]))
    guide = F.interpolate(picture, size, mode="bilinear", antialias=True)
    slope, offset = _linear(F.interpolate(small, size, mode="bilinear"), guide)
    slope, offset = (F.interpolate(v, picture.shape[-2:], mode="bilinear") for v in (_mean(slope), _mean(offset)))
    return ((slope * picture).sum(1, keepdim=True) + offset).clamp(0, 1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Over a square of RADIUS around each pixel, of what lies within the picture."""
    size = 2 * RADIUS + 1
    x = F.avg_pool2d(x, (size, 1), 1, (RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, RADIUS), count_include_pad=False)


def _linear(mask: torch.Tensor, guide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per pixel the slope [n,3,h,w] and offset [n,1,h,w] of the mask as a linear function of the guide around it."""
    mean_guide, mean_mask = _mean(guide), _mean(mask)
    guide, mask = guide - 0.5, mask - 0.5  # products of centred values lose less to rounding
    shifted = mean_guide - 0.5
    covariance = _mean(guide * mask) - shifted * (mean_mask - 0.5)
    r, g, b = guide.unbind(1)
    products = _mean(torch.stack([r * r, r * g, r * b, g * g, g * b, b * b], 1))
    r, g, b = shifted.unbind(1)
    rr, rg, rb, gg, gb, bb = (products - torch.stack([r * r, r * g, r * b, g * g, g * b, b * b], 1)).unbind(1)
    rr, gg, bb = rr + SOFTNESS, gg + SOFTNESS, bb + SOFTNESS
    # the inverse of a symmetric 3x3 matrix by its cofactors: thousands of times faster than a solver for each pixel
    cofactors = torch.stack([gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb,
                             rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg], 1)  # fmt: skip
    crr, crg, crb, cgg, cgb, cbb = cofactors.unbind(1)
    determinant = rr * crr + rg * crg + rb * crb
    x, y, z = covariance.unbind(1)
    slope = torch.stack([crr * x + crg * y + crb * z, crg * x + cgg * y + cgb * z, crb * x + cgb * y + cbb * z], 1)
    slope = slope / determinant[:, None]
    return slope, mean_mask - (slope * mean_guide).sum(1, keepdim=True)


def close_holes(mask: torch.Tensor) -> torch.Tensor:
    """Soft mask [n,1,H,W] -> the same with small gaps filled (1): those within the region, of at most HOLE of the
    frame, that nothing connects with the frame's border."""
    out = mask.clone()
    for one in out:
        outside = (as_float(one[0]) <= THRESHOLD).to("cpu", torch.uint8).numpy()
        _, labels, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
        holes = stats[:, cv2.CC_STAT_AREA] <= HOLE * outside.size
        border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        holes[border], holes[0] = False, False  # 0 is the region itself
        if holes.any():
            one[0][torch.from_numpy(holes[labels]).to(mask.device)] = 255 if mask.dtype == torch.uint8 else 1
    return out


def overlay(frames, mask, grow: int = GROW, feather: int = FEATHER, colour=(1.0, 0.1, 0.3)) -> torch.Tensor:
    """frames [T,3,H,W], soft mask [1 or T,1,H,W] -> the frames, in their dtype, with the region tinted as strongly as
    the result will show there, and a line along the mask's own border, before grow and feather."""
    weight = alpha(mask, grow, feather)
    inside = alpha(mask, 0, 0)
    line = inside - (F.avg_pool2d(inside, 3, 1, 1, count_include_pad=False) == 1).float()
    shown = torch.maximum(0.45 * weight, line)
    paint = torch.tensor(colour, device=frames.device).view(1, 3, 1, 1).expand(len(frames), 3, *frames.shape[-2:])
    return blend(frames, like(paint, frames), shown)
