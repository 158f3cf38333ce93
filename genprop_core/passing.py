"""What only passes through the mask is no part of the edit: the source shows it, and so it is to stay.

A mask is coarse, and what a model makes inside it of something that passes before the removed thing is faint. Handed on
as the keyframe of the next window, faint looks edited: from then on the wrong thing is removed, and the right one comes
back. So the pixels near the mask are followed from frame to frame, from the picture that was edited by hand on. One
that comes from outside the mask and looks as it did there is the source's own.

Followed by optical flow (Farneback, SCIA 2003), once per colour channel, of which the best is taken pixel by pixel: two
things of one brightness still differ in a colour.
"""

import cv2
import numpy as np
import torch

from .frames import as_bytes

FLOW = {"pyr_scale": 0.5, "levels": 3, "winsize": 9, "iterations": 5, "poly_n": 5, "poly_sigma": 1.1, "flags": 0}
SAME = 12.0  # mean difference in 1/255 up to which a pixel looks as it did
EDITED, UNTOUCHED = 12.0, 6.0  # of keyframe and source: from there on edited, up to there not
SHIFTED = 2  # pixels that a colour can have got into its neighbours
SPECK = 4  # pixels that look new and make no edit
BRIGHTNESS = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of red, green and blue (Rec. 709)
MAJORITY = 0.4  # of the 25 pixels around one that was lost, more of one kind than of the other by this share
REACH = 32  # pixels around the region that are looked at: nothing moves farther from one frame to the next
KEPT, LOST, REMOVED = 1, 0, -1


class Passing:
    """Follows a run's pixels; `kept` says which of those of the frame it stands at are the source's own.

    source, keyframe: [3,H,W] in [0,1], the frame that a run starts from and its edited picture.
    """

    def __init__(self, source: torch.Tensor, keyframe: torch.Tensor):
        self.frame = picture_of(source)
        difference = _edit(self.frame, picture_of(keyframe))
        near = cv2.dilate((difference > UNTOUCHED).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        self.kind = np.where(difference > EDITED, REMOVED, np.where(near, LOST, KEPT)).astype(np.float32)
        self.colour = self.frame.astype(np.float32)  # as each pixel looked when it was last sure what it is

    def advance(self, source: torch.Tensor, mask: torch.Tensor, region: torch.Tensor) -> None:
        """On to the next frame [3,H,W]. mask, region: bool [H,W], where the edit is and where it may be."""
        now, mask, region = picture_of(source), mask.cpu().numpy(), region.cpu().numpy()
        kind, colour = np.full(region.shape, KEPT, np.float32), now.astype(np.float32)
        rows, columns = np.nonzero(region | (self.kind != KEPT))
        if len(rows):
            box = tuple(slice(max(0, at.min() - REACH), at.max() + 1 + REACH) for at in (rows, columns))
            kind[box], colour[box] = self._followed(now[box], mask[box], region[box], box)
        self.frame, self.kind, self.colour = now, kind, colour

    def _followed(self, now, mask, region, box):
        """Kind and colour of the pixels of a box of the next frame."""
        x, y, mismatch = _origins(now, self.frame[box])
        kind = cv2.remap(self.kind[box], x, y, cv2.INTER_NEAREST)
        colour = cv2.remap(self.colour[box], x, y, cv2.INTER_LINEAR)
        same = (difference(colour, now) < SAME) & (mismatch < SAME)
        kind = np.where(same, kind, LOST).astype(np.float32)
        votes = cv2.blur(kind, (5, 5))
        kind = np.where((kind == LOST) & (np.abs(votes) > MAJORITY), np.sign(votes), kind)
        outside = ~region & (kind != REMOVED)
        kind[outside] = KEPT
        sure = outside | (mask & (kind == REMOVED)) | ~same
        return kind, np.where(sure[..., None], now, colour)

    def kept(self) -> torch.Tensor:
        """float32 [1,H,W]: 1 where the frame is the source's own, falling to 0 near where it may not be."""
        sure = cv2.erode((self.kind == KEPT).astype(np.float32), np.ones((3, 3), np.uint8))
        return torch.from_numpy(cv2.blur(sure, (3, 3)))[None]


def edited(source: torch.Tensor, keyframe: torch.Tensor) -> torch.Tensor:
    """bool [H,W]: where the picture that was edited by hand [3,H,W] is not its source."""
    return torch.from_numpy(_edit(picture_of(source), picture_of(keyframe)) > UNTOUCHED)


def _edit(source: np.ndarray, keyframe: np.ndarray) -> np.ndarray:
    """How far they differ, [H,W]; no more than UNTOUCHED in parts that are but colour out of place.

    Film has a half or a quarter of the pixels for colour, so at a sharp rim a keyframe from elsewhere has other colours
    than the film, though nobody edited it. They are to be found beside it, and it is as bright.
    """
    off = cv2.blur(difference(source, keyframe), (3, 3))
    around = np.ones((2 * SHIFTED + 1, 2 * SHIFTED + 1), np.uint8)
    low, high = (edge(source, around).astype(np.float32) for edge in (cv2.erode, cv2.dilate))
    new = np.maximum(low - keyframe, keyframe - high).max(2) > UNTOUCHED
    new |= np.abs((source.astype(np.float32) - keyframe) @ BRIGHTNESS) > EDITED
    count, parts = cv2.connectedComponents((off > UNTOUCHED).astype(np.uint8), connectivity=8)
    rims = np.bincount(parts[new], minlength=count) <= SPECK
    return np.where(rims[parts], np.minimum(off, UNTOUCHED), off)


def picture_of(frame: torch.Tensor) -> np.ndarray:
    """[3,H,W] -> uint8 [H,W,3], for OpenCV."""
    return as_bytes(frame).movedim(0, -1).cpu().numpy()


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.float32) - other).mean(2)


def _origins(now: np.ndarray, before: np.ndarray):
    """For every pixel of `now` [H,W,3] its place in `before`, x and y, and how much it looks otherwise there."""
    height, width = now.shape[:2]
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    best = None
    for channel in range(3):
        one, other = (np.ascontiguousarray(picture[..., channel]) for picture in (now, before))
        flow = cv2.calcOpticalFlowFarneback(one, other, None, **FLOW)
        x, y = grid_x + flow[..., 0], grid_y + flow[..., 1]
        mismatch = cv2.blur(difference(cv2.remap(before, x, y, cv2.INTER_LINEAR), now), (5, 5))
        mismatch[(x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)] = np.inf
        found = (x, y, mismatch)
        best = found if best is None else tuple(np.where(mismatch < best[2], n, o) for n, o in zip(found, best))
    return best
