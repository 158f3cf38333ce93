"""The removed thing as one that keeps its outline: whose is a pixel, where two things touch.

Flow and colours cannot tell two things of like colours that touch, or what comes out from behind the removed one. But a
thing that kept its looks and its outline so far shifts, turns and grows as a whole: what is in its outline and looks as
it does is it, and what else is taken for it is another's. What bends or walks soon does not fit, and nothing is said of
it. Nor is what lies outside an outline another's as long as the thing may go on there: it may come out from behind
another, or into the picture.
"""

import cv2
import numpy as np

from .behind import disc
from .camera import warped
from .companions import LEAST, NEW, RIM, SAME, UNSEEN, Companion
from .own_motion import own_motion
from .passing import KEPT, REMOVED, difference

FITS = 0.7  # of what is in sight of it, at least, looks as it did, or it has changed
FIRM = 0.85  # and this much, to say that what lies outside of it is another's
SEEN = 0.5  # or it is not in sight
WHOLE = 0.8  # of it that must be in sight to tell how it grows
KEEPS = 0.9  # how well outlines in full sight agree with it, in the mean, or it bends
LATEST, SHAPE = 0.2, 0.5  # weights of the latest of them
OFF = 2  # pixels by which its outline may be off
BESIDE = 6  # pixels around it that must be free of others, for it to be in full sight
OPEN = 8  # pixels around it where others were, and no backdrop since, that leave open whether it ends there
RECENT = 32  # frames after others were beside it, in which they may come out from behind it


class Stiff:
    """Follows a run.

    frame: uint8 [H,W,3], that it starts from. Bool [H,W]: thing, the removed thing in it, without its shadow; shadow,
    that shadow, as far as it was removed; others, what else moves.
    """

    def __init__(self, frame, thing, shadow, others):
        self.frame, self.shadow = frame, shadow.astype(np.float32)
        self.keeps, self.fits, self.match, self.met, self.alone = 1.0, 1.0, thing, RECENT + 1, True
        self._begin(thing)
        self.open = (_grown(thing, BESIDE) & ~thing & (_core(others) | _border(thing))).astype(np.float32)

    def _begin(self, thing) -> None:
        self.one = None
        if thing.sum() >= LEAST:
            self.one = Companion(self.frame.astype(np.float32), thing.astype(np.float32))

    def advance(self, now: np.ndarray, others: np.ndarray) -> None:
        """On to the next frame, uint8 [H,W,3]; others: bool [H,W], what surely is another thing's in it."""
        before, self.frame, one, others = self.frame, now, self.one, _core(others)
        if one is None:
            return
        drawn = np.where(one.known()[..., None], one.picture, before).clip(0, 255).astype(np.uint8)
        free, best, least, guess = ~_grown(others, OFF), None, np.inf, one.expected()
        for way, known in ((guess, one.pace is not None), (guess, False), (np.eye(3)[:2], False)):
            where = free & _grown(warped(one.shape, way, cv2.INTER_LINEAR) > 0.5, RIM)
            motion = own_motion(drawn, now, where, way, known)
            there, off = self._off(motion)
            seen = there & ~others
            wrong = float(np.median(off[seen])) if seen.sum() >= LEAST else np.inf
            if wrong < least:
                best, least = (motion, there & (off < SAME), seen, seen.sum() / there.sum()), wrong
            if least < SAME:
                break
        motion, self.match, seen, share = best or (guess, np.zeros_like(others), others, 0)
        self.fits = float((self.match & seen).sum() / max(1, seen.sum())) if best else 0.0
        one.unseen = 0 if self.fits > SEEN else one.unseen + 1
        motion = guess if one.unseen else motion if self.alone and share >= WHOLE else _as_large(motion, seen)
        middle = one.middle()
        one.move(motion, 0 if one.unseen else self.fits * share)
        if one.unseen > UNSEEN or not one.known().any():
            self.one = None
            return
        self.open = warped(self.open, motion, cv2.INTER_LINEAR)
        self.shadow = warped(self.shadow, np.hstack([np.eye(2), (middle - one.middle())[:, None]]), cv2.INTER_LINEAR)

    def _off(self, motion) -> tuple[np.ndarray, np.ndarray]:
        """Where it is after a motion, without its rim, and how far its looks are from the frame's, [H,W]."""
        there = _core(warped(self.one.shape, motion, cv2.INTER_LINEAR) > 0.5)
        moved = cv2.blur(warped(self.one.picture, motion, cv2.INTER_LINEAR), (3, 3))
        return there, difference(moved, cv2.blur(self.frame, (3, 3)))

    def known(self) -> np.ndarray | None:
        """bool [H,W]: where it surely is, with what is hidden of it; None where that is not known."""
        sure = self.one is not None and not self.one.unseen and self.fits >= FITS and self.keeps >= KEEPS
        return self.one.known() if sure else None

    def sort(self, kind, colour, shadow, moves, still, companions) -> None:
        """Corrects what is said of a frame, as `Mover.sort` does.

        Bool [H,W]: shadow, what is but a darker backdrop; moves, still: what surely does; companions, what looks as one
        of them does.
        """
        said, known = (kind == REMOVED) & ~shadow, self.known()
        self.more = np.zeros_like(said)
        if known is not None:
            new = (self.match | (self.shadow > 0.5) & shadow & moves) & (kind != REMOVED)
            kind[new], colour[new] = REMOVED, self.frame[new]
        beside = False if self.one is None else _grown(self.one.known() | said, BESIDE)
        cast = _grown(self.shadow > 0.5, OFF)  # what is behind it may not be known, so that it does not look like one
        self.alone = self.one is not None and not _core(beside & (kind == KEPT) & moves & ~shadow & ~cast).any()
        self.met = 0 if not self.alone else self.met + 1
        if known is None:
            return
        self.open *= ~(still | shadow & moves)
        self.more = said & ~_grown(known, OFF) & (~cast | companions) & (self.fits >= FIRM)
        if (self.open > 0.5).sum() > OPEN:
            self.more &= companions
        elif self.met > RECENT:
            self.more[:] = False
        kind[self.more], colour[self.more] = KEPT, self.frame[self.more]

    def look(self, thing, shadow) -> None:
        """Learns from the frame that was sorted: bool [H,W], where the thing is, without its shadow, and where that may
        be."""
        if self.one is None:
            self.keeps = 0.0
            return self._begin(thing)
        known = self.one.known()
        there = known & self.match
        thing = thing | there  # some of it may look like a shadow
        self.one.picture[there] = self.frame[there]
        if not thing.any() or not self.alone or _core(self.more).any():
            return
        agree = (thing & _grown(known, OFF)).sum() / thing.sum(), (known & _grown(thing, OFF)).sum() / known.sum()
        self.keeps += LATEST * (min(agree) - self.keeps)
        self.shadow += NEW * ((shadow & _grown(self.shadow > 0.5, OFF)) - self.shadow)
        self.one.shape += (SHAPE if min(agree) > KEEPS else 1) * (thing - self.one.shape)
        self.one.picture[thing] = self.frame[thing]
        self.open = (_grown(thing, BESIDE) & ~thing & _border(thing)).astype(np.float32)


def _as_large(motion, seen) -> np.ndarray:
    """A motion 2x3 without its growth; the middle of what is seen, bool [H,W], stays where it is."""
    middle = np.argwhere(seen).mean(0)[::-1]
    linear = motion[:, :2] / np.sqrt(np.linalg.det(motion[:, :2]))
    return np.hstack([linear, (motion @ np.append(middle, 1) - linear @ middle)[:, None]])


def _grown(mask, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), disc(pixels)) > 0


def _core(mask) -> np.ndarray:
    return cv2.erode(mask.astype(np.uint8), disc(1)) > 0


def _border(mask) -> np.ndarray:
    """The picture's border, bool [H,W], as wide as BESIDE."""
    border = np.ones_like(mask, bool)
    border[BESIDE:-BESIDE, BESIDE:-BESIDE] = False
    return border
