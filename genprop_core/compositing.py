"""Putting the edited region back into the source: outside the feathered mask every pixel stays the source's own.

How it is meant to be called: the engine re-anchors each window's keyframe and the finished clip by `composite(source,
result, mask, grow, feather)`; the ComfyUI node and the command line's --composite, --grow and --feather are the same
call. `alpha` alone is the weight, for previews and for measuring "outside" (alpha == 0).
"""

from functools import partial

import cv2
import numpy as np
import torch

from .errors import GenPropError
from .frames import as_float, like

THRESHOLD = 0.5  # from there on a pixel of a soft mask belongs to the region
GROW, FEATHER = 4, 4  # pixels


def alpha(mask: torch.Tensor, grow: int = GROW, feather: int = FEATHER) -> torch.Tensor:
    """Soft mask [T,1,H,W] (float in [0,1] or uint8) -> float32 [T,1,H,W]: how much of the result shows.

    1 in the region grown by `grow` pixels in every direction (a square), falling evenly to 0 within `feather` pixels
    around it, exactly 0 beyond. The distance is OpenCV's chessboard distance transform, so a wide feather costs as
    little as a narrow one. Raises GenPropError for a grow or feather below 0.
    """
    if grow < 0 or feather < 0:
        raise GenPropError(f"Expected grow and feather to be at least 0 pixels, got {grow} and {feather}.")
    out = torch.empty(mask.shape, dtype=torch.float32)
    for there, one in zip(out, mask):
        outside = (as_float(one[0]) <= THRESHOLD).to("cpu", torch.uint8).numpy()
        if outside.all():  # no region to measure from
            there.zero_()
            continue
        distance = cv2.distanceTransform(outside, cv2.DIST_C, cv2.DIST_MASK_3)
        weight = 1 - np.maximum(distance - grow, 0, dtype=np.float32) / np.float32(feather + 1)
        there[0] = torch.from_numpy(np.maximum(weight, 0))
    return out.to(mask.device)


def blend(source: torch.Tensor, result: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """source and result [T,3,H,W] (uint8 or float in [0,1], each its own), weight [1 or T,1,H,W] in [0,1] -> [T,3,H,W].

    In the source's dtype; where the weight is 0 the source's numbers untouched, where it is 1 exactly the result's.
    Frame by frame, so that a long clip needs no more memory than its output. Raises GenPropError for sizes that differ.
    """
    return _blended(source, result, weight, lambda weight: weight)


def _blended(source, result, weight, share_of):
    """`blend`, by what share_of makes of each frame's part of `weight`."""
    if source.ndim != 4 or source.shape != result.shape:
        raise GenPropError(
            f"Expected source and result [T,3,H,W] of one shape, got {list(source.shape)} and {list(result.shape)}. "
            "Bring the result to the source's size and length first."
        )
    if weight.shape not in (source[:, :1].shape, source[:1, :1].shape):
        raise GenPropError(
            f"Expected one mask of {source.shape[3]}x{source.shape[2]}, or {len(source)}, got {list(weight.shape)}. "
            "Resize the mask, or give one a frame."
        )
    out = source.clone()
    for made, one, share in zip(out, result, weight.expand(len(source), -1, -1, -1)):
        share = share_of(share[None])[0].to(source.device)
        if share.any():
            mixed = torch.lerp(as_float(made), as_float(one.to(source.device)), share)
            made.copy_(torch.where(share > 0, like(mixed, made), made))
    return out


def composite(source, result, mask, grow: int = GROW, feather: int = FEATHER) -> torch.Tensor:
    """`blend` by the `alpha` of a soft mask [1 or T,1,H,W]: the result inside it, the source's own numbers outside."""
    return _blended(source, result, mask, partial(alpha, grow=grow, feather=feather))
