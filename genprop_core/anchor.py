"""The frame a window starts from: what was made where the edit is, the source's own pixels elsewhere.

What the mask misses of a removed object would come back with the source's pixels, look like a part of the keyframe that
is to stay, and so be missed in every window after that. So the mask is first joined with what touches it and was
clearly made otherwise than the source.
"""

import cv2
import numpy as np
import torch

from .compositing import THRESHOLD, composite
from .confidence import MARGIN
from .frames import as_float

MISSED = 24 / 255  # least difference of made and source that is more than a base's inaccuracy
TIMES = 4  # so many times the usual difference, at least
SMOOTHED = 5  # pixels a side: single pixels and thin outlines do not count


def anchored(made: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """made and source [1,3,H,W], soft mask [1,1,H,W] -> the keyframe [1,3,H,W], in the source's dtype."""
    return composite(source, made, with_missed(mask, made, source), MARGIN, MARGIN)


def with_missed(mask: torch.Tensor, made: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Soft mask [n,1,H,W] of any dtype -> float32 [n,1,H,W]: 1 also where the made frames [n,3,H,W] differ clearly from
    the source's, in regions that touch the mask. A mask without a region stays as it is."""
    out = as_float(mask).float().clone()
    for there, one, other in zip(out, made, source):
        region = (there[0] > THRESHOLD).cpu().numpy()
        difference = (as_float(one) - as_float(other)).abs().mean(0).float().cpu().numpy()
        difference = cv2.blur(difference, (SMOOTHED, SMOOTHED))
        if not region.any() or region.all():
            continue
        clear = difference > max(MISSED, TIMES * float(np.median(difference[~region])))
        _, labels = cv2.connectedComponents((clear | region).astype(np.uint8), connectivity=8)
        touching = np.unique(labels[region])
        there[0][torch.from_numpy(np.isin(labels, touching)).to(there.device)] = 1
    return out
