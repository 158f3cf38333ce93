"""The removed thing as one of the things that move in a shot: which of them is it, and what of it.

Where a thing ends flow cannot tell, and it loses what turns, bends or is fast. What moves on its own is known for every
frame (`moving`), with its outline; it only has to be told from what else moves. So parts of what moves are the thing's
if flow says so of them, or if they are where it must have moved on to. Where two things touch, each pixel that flow
lost goes to the one that is nearer, and to the thing only with its colours.
"""

import cv2
import numpy as np

from .behind import disc
from .camera import warped
from .moving import Moving
from .passing import KEPT, LOST, REMOVED

MOSTLY = 0.5  # share of a followed part that moves on its own, from which on it is expected to
GAP = 2  # pixels between parts of what moves that belong together
HOLE = 4  # pixels across half a gap in the thing's outline: where it looks like what is behind it, nothing moves
OWN = 0.2  # share of a part of what moves that was followed there, from which on all of it is the thing's
MAIN = 0.5  # share of the thing that surely is no bit of another
EXPECTED = 0.5  # or that is where the thing must have moved on to
LARGER = 1.5  # times the thing's size, that such a part may have
NEW, SHAPE = 0.15, 0.4  # weight of the latest frame in its shape, and from where on that counts
SHRINKS, GROWS = 0.99, 1.02  # times its size, from frame to frame
AT_MOST = 1.3  # times its size: as much is believed of what was followed
STEADY = 9  # frames that say how fast it is: what hides a part of it moves its middle for a few


class Mover:
    """moving: of the shot. index: of the frame that a run starts from; thing: bool [h,w], where it is edited."""

    def __init__(self, moving: Moving, index: int, thing: np.ndarray):
        self.moving, self.index = moving, index
        self.moves = self.known = self.backdrop = None  # of the frame that it stands at
        self.is_one = False  # whether the thing was seen to move
        self.last, self.seen, self.size, self.speed = thing, index, float(thing.sum()), []
        self.shape = thing.astype(np.float32)
        self.look(index)

    def look(self, index: int) -> None:
        """On to another frame of the shot."""
        self.index = index
        self.moves, self.known, self.backdrop = self.moving.at(index)

    def way(self, index: int) -> np.ndarray | None:
        """2x3: from pixels of the frame that it stands at to their places in another; None where it is not known."""
        way = self.moving.frames.way(self.index, index)
        return None if way is None else way[:2]

    def still(self) -> np.ndarray:
        """bool [h,w]: what stands still, if the thing was seen to move, so that it is none of it."""
        return self.known & ~self.moves & self.is_one

    def sort(self, kind, colour, now, near, empty, differs, telling) -> np.ndarray:
        """Corrects what flow says of a frame.

        kind: float32 [h,w] of KEPT, LOST and REMOVED, colour: float32 [h,w,3], as in `passing.Passing`; both in place.
        now: uint8 [h,w,3]; bool [h,w]: near, where the thing may be; empty, where what is behind it is in sight;
        differs, where that is known to look otherwise. telling: picture [h,w,3] -> bool [h,w], where its colours are
        the thing's. Returns where it cannot be, bool [h,w].
        """
        followed = kind == REMOVED
        expected = self._mostly_moving(followed)
        self.is_one |= bool(expected.any())
        if not self.is_one:
            return empty
        still, here, taken = self.still(), telling(now), telling(self.backdrop)  # taken for what stands still
        stays = followed & (filled(expected & self.moves) | ~expected | differs | taken)
        kind[still & (near | expected) & ~stays] = LOST
        for whose, new in zip((REMOVED, KEPT), self._told_apart(kind, (empty | taken & ~here) & ~followed, here)):
            kind[new], colour[new] = whose, now[new]
        kind[filled((kind == REMOVED) & self.moves) & (kind == LOST) & still] = REMOVED
        return (empty | still) & (kind != REMOVED)

    def _mostly_moving(self, followed) -> np.ndarray:
        """Those followed parts that move on their own, by and large; the others stand still or are the edit's rim."""
        count, parts = cv2.connectedComponents(followed.astype(np.uint8))
        known, moves = (np.bincount(parts[of], minlength=count) for of in (self.known, self.known & self.moves))
        mostly = (known > 0) & (moves >= MOSTLY * known)
        mostly[0] = False
        return mostly[parts]

    def _told_apart(self, kind, empty, telling) -> tuple[np.ndarray, np.ndarray]:
        """What moves and is the thing's, or another's, though flow may have lost it: bool [h,w] each."""
        found, another, ahead = np.zeros_like(empty), np.zeros_like(empty), self._ahead()
        closed = cv2.morphologyEx(self.moves.astype(np.uint8), cv2.MORPH_CLOSE, disc(GAP))
        count, parts = cv2.connectedComponents(closed)
        for number in range(1, count):
            part = (parts == number) & self.moves
            inside = part & ~empty
            mine, others = inside & (kind == REMOVED), without_specks(inside & (kind == KEPT))
            if others.any():
                if not (mine & ahead).any() and mine.sum() < MAIN * (kind == REMOVED).sum():
                    another |= mine  # it went along with the other thing
                lost, nearer = inside & (kind == LOST), _distance(mine) < _distance(others)
                found |= lost & nearer & telling
                another |= lost & ~nearer
            elif inside.sum() > LARGER * self.size:
                continue  # two things that touch
            elif mine.sum() >= OWN * inside.sum() or (part & ahead).sum() >= EXPECTED * part.sum():
                found |= inside
        return found, another

    def _ahead(self) -> np.ndarray:
        """bool [h,w]: where the thing must be, going on from where it was last seen."""
        return filled(self._went_on(self.shape) > SHAPE)

    def _went_on(self, shape) -> np.ndarray:
        """A map of the frame that the thing was last seen in, moved on as that moves."""
        way = self.way(self.seen)
        if way is None:
            return shape
        speed = np.median(self.speed, 0) if self.speed else np.zeros(2)
        moved = speed * abs(self.index - self.seen)
        to_last = np.hstack([way[:, :2], way[:, 2:] - way[:, :2] @ moved[:, None]])
        return warped(shape, to_last, cv2.INTER_LINEAR)

    def of_its_size(self, thing: np.ndarray) -> np.ndarray:
        """What was followed, bool [h,w], without what is too much for the thing: what is farthest from where it must
        have moved on to. A thing grows as it comes nearer, but not from frame to frame."""
        most = int(AT_MOST * self.size)
        if thing.sum() <= most:
            return thing
        ahead = self._went_on(self.shape) > SHAPE
        if not ahead.any():
            return thing
        away = np.where(thing, _distance(ahead), np.inf)
        return away <= np.partition(away.ravel(), most)[most]

    def note(self, thing: np.ndarray) -> None:
        """Takes where the thing is in the frame that it stands at, bool [h,w]."""
        if not thing.any():
            return
        back = self.moving.frames.way(self.seen, self.index)
        if back is not None and self.seen != self.index:
            before, here = _middle(self.last), _middle(thing)
            speed = (here - back[:2] @ np.append(before, 1)) / abs(self.index - self.seen)
            self.speed = [*self.speed[-STEADY + 1 :], speed]
        self.size = float(np.clip(thing.sum(), SHRINKS * self.size, GROWS * self.size))
        kept = self._went_on(self.shape)
        self.shape = NEW * thing + (1 - NEW) * kept
        self.last, self.seen = thing, self.index


def filled(mask: np.ndarray, hole: int = HOLE) -> np.ndarray:
    """With gaps up to twice `hole` pixels closed, and all that is enclosed."""
    padded = np.pad(mask, hole).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc(hole))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(closed, outlines, -1, 1, -1)[hole:-hole, hole:-hole] > 0


def without_specks(mask: np.ndarray) -> np.ndarray:
    """A bool mask without what is thinner than 3 pixels."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def _distance(mask: np.ndarray) -> np.ndarray:
    """Of every pixel from the mask; infinite where that is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)


def _middle(mask: np.ndarray) -> np.ndarray:
    """(x, y)"""
    return np.argwhere(mask).mean(0)[::-1]
