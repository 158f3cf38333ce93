"""A small edit in a large frame: the region around it is cut out, worked on, and stitched back at full resolution.

How it is meant to be called: masks of a first pass (or the user's), joined with `edit_mask` at the keyframes, go to
`crop = plan_crop(boxes(masks), frame_size, working_size)`. None means that cropping gains nothing. Otherwise
`crop.cut(frames)` is a clip like any other, of one size: it is propagated with `crop.cut(keyframe[None], start=index)`
as its keyframe, and `crop.stitch(source, result, mask)` puts the result back.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .compositing import FEATHER, GROW, THRESHOLD, alpha, blend
from .conditioning import gaussian_blur
from .errors import GenPropError
from .frames import as_float

CHANGED = 12 / 255  # a keyframe differs where a blurred channel differs by more: above what JPEG or a VAE leaves
SPECK = 1e-4  # of the frame's area: what is smaller is no edit
MARGIN = 0.25  # of the region's size on every side, so that the model sees what lies around
LARGEST = 0.6  # of the frame's area: a larger region is not worth cutting
STEADY = 2.0  # a region that stands still may be this much larger than one that moves
ZOOM = 2.0  # a region is scaled up to the working size by no more than this
SMOOTHING = 6.0  # frames: sigma of a moving region's path
BORDER = 8  # pixels over which a region without a mask fades into the frame


@dataclass(frozen=True)
class Crop:
    """A region of one size in every frame. frame: (H,W); size: (h,w); corners: (top, left) of each frame's region."""

    frame: tuple[int, int]
    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    def cut(self, frames: torch.Tensor, start: int = 0) -> torch.Tensor:
        """[n,C,H,W] of any dtype, the clip's frames from `start` on -> their regions [n,C,h,w]."""
        return torch.stack([self._region(frame, index) for index, frame in self._numbered(frames, start)])

    def stitch(self, source, result, mask=None, grow=GROW, feather=FEATHER, start: int = 0) -> torch.Tensor:
        """source [n,3,H,W], result [n,3,h,w], soft mask [1 or n,1,h,w] or None -> [n,3,H,W] in the source's dtype.

        Inside the region the result shows where the mask (grown and feathered as in `composite`) does; without a mask,
        everywhere. Towards borders of the region that are none of the frame's it fades out. Outside the region every
        pixel is the source's own.
        """
        if tuple(result.shape[-2:]) != self.size or len(result) != len(source):
            raise GenPropError(
                f"Expected the result as {len(source)} regions of {self.size[1]}x{self.size[0]}, got {len(result)} of "
                f"{result.shape[-1]}x{result.shape[-2]}. Bring it back to the size that was cut."
            )
        weight = torch.ones(1, 1, *self.size) if mask is None else alpha(mask, grow, feather)
        weight = weight.expand(len(source), -1, -1, -1)
        out = source.clone()
        for place, (index, frame) in enumerate(self._numbered(out, start)):
            here = self._region(frame, index)
            shown = weight[place].cpu() * self._fade(index, BORDER if mask is None else feather)
            here.copy_(blend(here[None], result[place][None], shown[None])[0])
        return out

    def place(self, mask: torch.Tensor, start: int = 0) -> torch.Tensor:
        """A region's mask [n,1,h,w] in the whole frame: [n,1,H,W], 0 outside the region."""
        out = mask.new_zeros(len(mask), mask.shape[1], *self.frame)
        for one, (index, frame) in zip(mask, self._numbered(out, start)):
            self._region(frame, index).copy_(one)
        return out

    def _numbered(self, frames, start):
        if tuple(frames.shape[-2:]) != self.frame or not 0 <= start <= len(self.corners) - len(frames):
            raise GenPropError(
                f"Expected frames of {self.frame[1]}x{self.frame[0]} within a clip of {len(self.corners)}, got "
                f"{frames.shape[-1]}x{frames.shape[-2]}, {len(frames)} from {start} on. Give the clip that was planned."
            )
        return list(enumerate(frames, start))

    def _region(self, frame, index):
        (top, left), (height, width) = self.corners[index], self.size
        return frame[:, top : top + height, left : left + width]

    def _fade(self, index: int, pixels: int) -> torch.Tensor:
        """[1,h,w]: 1 inside, falling to 0 just beyond the region's borders, save those on the frame's border."""
        sides = []
        for start, length, whole in zip(self.corners[index], self.size, self.frame):
            steps = torch.arange(length, dtype=torch.float32)
            before = torch.full_like(steps, torch.inf) if start == 0 else steps + 1
            after = torch.full_like(steps, torch.inf) if start + length == whole else length - steps
            sides.append((torch.minimum(before, after) / (pixels + 1)).clamp(max=1))
        return torch.minimum(sides[0][:, None], sides[1][None])[None]


def edit_mask(frame: torch.Tensor, keyframe: torch.Tensor) -> torch.Tensor:
    """Where a keyframe was edited: float [1,H,W] of 0 and 1, from two pictures [3,H,W] of one size.

    A shift of the whole picture's colour, as an image model leaves it, and single pixels do not count. Raises
    GenPropError for two sizes.
    """
    if frame.shape != keyframe.shape:
        raise GenPropError(
            f"Expected the keyframe at its frame's size {frame.shape[2]}x{frame.shape[1]}, got "
            f"{keyframe.shape[2]}x{keyframe.shape[1]}. Resize it first."
        )
    difference = as_float(keyframe) - as_float(frame)
    difference = gaussian_blur((difference - difference.flatten(1).median(1).values[:, None, None])[None], 1.0)[0]
    changed = (difference.abs().amax(0) > CHANGED).to("cpu", torch.uint8).numpy()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= max(16, SPECK * changed.size)
    large[0] = False  # the background
    return torch.from_numpy(large[labels].astype(np.float32))[None]


def boxes(masks: torch.Tensor) -> list[tuple[int, int, int, int] | None]:
    """(top, bottom, left, right) around each soft mask of [T,1,H,W], bottom and right exclusive; None where empty."""
    found = []
    for mask in masks:
        inside = as_float(mask[0]) > THRESHOLD
        rows, columns = inside.any(1).nonzero()[:, 0].tolist(), inside.any(0).nonzero()[:, 0].tolist()
        found.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if rows else None)
    return found


def plan_crop(found, frame: tuple[int, int], working: tuple[int, int], margin: float = MARGIN) -> Crop | None:
    """One region size for the clip, and where it is in every frame; None when cropping would gain nothing.

    found: a box (top, bottom, left, right) in pixels or None per frame, as `boxes` gives them; frame: (H,W); working:
    (h,w) the base works at, whose aspect ratio the region gets. Every box lies within its frame's region. The region
    stands still where that costs little (`STEADY`), else it follows the boxes along a smoothed path, which takes
    the boxes of frames without one from their neighbours. No region: no box anywhere, or one of more than `LARGEST`
    of the frame.
    """
    known = [index for index, box in enumerate(found) if box is not None]
    if not known:
        return None
    every = np.arange(len(found))
    filled = np.array([np.interp(every, known, [found[k][side] for k in known]) for side in range(4)]).T
    lows, highs = filled[:, 0::2], filled[:, 1::2]  # [T,2] each: (top, left), (bottom, right)
    still = np.broadcast_to((lows.min(0) + highs.max(0)) / 2, lows.shape)
    candidates = [_around(lows, highs, centre, frame, working, margin) for centre in (still, _smooth(lows + highs) / 2)]
    areas = [size[0] * size[1] for size, _ in candidates]
    chosen = 0 if areas[0] <= STEADY * areas[1] else 1
    if areas[chosen] > LARGEST * frame[0] * frame[1]:
        return None
    size, corners = candidates[chosen]
    return Crop(tuple(frame), size, tuple((int(top), int(left)) for top, left in corners))


def _around(lows, highs, centre, frame, working, margin):
    """(size, corners [T,2]) of the smallest region of the working aspect that holds every box around its centre."""
    reach = np.maximum(highs - centre, centre - lows).max(0) * 2 * (1 + 2 * margin) + 1  # corners are rounded
    scale = max(reach[0] / working[0], reach[1] / working[1], 1 / ZOOM)
    size = tuple(min(whole, math.ceil(side * scale)) for whole, side in zip(frame, working))
    corners = np.round(centre - np.array(size) / 2).astype(int)
    # at the frame's border the region stops; so do the boxes
    return size, np.clip(corners, 0, np.array(frame) - size)


def _smooth(path: np.ndarray) -> np.ndarray:
    """[T,2] along time by a Gaussian of sigma `SMOOTHING`; a path that goes straight stays straight at its ends."""
    radius = int(3 * SMOOTHING)
    steps = np.arange(-radius, radius + 1)
    kernel = np.exp(-(steps**2) / (2 * SMOOTHING**2))
    path = np.pad(path, ((radius, radius), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel / kernel.sum(), mode="valid") for column in path.T], 1)
