"""Any frame size to one the base takes, and exactly back: scaled to lie within it, the rest padded.

How it is meant to be called: `fit = plan_fit(height, width, multiple, size)` once per clip, `fit.apply(frames)` on the
frames and keyframes of each window, `fit.undo(made)` on what was made of them (`fit.undo_mask` on latent masks).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .errors import GenPropError
from .frames import as_float, resize

STRETCH = 0.02  # an aspect ratio this near is stretched: nobody sees it, and thin padding would cost more


@dataclass(frozen=True)
class Fit:
    """(height, width) each: `source`; `inner`, the source scaled; `size`, inner padded to the right and below."""

    source: tuple[int, int]
    inner: tuple[int, int]
    size: tuple[int, int]

    def apply(self, frames: torch.Tensor) -> torch.Tensor:
        """[T,C,*source], uint8 or float in [0,1] -> float32 [T,C,*size]; the padding repeats the last row and column.

        Raises GenPropError for frames of another size than the fit was planned for.
        """
        if tuple(frames.shape[-2:]) != self.source:
            raise GenPropError(
                f"Expected frames of {self.source[1]}x{self.source[0]}, got {frames.shape[-1]}x{frames.shape[-2]}. "
                "Bring all of them to the source's size."
            )
        frames = resize(as_float(frames), *self.inner)
        below, right = (whole - part for whole, part in zip(self.size, self.inner))
        return F.pad(frames, (0, right, 0, below), mode="replicate") if below or right else frames

    def enlarged(self, longest: int) -> "Fit":
        """The same frames up to `longest` pixels a side, as far as they have them; this one where it is as large."""
        scale = min(longest / max(self.size), min(s / i for s, i in zip(self.source, self.inner)))
        if scale <= 1:
            return self
        inner, size = (tuple(round(n * scale) for n in of) for of in (self.inner, self.size))
        return Fit(self.source, inner, size)

    def undo(self, frames: torch.Tensor) -> torch.Tensor:
        """float [T,C,*size] -> [T,C,*source]: padding cropped, then scaled; pixels that were not scaled come back as
        they were."""
        return resize(frames[..., : self.inner[0], : self.inner[1]], *self.source)

    def undo_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Soft mask [T,1,h,w] at any size (latent size, say) that covers `size` -> float [T,1,*source] in [0,1]."""
        mask, there = mask.float(), mask.shape[-2:]
        if any(a < b for a, b in zip(there, self.size)):
            mask, there = F.interpolate(mask, self.size, mode="bilinear"), self.size
        # a finer one is not made smaller first: what is a pixel wide would be lost
        rows, columns = (round(n * part / whole) for n, part, whole in zip(there, self.inner, self.size))
        mask = mask[..., :rows, :columns]
        return F.interpolate(mask, self.source, mode="bilinear", antialias=True).clamp(0, 1)


def plan_fit(height: int, width: int, multiple: int, size: tuple[int, int] | None = None) -> Fit:
    """The fit of a height x width frame into `size`, or, for None, unscaled into the next multiples.

    The frame keeps its aspect ratio, except where the size's is within 2% of it. Raises GenPropError for a size that
    is not in multiples and for a frame without pixels.
    """
    if height < 1 or width < 1:
        raise GenPropError(f"Expected frames of at least 1x1 pixels, got {width}x{height}.")
    if size is None:
        size = tuple(math.ceil(n / multiple) * multiple for n in (height, width))
        return Fit((height, width), (height, width), size)
    if any(n < multiple or n % multiple for n in size):
        raise GenPropError(f"Expected a size in multiples of {multiple} for this base, got {size[1]}x{size[0]}.")
    down, across = size[0] / height, size[1] / width
    if abs(math.log(down / across)) <= STRETCH:
        return Fit((height, width), tuple(size), tuple(size))
    scale = min(down, across)
    inner = tuple(min(whole, max(1, round(n * scale))) for whole, n in zip(size, (height, width)))
    return Fit((height, width), inner, tuple(size))
