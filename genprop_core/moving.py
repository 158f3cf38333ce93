"""What moves on its own in the frames of a shot, found in the film alone: nobody has to say what or where.

The frames are registered by the camera's motion. What most of those around a frame show of a place stands still there,
and what differs from it in the frame moves. What stands still for most of that time counts as still.
"""

import cv2
import numpy as np

from .camera import warped
from .passing import difference
from .registered import MOVES, Registered, follows

AROUND = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32)  # frames from one to those that say what stands still in it
TIMES = 8  # a pixel that differs more than so many times the usual difference, and than MOVES, moves on its own
WITH_CAMERA = 0.7  # of a frame, at least, must go with the camera: less than elsewhere, as all that moves is in sight
LEAST = 3  # frames that must show a place to say so
FOLLOWS = 0.4  # of the pixels compared, at least, must differ less than MOVES, or a frame is of no use
APART = 16.0  # of 255: where one half of the frames differs more from the other, nothing is known
FEW = 64  # pixels, at least, to compare by


class Moving:
    """frames: the shot's, with `clear` of each that is asked for and the AROUND ones."""

    def __init__(self, frames: Registered):
        self.frames = frames

    @classmethod
    def of_film(cls, picture, size: tuple[int, int], indices: range) -> "Moving":
        """Of frames as filmed: see `Registered`."""
        frames = Registered(picture, size, indices, WITH_CAMERA)
        frames.clear = dict.fromkeys(indices, np.full(frames.small_size, 255, np.uint8))
        return cls(frames)

    def at(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What moves on its own in a frame and where that can be told, bool [h,w] of the small size, and what stands
        still, uint8 [h,w,3].

        Frames that were not followed yet are followed.
        """
        frames, around = self.frames, self.frames.indices
        first, last = max(around.start, index - AROUND[-1]), min(around.stop, index + AROUND[-1] + 1)
        frames.follow_all(range(first, last))
        now, seen = frames.small(index).astype(np.float32), frames.clear[index] == 255
        pictures = [np.where(seen[..., None], now, np.nan)]
        for _, other in frames.others(index, AROUND):
            way = frames.way(index, other)
            shown = frames.small(other), frames.clear[other]
            picture, there = (warped(p, way[:2], cv2.INTER_LINEAR) for p in shown)
            if agree(picture, now, seen & (there == 255)):
                pictures.append(np.where((there == 255)[..., None], picture, np.float32(np.nan)))
        still, apart, count = _median(np.stack(pictures))
        change = cv2.blur(np.where(count > 0, difference(still, now), 0), (3, 3))
        known = seen & (count >= LEAST) & (apart < APART)
        usual = float(np.median(change[known])) if known.any() else 0
        return known & (change > max(MOVES, TIMES * usual)), known, still.astype(np.uint8)


def agree(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> bool:
    """Whether two pictures show the same of most places of a bool map [h,w]."""
    return where.sum() >= FEW and follows(one, other, where, FOLLOWS)


def _median(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pictures [n,h,w,3] that are nan where they show nothing: the median [h,w,3], how far the two in the middle
    are apart where there is an even number, and how many there are, [h,w] each."""
    count = (~np.isnan(pictures[..., 0])).sum(0)
    ordered = np.sort(pictures, 0)  # nan comes last
    low, high = np.maximum(count - 1, 0) // 2, np.maximum(np.minimum(count // 2, count - 1), 0)
    ends = [np.nan_to_num(np.take_along_axis(ordered, at[None, ..., None], 0)[0]) for at in (low, high)]
    return (ends[0] + ends[1]) / 2, difference(*ends), count
