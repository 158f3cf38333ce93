"""What is behind the removed thing: known where it was seen before, or where the keyframe shows it, and stays so.

A window that starts from a made frame takes what is in it behind the removed thing for the truth, and makes the next
one from that, so a guess is handed on and on. But most of what is behind a thing that moves was in sight a few frames
earlier. It is kept here, and moved as the camera moves; where something else moves nearby, nothing is known.
"""

import cv2
import numpy as np
import torch

from .camera import camera_motion, warped
from .passing import picture_of

MOVES, TIMES = 8.0, 4  # of 255, and of the usual difference: a pixel that changes more than both moves on its own
FOLLOWS = 0.8  # of the pixels, at least, must change less than that with the camera, or its motion is not known
NEARBY = 6  # pixels around what moves on its own in which nothing is known
WRONG = 24.0  # of 255: what comes to light and differs more, on average, was not what the keyframe had there
LEAST = 16  # pixels that must have come to light to judge by
SURE = 0.9


class Behind:
    """Follows a run. `filled` puts what is behind the removed thing into a frame that it stands at.

    source: [3,H,W] in [0,1], the frame that a run starts from. edit: bool [H,W], where the thing may be seen in it,
    with a margin.
    """

    def __init__(self, source: torch.Tensor, edit: torch.Tensor):
        self.frame, self.edit, self.nearby = picture_of(source), edit.cpu().numpy(), disc(NEARBY)
        self.picture = self.frame.astype(np.float32)
        self.known = (~self.edit).astype(np.float32)
        self.keyframe, self.way = self.picture, np.eye(3)  # 3x3: from the pixels of the frame to the keyframe's
        self.own = 0 * self.known  # where it is the keyframe's, never seen in the source since; in its own pixels

    def take(self, keyframe: torch.Tensor, edit: torch.Tensor) -> None:
        """Takes from the edited picture [3,H,W] of the frame that it stands at what was never seen.

        edit: bool [H,W], where the picture and the frame differ, with a margin.
        """
        self.edit = self.edit | edit.cpu().numpy()
        new = self.edit & (self.known <= SURE)
        self.keyframe, self.way, self.own = picture_of(keyframe), np.eye(3), new.astype(np.float32)
        self.picture[new], self.known[new] = self.keyframe[new], 1

    def advance(self, source: torch.Tensor, edit: torch.Tensor) -> None:
        """On to the next frame [3,H,W]. edit: bool [H,W], where the removed thing may be seen in it."""
        self.move(source, edit, self.motion_to(source, edit))

    def motion_to(self, source: torch.Tensor, edit: torch.Tensor, guess=None) -> np.ndarray | None:
        """How the camera moves on the way to the next frame: see `camera_motion`."""
        return camera_motion(self.frame, picture_of(source), ~edit.cpu().numpy() & ~self.edit, guess)

    def move(self, source: torch.Tensor, edit: torch.Tensor, motion: np.ndarray | None) -> None:
        """`advance`, where the motion of the camera is known already."""
        now, edit = picture_of(source), edit.cpu().numpy()
        picture, known = self._nothing(now) if motion is None else self._moved(now, edit, motion)
        self.frame, self.edit, self.picture, self.known = now, edit, picture, known

    def _moved(self, now, edit, motion):
        """The picture, and where it is known, of the next frame."""
        maps = np.stack([self.known, (~self.edit).astype(np.float32)], -1)
        known, seen = np.moveaxis(warped(maps, motion, cv2.INTER_LINEAR), -1, 0)
        change = cv2.absdiff(warped(self.frame, motion), now)
        change = cv2.transform(cv2.boxFilter(change, cv2.CV_32F, (3, 3)), np.full((1, 3), 1 / 3))
        compared = ~edit & (seen > 0.99)
        if not compared.any() or (change[compared] < MOVES).mean() < FOLLOWS:
            return self._nothing(now)
        moves = compared & (change > max(MOVES, TIMES * float(np.median(change[compared]))))
        still = cv2.erode((~moves).astype(np.float32), self.nearby)
        # the keyframe's own is moved once from where it was given, not from frame to frame: it stays sharp for any time
        self.way = self.way @ np.vstack([motion, [0, 0, 1]])
        shown = warped(self.own, self.way[:2], cv2.INTER_LINEAR)
        picture, part = now.astype(np.float32), box_of(edit | (shown > 0))
        own, hidden = warped(self.picture, motion, cv2.INTER_LANCZOS4, part), edit[part]
        whole = shown[part] > SURE
        if whole.any():
            own[whole] = warped(self.keyframe, self.way[:2], cv2.INTER_LANCZOS4, part)[whole]
        light = ~hidden & whole  # it came to light
        if light.sum() >= LEAST and np.abs(own - picture[part]).mean(2)[light].mean() > WRONG:
            known, shown = np.where(shown > 0, 0, known), 0 * shown
            self.own[:] = 0
        picture[part][hidden] = own[hidden]
        self._leave(~edit | (still == 0))
        return picture, still * np.where(edit, np.maximum(known, shown), compared)

    def _leave(self, where) -> None:
        """Of the keyframe's own, what is in these pixels of the frame, bool [H,W], does not count any more."""
        if self.own.any():
            self.own[warped(where.astype(np.uint8), np.linalg.inv(self.way)[:2], cv2.INTER_NEAREST) > 0] = 0

    def _nothing(self, now):
        self.own[:] = 0
        return now.astype(np.float32), 0 * self.known

    def share(self) -> torch.Tensor:
        """float32 [H,W]: 1 where it is known what is behind the removed thing, falling to 0 where it is not."""
        known = cv2.erode((self.known > SURE).astype(np.float32), np.ones((3, 3), np.uint8))
        return torch.from_numpy(cv2.blur(known, (5, 5)) * self.edit)

    def filled(self, frame: torch.Tensor) -> torch.Tensor:
        """The frame [3,H,W] with what is known to be behind the removed thing, by `share`."""
        picture = torch.from_numpy(self.picture.clip(0, 255) / 255).movedim(-1, 0).to(frame)
        return torch.lerp(frame, picture, self.share().to(frame)[None])


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle (rows, columns) with all of a bool mask [H,W]; an empty one where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return tuple(slice(at[0], at[-1] + 1) if len(at) else slice(0, 0) for at in (rows, columns))


def disc(radius: int) -> np.ndarray:
    """The kernel that grows or shrinks a mask by `radius` pixels in every direction."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
