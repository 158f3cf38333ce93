"""The frames of a shot, each where any other has it: the camera's motion from frame to frame, put together."""

from functools import lru_cache

import cv2
import numpy as np

from .camera import camera_motion, warped
from .passing import difference

SIDE = 256  # pixels a side in which motion is looked for: larger frames are made smaller first
KEPT = 80  # small frames at hand
MOVES = 8.0  # of 255: a pixel that differs more shows something else
SOFT = 5  # pixels a side over which pictures are compared
OVERHANG = 8  # pixels around a part of a frame that are read to interpolate its rim


class Registered:
    """picture: (index, (rows, columns)) -> uint8 [h,w,3], that part of a frame. size: (H, W) of the frames.
    indices: of the shot's frames. most: of the clear pixels of two frames in a row must differ by less than MOVES, at
    least, or the camera's motion is not known.

    `clear` is to be given of every frame before `follow`: uint8 [h,w] of the small size, 255 where there is nothing
    but what the film shows.
    """

    def __init__(self, picture, size: tuple[int, int], indices: range, most: float):
        self.picture, self.size, self.indices, self.most = picture, size, indices, most
        self.whole = tuple(slice(0, n) for n in size)
        self.ratio = min(1.0, SIDE / max(size))
        self.small_size = tuple(max(1, round(n * self.ratio)) for n in size)
        # a small pixel covers several: its middle is theirs
        x, y = (small / full for small, full in zip(self.small_size[::-1], size[::-1]))
        self.to_small = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])
        self.clear, self.places = {}, {}
        whole, small_size = self.whole, self.small_size

        @lru_cache(KEPT)
        def small(index):  # of nothing that refers to this object, which would then outlive its use
            return made_small(picture(index, whole), small_size)

        self.small = small  # index -> uint8 [h,w,3]

    def follow(self, index) -> None:
        """Finds the place of a frame by the one before or after; where that cannot be done a new run begins."""
        step = 1 if index - 1 in self.places or index + 1 not in self.places else -1
        run, place = self.places.get(index - step, (-1, None))
        motion = None if place is None else self._motion(index, index - step)
        self.places[index] = (run + step, np.eye(3)) if motion is None else (run, place @ motion)

    def follow_all(self, wanted: range) -> None:
        """Finds the places of these frames, and of those between them and the ones that were followed before."""
        if not self.places:
            self.follow(wanted.start)
        first, last = min(self.places), max(self.places)
        for index in [*range(last + 1, wanted.stop), *range(first - 1, wanted.start - 1, -1)]:
            self.follow(index)

    def _motion(self, index, other) -> np.ndarray | None:
        """3x3, small pixels: the camera's, from a frame to its neighbour; None where there is none to be told."""
        before, now = self.small(other), self.small(index)
        free = (self.clear[index] == 255) & (self.clear[other] == 255)
        motion = camera_motion(before, now, free)
        if motion is None:
            return None
        seen = free & (warped(self.clear[other], motion, cv2.INTER_LINEAR) == 255)
        same = follows(warped(before, motion, cv2.INTER_LINEAR), now, seen, self.most)
        return np.vstack([motion, [0, 0, 1]]) if same else None

    def way(self, index, other) -> np.ndarray | None:
        """3x3, small pixels: from those of a frame to their places in another; None where it is not known."""
        (run, here), (other_run, there) = self.places[index], self.places[other]
        return np.linalg.inv(there) @ here if run == other_run else None

    def others(self, index, lags):
        """(lag, index) of the frames that are so far from one and whose way to it is known."""
        for lag in lags:
            for other in (index - lag, index + lag):
                if other in self.indices and self.places[other][0] == self.places[index][0]:
                    yield lag, other

    def large(self, small, way, part) -> np.ndarray:
        """A part (rows, columns) of a small map of another frame, moved and at the frames' size; 0 beyond it."""
        return warped(small, (way @ self.to_small)[:2], cv2.INTER_LINEAR, part)

    def moved(self, other, way, part) -> np.ndarray:
        """float32 [h,w,3]: a part of another frame, moved to where this one has it."""
        motion = self.at_full(way)
        corners = np.array([[x, y, 1] for y in (part[0].start, part[0].stop) for x in (part[1].start, part[1].stop)])
        x, y, _ = motion @ corners.T
        box = tuple(
            slice(
                int(np.clip(np.floor(at.min()) - OVERHANG, 0, n - 1)),
                int(np.clip(np.ceil(at.max()) + OVERHANG, 1, n)),
            )
            for at, n in ((y, self.size[0]), (x, self.size[1]))
        )
        shift = np.array([[1, 0, -box[1].start], [0, 1, -box[0].start], [0, 0, 1.0]])
        return moved_part(self.picture(other, box).astype(np.float32), shift @ motion, part)

    def at_full(self, way) -> np.ndarray:
        """A motion of small pixels, in pixels of the frames."""
        return np.linalg.inv(self.to_small) @ way @ self.to_small


def made_small(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture or map of the frames' size at the small one, (h, w)."""
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA) if picture.shape[:2] != size else picture


def moved_part(picture: np.ndarray, motion: np.ndarray, part) -> np.ndarray:
    """A part (rows, columns) of a picture after a motion 3x3, sharp, with its border repeated beyond it."""
    return warped(picture, motion[:2], cv2.INTER_LANCZOS4, part, cv2.BORDER_REPLICATE)


def follows(picture: np.ndarray, now: np.ndarray, where: np.ndarray, share: float) -> bool:
    """Whether two pictures differ by less than `MOVES` in this share of the pixels of a bool map, at least.

    Looked at softly: texture that is a pixel off is no difference.
    """
    soft = (cv2.blur(p.astype(np.float32), (SOFT, SOFT)) for p in (picture, now))
    change = difference(*soft)[where]
    return bool(change.size) and bool((change < MOVES).mean() >= share)
