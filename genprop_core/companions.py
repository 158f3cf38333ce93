"""What moves beside the removed thing and goes behind it: kept as it was last seen, and moved as it moves.

`behind` knows what stands still. Something else that moves is in no still picture: a window draws what is hidden of it
faintly, the next one starts from that, and what comes out again on the other side is a ruin. But such a thing was in
sight before, and what still shows of it says how it moves. So its picture is kept, moved by the turn and shift that its
visible part makes, and put into the frames that are made. A window still starts as `next_keyframe` has it: given
that picture as well, the model can take the removed thing for what is to stay, and bring it back.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .behind import box_of, disc
from .camera import warped
from .own_motion import own_motion
from .passing import difference, picture_of
from .shade import UNTOLD, Shade, cast

MOST = 8  # companions that are followed at a time
LEAST = 48  # pixels that something must have in sight, to be followed by them
NEW = 0.2  # weight of the latest outline in its shape
LATEST = 0.5  # and of its latest motion in its pace, where all of it is in sight
UNSEEN = 6  # frames that it may go on as it went, with less than that in sight
LITTLE = 0.2  # of it: where less is in sight, that may lie in the removed thing's shadow, and tells nothing
STAYS = 0.95  # times as well must the latest look of a shadow be explained
RIM = 3  # pixels around it that say how it moves as well: its outline may be all that it has
SAME = 12.0  # of 255: where most is off by more, it did not move so


@dataclass(eq=False)
class Companion:
    """picture: float32 [H,W,3]; shape: float32 [H,W], how much each pixel is the companion's; pace: 2x3, its turn and
    growth, and how far its middle goes, from a frame to the one before, as it usually is, or None for one that is new;
    unseen: frames since enough of it was in sight; whole: whether it was in full sight; shade: its shadow, if it has
    one that could be told."""

    picture: np.ndarray
    shape: np.ndarray
    pace: np.ndarray | None = None
    unseen: int = 0
    whole: bool = True
    shade: Shade | None = None

    def known(self) -> np.ndarray:
        """bool [H,W]: where it is."""
        return self.shape > 0.5

    def middle(self) -> np.ndarray:
        return np.argwhere(self.known()).mean(0)[::-1]

    def expected(self) -> np.ndarray:
        """2x3: its motion from the next frame to the one that it stands at, if it goes on as usual."""
        if self.pace is None:
            return np.eye(3)[:2]
        linear, step, here = self.pace[:, :2], self.pace[:, 2], self.middle()
        return np.hstack([linear, (here - linear @ (here - step))[:, None]])

    def move(self, motion: np.ndarray, seen: float) -> None:
        """On by a motion, 2x3, of which the share `seen` of it has told."""
        part = self.part(motion)
        picture, shape = np.zeros_like(self.picture), np.zeros_like(self.shape)
        picture[part] = warped(self.picture, motion, cv2.INTER_LANCZOS4, part).clip(0, 255)
        shape[part] = warped(self.shape, motion, cv2.INTER_LINEAR, part)
        self.picture, self.shape = picture, shape
        if self.known().any():
            here = self.middle()
            pace = np.hstack([motion[:, :2], (motion @ np.append(here, 1) - here)[:, None]])
            self.pace = pace if self.pace is None else self.pace + LATEST * seen * (pace - self.pace)

    def part(self, motion: np.ndarray) -> tuple[slice, slice]:
        """(rows, columns) of the next frame that hold it after a motion, with its rim."""
        return box_of(cv2.dilate((warped(self.shape, motion, cv2.INTER_NEAREST) > 0).astype(np.uint8), disc(RIM)) > 0)


class Companions:
    """Follows a run. `whole` is the companions in the frame that it stands at, with what cannot be seen of them.

    source: [3,H,W] in [0,1], the frame that a run starts from; edit: bool [H,W], where the removed thing may be seen in
    it, with a margin; others: bool [H,W], the companions, as far as they are in sight. near: pixels from the edit, in
    which an outline may be cut. dark: as in `look`.
    """

    def __init__(self, source: torch.Tensor, edit: torch.Tensor, others: torch.Tensor, near: int = RIM, dark=None):
        self.frame, self.edit, self.near, self.all = picture_of(source), edit.cpu().numpy(), disc(near), []
        self.soft = cv2.blur(self.frame, (3, 3))
        self.look(others.cpu().numpy(), dark)

    def advance(self, source: torch.Tensor, edit: torch.Tensor, others: torch.Tensor, dark=None) -> None:
        """On to the next frame [3,H,W]."""
        self.follow(source, edit)
        self.look(others.cpu().numpy(), dark)

    def follow(self, source: torch.Tensor, edit: torch.Tensor) -> None:
        """On to the next frame [3,H,W] by what is known so far; `look` is still to follow."""
        before, self.frame = self.frame, picture_of(source)
        self.soft = cv2.blur(self.frame, (3, 3))
        seen, self.edit = ~self.edit, edit.cpu().numpy()
        self.all = [one for one in self.all if self._moved(one, before, seen)]

    def _moved(self, one: Companion, before, seen) -> bool:
        """Moves a companion on to the frame; False where its motion is not to be told."""
        guess, unseen, pace = one.expected(), one.unseen, one.pace
        whole = cv2.dilate((warped(one.shape, guess, cv2.INTER_LINEAR) > 0.5).astype(np.uint8), disc(RIM)) > 0
        where = whole & ~self.edit & (warped(seen.astype(np.uint8), guess, cv2.INTER_NEAREST) > 0)
        motion, seen = guess, where.sum() / max(1, whole.sum())
        one.unseen = 0 if where.sum() >= LEAST else unseen + 1
        if not one.unseen:
            motion, wrong = self._motion(one, before, where, guess)
            if wrong >= SAME and seen < LITTLE:
                motion, one.pace, one.unseen = guess, pace, unseen + 1
        if one.unseen > UNSEEN or (one.unseen and one.pace is None):
            return False
        one.move(motion, 0 if one.unseen else seen)
        known = one.known()
        there = known & ~self.edit
        tells = there.any() if not one.unseen else there.sum() >= LITTLE * known.sum()
        return bool(known.any()) and (not tells or np.median(self._off(one.picture, there)) < SAME)

    def _motion(self, one: Companion, before, where, guess) -> tuple[np.ndarray, float]:
        """2x3: as it is expected to go, or, where it does not, in any other way; and by how much it is off then."""
        best, least = guess, np.inf
        for way, known in ((guess, one.pace is not None), (guess, False), (np.eye(3)[:2], False)):
            motion = own_motion(before, self.frame, where, way, known)
            part = one.part(motion)
            there = np.zeros_like(self.edit)
            there[part] = (warped(one.shape, motion, cv2.INTER_LINEAR, part) > 0.5) & ~self.edit[part]
            if not there.any():
                continue
            picture = np.zeros_like(one.picture)
            picture[part] = warped(one.picture, motion, cv2.INTER_LINEAR, part)
            wrong = float(np.median(self._off(picture, there)))
            if wrong < least:
                best, least = motion, wrong
            if least < SAME:
                break
            one.pace = None  # it goes another way now
        return best, least

    def _off(self, picture, there) -> np.ndarray:
        """How far a picture is from the frame in the pixels of a bool map: [n]."""
        if not there.any():
            return np.zeros(0, np.float32)
        part = box_of(there)
        return difference(cv2.blur(picture[part], (3, 3)), self.soft[part])[there[part]]

    def look(self, others, dark=None) -> None:
        """Takes what is in sight of the companions, bool [H,W]: the outlines of those in full sight; of one that is
        hidden in part, or is near another, only how it looks where it must be. dark: uint8 [H,W], as in
        `shade.darkness`, for the shadows of those in full sight; smaller than the frame, if things are followed so."""
        parts = _parts(others & ~self.edit)
        beside = cv2.dilate(self.edit.astype(np.uint8), self.near) > 0
        cut = [bool((part & beside).any()) for part in parts]
        known = {one: one.known() for one in self.all}
        owners = [[one for one in self.all if known[one][part].any()] for part in parts]
        for one in self.all:
            there = known[one] & ~self.edit
            there[there] = self._off(one.picture, there) < SAME  # another, or a shadow, may lie on the rest
            mine = [n for n, of in enumerate(owners) if one in of]
            if mine and all(owners[n] == [one] and not cut[n] for n in mine) and not (known[one] & beside).any():
                # of two that were taken for one, and part, the larger
                outline = parts[max(mine, key=lambda n: (parts[n] & known[one]).sum())]
                one.shape += (NEW if one.whole else 1) * (outline - one.shape)
                one.whole = True
                there |= outline
                self._shade(one, dark)
            one.picture[there] = self.frame[there]
        self.all = [one for one in self.all if one.known().any()]
        new = [n for n, of in enumerate(owners) if not of]
        for n in sorted(new, key=lambda n: parts[n].sum(), reverse=True)[: max(0, MOST - len(self.all))]:
            one = Companion(self.frame.astype(np.float32), parts[n].astype(np.float32), whole=not cut[n])
            self.all.append(one)
            if one.whole:
                self._shade(one, dark)

    def _shade(self, one: Companion, dark) -> None:
        """Looks for the shadow of a companion in full sight, if it is told where; one that was seen better stays."""
        if dark is None:
            return
        shape, edit, ratio = one.shape, self.edit, len(self.edit) / len(dark)
        if shape.shape != dark.shape:
            shape, edit = (
                cv2.resize(of.astype(np.float32), dark.shape[::-1], interpolation=cv2.INTER_AREA)
                for of in (shape, edit)
            )
        shade = cast(shape, dark / np.float32(254), (dark != UNTOLD) & (edit == 0))
        if shade is not None and (one.shade is None or shade.explained > STAYS * one.shade.explained):
            one.shade = shade.enlarged(ratio)

    def shades(self) -> torch.Tensor:
        """float32 [1,H,W]: the share of the light that their shadows take, less the longer one was not in sight."""
        light = np.ones(self.edit.shape, np.float32)
        for one in self.all:
            if one.shade is not None:
                light *= 1 - one.shade.on(one.shape) * (1 - one.unseen / (UNSEEN + 1))
        return torch.from_numpy(1 - light)[None]

    def shown(self) -> np.ndarray:
        """bool [H,W]: where the frame looks as one of them does that must be there."""
        shown = np.zeros_like(self.edit)
        for one in self.all:
            there = one.known()
            there[there] = self._off(one.picture, there) < SAME
            shown |= there
        return shown

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The companions, with what is hidden of them: the picture [3,H,W] in [0,1], and how much it is to count,
        float32 [1,H,W]; less the longer one was not in sight."""
        picture, share = self.frame.astype(np.float32), np.zeros(self.edit.shape, np.float32)
        for one in self.all:
            sure = cv2.blur(cv2.erode(one.known().astype(np.float32), np.ones((3, 3), np.uint8)), (3, 3))
            sure *= 1 - one.unseen / (UNSEEN + 1)
            better = sure > share
            picture[better], share[better] = one.picture[better], sure[better]
        return torch.from_numpy(picture.clip(0, 255) / 255).movedim(-1, 0), torch.from_numpy(share)[None]


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a bool mask that can be followed."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    return [part for part in (parts == n for n in range(1, count)) if part.sum() >= LEAST]
