"""The backdrop of a shot: what stands still in it behind all that moves, the removed thing first of all.

The frames of a shot are registered by the camera's motion. What most of them show of a place is the backdrop, and what
differs from it in a frame moves there on its own. Behind the removed thing the nearest frame is taken that shows the
place, if most of the next ones show the same (Boyer and Moore's majority vote, 1981).
"""

from collections.abc import Callable

import cv2
import numpy as np

from .behind import NEARBY, WRONG, box_of, disc
from .camera import warped
from .moving import Moving, agree
from .passing import difference
from .registered import Registered, made_small, moved_part

LAGS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256)  # frames from one to those that are asked
BETWEEN = tuple(lag for lag in range(1, 48) if lag not in LAGS)  # asked as well where those show nothing
WITH_CAMERA = 0.8  # of a frame but for the thing, at least, must go with the camera
SAME = 30.0  # of 255: up to there two frames agree on a pixel; texture is never quite in its place
LEAST = 3  # votes after which no more frames are asked
MOST = 9  # frames that are asked about a pixel
RING = 12  # pixels around the removed thing by which frames are compared
STILL = np.eye(3)


class Backdrop:
    """picture: (index, (rows, columns)) -> uint8 [h,w,3], that part of a frame as filmed. edit: index -> bool [H,W],
    where the removed thing may be seen, with a margin; it is asked for once a frame. size: (H, W) of the frames.
    indices: of the shot's frames. scale: pixels of these frames to one of those that the model works on, which NEARBY
    and RING count. step() is called twice a frame; what it raises stops the work.
    """

    def __init__(self, picture, edit, size, indices: range, scale: float = 1.0, step: Callable = lambda: None):
        self.frames, self.scale = Registered(picture, size, indices, WITH_CAMERA), scale
        self.keyframes, self.moving = {}, {}
        for index in indices:
            step()
            seen = np.where(edit(index), 0, 255).astype(np.uint8)
            seen = made_small(seen, self.frames.small_size)
            self.frames.clear[index] = np.where(seen == 255, 255, 0).astype(np.uint8)
            self.frames.follow(index)
        moving = Moving(self.frames)
        for index in indices:
            step()
            self.moving[index] = moving.at(index)[0].astype(np.uint8)
        radius = max(1, round(NEARBY * scale * self.frames.ratio))
        for index, moves in self.moving.items():
            near = self.moving[index] = 255 * cv2.dilate(moves, disc(radius))
            self.frames.clear[index] = np.where(near > 0, 0, self.frames.clear[index])

    def take(self, index, picture, there, inside) -> bool:
        """Takes from the edited picture uint8 [H,W,3] of a frame what the film never shows.

        there: bool [H,W], where the two differ, with a margin; inside: the removed thing. Returns whether most of that
        is known from the film, and is not what the picture has there.
        """
        part = box_of(there)
        if not picture[part].size:
            return False
        plate, known = self.behind(index, there, part)
        off = np.where(known, difference(plate, picture[part]), 0)
        near = [cv2.blur(values.astype(np.float32), (5, 5)) for values in (off, known)]
        wrong = (known & (near[0] > WRONG * near[1])).astype(np.uint8)
        own = ~self._moves(index, self.frames.whole)
        own[part] &= cv2.dilate(wrong, disc(round(NEARBY * self.scale))) == 0
        self.keyframes[index] = picture, own
        both = known & inside[part]
        return bool(both.sum() > inside.sum() / 2 and off[both].mean() > WRONG)

    def behind(self, index, edit, part) -> tuple[np.ndarray, np.ndarray]:
        """What is behind the removed thing in a part (rows, columns) of a frame: of other frames, or of a keyframe.

        edit: bool [H,W] as before. Returns float32 [h,w,3] and where it is known, bool [h,w].
        """
        wide = self._wide(part)
        now, asked = self.frames.picture(index, wide).astype(np.float32), edit[wide]
        around = ~asked & (self.frames.large(self.frames.clear[index], STILL, wide) == 255)
        plate, known, asks = self._filmed(index, wide, now, asked, around)
        self._painted(index, wide, now, asked & (asks == 0), around, plate, known)
        known &= ~self._moves(index, wide)
        inner = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, wide))
        return plate[inner], known[inner]

    def _wide(self, part):
        """The part and what is around it."""
        room = round(RING * self.scale)
        return tuple(slice(max(0, s.start - room), min(n, s.stop + room)) for s, n in zip(part, self.frames.size))

    def _moves(self, index, part) -> np.ndarray:
        """bool [h,w]: near what moves on its own, in a part of a frame."""
        return self.frames.large(self.moving[index], STILL, part) > 0

    def moves_beside(self, index, edit, part) -> int:
        """How many pixels around a part of a frame are near something that moves on its own, and not in the edit."""
        wide = self._wide(part)
        return int((self._moves(index, wide) & ~edit[wide]).sum())

    def _filmed(self, index, part, now, asked, around):
        """The plate of other frames, where it is known, and how many were asked of every pixel."""
        plate, votes, asks = now.copy(), np.zeros(asked.shape, np.int8), np.zeros(asked.shape, np.int8)
        for lag, other in self.frames.others(index, LAGS + BETWEEN):
            need = asked & ((votes < LEAST) & (asks < MOST) if lag in LAGS else asks == 0)
            if not need.any():
                continue
            way = self.frames.way(index, other)
            there = self.frames.large(self.frames.clear[other], way, part) == 255
            need &= there
            if not need.any():
                continue
            picture = self.frames.moved(other, way, part)
            if not agree(picture, now, around & there):
                continue
            new = need & (votes == 0)
            plate[new] = picture[new]
            votes[need] += np.where(difference(picture, plate) < SAME, 1, -1).astype(np.int8)[need]
            asks[need] += 1
        return plate, asked & (2 * votes > asks), asks

    def _painted(self, index, part, now, need, around, plate, known) -> None:
        """Adds to both what the keyframes have where no frame shows anything."""
        for other in sorted(self.keyframes, key=lambda other: abs(other - index)):
            way = self.frames.way(index, other)
            if way is None or not need.any():
                continue
            picture, own = self.keyframes[other]
            there = self.frames.large(self.frames.clear[other], way, part) == 255
            if other != index and not agree(self.frames.moved(other, way, part), now, around & there):
                continue
            motion = self.frames.at_full(way)
            own = warped(own.astype(np.float32), motion[:2], cv2.INTER_LINEAR, part)  # nothing beyond its border
            new = need & (own > 0.99)
            plate[new] = moved_part(picture.astype(np.float32), motion, part)[new]
            known |= new
            need = need & ~new
