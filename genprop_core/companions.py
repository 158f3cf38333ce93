"""What moves beside the removed thing and goes behind it: kept as it was last seen, and moved as it moves.

`behind` knows what stands still. Something else that moves is in no still picture: a window draws what is hidden of it
faintly, the next one starts from that, and what comes out again on the other side is a ruin. But such a thing was in
sight before, and what still shows of it says how it moves. So its picture is kept, moved by the turn and shift that its
visible part makes, and put into the frames that are made.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .anchor import with_missed
from .behind import box_of, disc
from .camera import warped
from .compositing import alpha
from .confidence import MARGIN
from .frames import resize
from .passing import difference, picture_of

CLOSE = 2  # pixels around the mask in which a companion is shown as it was; beyond them the film shows it
LEAST = 48  # pixels that something must have in sight, to be followed by them
NEW = 0.2  # weight of the latest outline in its shape
LATEST = 0.5  # and of its latest motion in its pace, where all of it is in sight
UNSEEN = 6  # frames that it may go on as it went, with less than that in sight
RIM = 3  # pixels around it that say how it moves as well: its outline may be all that it has
SAME = 12.0  # of 255: where most is off by more, it did not move so
SOFTER = (0.25, 0.06)  # blurs, of its reach, in which its motion is looked for, one after the other
ITERATIONS, ENOUGH = 8, 0.02  # of a blur, at most; and pixels, a step below which ends it
ROOM = 16  # pixels around it that are read
LONGEST = 128  # pixels a side that are looked at for that
SURPRISE = (1.0, 1.0, 1.0, 0.15)  # pixels that it may go, turn or grow otherwise than expected
WEIGHT = 64  # of that, in pixels that say otherwise


@dataclass(eq=False)
class Companion:
    """picture: float32 [H,W,3]; shape: float32 [H,W], how much each pixel is the companion's; pace: 2x3, its turn and
    growth, and how far its middle goes, from a frame to the one before, as it usually is, or None for one that is new;
    unseen: frames since enough of it was in sight."""

    picture: np.ndarray
    shape: np.ndarray
    pace: np.ndarray | None = None
    unseen: int = 0

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
        self.picture = warped(self.picture, motion, cv2.INTER_LANCZOS4)
        self.shape = warped(self.shape, motion, cv2.INTER_LINEAR)
        if self.known().any():
            here = self.middle()
            pace = np.hstack([motion[:, :2], (motion @ np.append(here, 1) - here)[:, None]])
            self.pace = pace if self.pace is None else self.pace + LATEST * seen * (pace - self.pace)


class Companions:
    """Follows a run. `whole` is the companions in the frame that it stands at, with what cannot be seen of them.

    source: [3,H,W] in [0,1], the frame that a run starts from; edit: bool [H,W], where the removed thing may be seen in
    it, with a margin; others: bool [H,W], the companions, as far as they are in sight.
    """

    def __init__(self, source: torch.Tensor, edit: torch.Tensor, others: torch.Tensor):
        self.frame, self.edit, self.all = picture_of(source), edit.cpu().numpy(), []
        self._look(others.cpu().numpy())

    def advance(self, source: torch.Tensor, edit: torch.Tensor, others: torch.Tensor) -> None:
        """On to the next frame [3,H,W]."""
        before, self.frame = self.frame, picture_of(source)
        seen, self.edit = ~self.edit, edit.cpu().numpy()
        self.all = [one for one in self.all if self._moved(one, before, seen)]
        self._look(others.cpu().numpy())

    def _moved(self, one: Companion, before, seen) -> bool:
        """Moves a companion on to the frame; False where its motion is not to be told."""
        guess = one.expected()
        whole = cv2.dilate((warped(one.shape, guess, cv2.INTER_LINEAR) > 0.5).astype(np.uint8), disc(RIM)) > 0
        where = whole & ~self.edit & (warped(seen.astype(np.float32), guess, cv2.INTER_LINEAR) > 0.99)
        one.unseen = 0 if where.sum() >= LEAST else one.unseen + 1
        if one.unseen > UNSEEN or (one.unseen and one.pace is None):
            return False
        if one.unseen:
            one.move(guess, 0)
        else:
            one.move(self._motion(one, before, where, guess), where.sum() / whole.sum())
        there = one.known() & ~self.edit
        return bool(one.known().any()) and (not there.any() or self._wrong(one.picture, there) < SAME)

    def _motion(self, one: Companion, before, where, guess) -> np.ndarray:
        """2x3: as it is expected to go, or, where it does not, in any other way."""
        ways = [(guess, one.pace is not None), (guess, False), (np.eye(3)[:2], False)]
        best, least = None, np.inf
        for way, known in ways:
            motion = own_motion(before, self.frame, where, way, known)
            there = (warped(one.shape, motion, cv2.INTER_LINEAR) > 0.5) & ~self.edit
            wrong = self._wrong(warped(one.picture, motion, cv2.INTER_LINEAR), there) if there.any() else np.inf
            if best is None or wrong < least:
                best, least = motion, wrong
            if least < SAME:
                break
            one.pace = None  # it goes another way now
        return best

    def _wrong(self, picture, there) -> float:
        """How far most of what is in sight is from the frame."""
        return float(np.median(self._off(picture)[there]))

    def _off(self, picture) -> np.ndarray:
        """How far a picture is from the frame, [H,W]."""
        return difference(cv2.blur(picture, (3, 3)), cv2.blur(self.frame, (3, 3)))

    def _look(self, others) -> None:
        """Takes what is in sight of the companions, bool [H,W]: the outlines of those in full sight; of one that is
        hidden in part, or is near another, only how it looks where it must be."""
        parts = _parts(others & ~self.edit)
        beside = cv2.dilate(self.edit.astype(np.uint8), disc(RIM)) > 0
        known = {one: one.known() for one in self.all}
        owners = [[one for one in self.all if known[one][part].any()] for part in parts]
        for one in self.all:
            mine = [part for part, of in zip(parts, owners) if one in of]
            there = known[one] & ~self.edit & (self._off(one.picture) < SAME)  # another, or a shadow, may lie on it
            if len(mine) == 1 and owners.count([one]) == 1 and not ((mine[0] | known[one]) & beside).any():
                there = mine[0] | there
                one.shape += NEW * (mine[0] - one.shape)
            one.picture[there] = self.frame[there]
        self.all = [one for one in self.all if one.known().any()]
        new = [part for part, of in zip(parts, owners) if not of]
        self.all += [Companion(self.frame.astype(np.float32), part.astype(np.float32)) for part in new]

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The companions, with what is hidden of them: the picture [3,H,W] in [0,1], and how much it is to count,
        float32 [1,H,W]; less the longer one was not in sight."""
        picture, share = self.frame.astype(np.float32), np.zeros(self.edit.shape, np.float32)
        for one in self.all:
            known = one.known()
            picture[known] = one.picture[known]
            sure = cv2.blur(cv2.erode(known.astype(np.float32), np.ones((3, 3), np.uint8)), (3, 3))
            share = np.maximum(share, sure * (1 - one.unseen / (UNSEEN + 1)))
        return torch.from_numpy(picture.clip(0, 255) / 255).movedim(-1, 0), torch.from_numpy(share)[None]


class Beside:
    """`Companions` along a run of windows, each frame once. view: as in `window_chain.Chain`."""

    def __init__(self, view):
        self.view, self.companions, self.known = view, None, {}

    def laid(self, frames, source, mask, seen, start: int) -> torch.Tensor:
        """A window's frames [n,3,H,W] in [0,1] with what is hidden of the companions.

        source, mask: [n,3,H,W] and [n,1,H,W] of the window; seen: bool [1,h,w] of each frame of the run so far, what is
        in sight of them; start: the window's place in the run.
        """
        done = max(self.known, default=start - 1) + 1
        for n in range(done - start, len(frames)):
            edit = alpha(mask[n : n + 1], MARGIN // 2, 0)[0, 0] > 0
            others = resize(seen[start + n][None].float(), *self.view.fit.size)[0, 0] > 0.5
            if self.companions is None:
                self.companions = Companions(source[n], edit, others)
            else:
                self.companions.advance(source[n], edit, others)
            self.known[start + n] = self.companions.whole()
        self.known = {place: known for place, known in self.known.items() if place >= start}
        pictures, share = (torch.stack(of).to(frames) for of in zip(*self.known.values()))
        changed = with_missed(mask, frames, source)  # some of what is in sight may have been taken for the edit
        return torch.lerp(frames, pictures, share * alpha(changed, CLOSE, CLOSE).to(frames))

    def at(self, place: int, size: tuple[int, int]) -> torch.Tensor:
        """bool [1,h,w] of this size: where a frame of the latest window was given them, or they are in sight."""
        if place not in self.known:
            return torch.zeros(1, *size, dtype=torch.bool)
        return resize(self.known[place][1][None], *size)[0] > 0.5


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a bool mask that can be followed."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    return [part for part in (parts == n for n in range(1, count)) if part.sum() >= LEAST]


def own_motion(before: np.ndarray, now: np.ndarray, where: np.ndarray, guess: np.ndarray, known: bool) -> np.ndarray:
    """2x3, from pixels of `now` to their places in `before`: shift, turn and growth of what is in bool [H,W] `where`.

    Gauss-Newton on the colours, as in `camera`, but held near a guess, since little may be in sight. known: whether the
    guess is one; else it is only where to begin.
    """
    part = tuple(slice(max(0, s.start - ROOM), s.stop + ROOM) for s in box_of(where))
    height, width = where[part].shape
    scale = min(1.0, LONGEST / max(height, width))
    x, y = np.meshgrid(*(np.arange(0.5 / scale, n, 1 / scale) - 0.5 for n in (width, height)))
    used = cv2.resize(where[part].astype(np.uint8), x.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    at = np.stack([x + part[1].start, y + part[0].start], -1)
    middle = at[used].mean(0)
    reach = max(1.0, float(np.abs(at[used] - middle).max()))
    off = (at - middle)[used] / reach
    one, nil = np.ones(len(off)), np.zeros(len(off))
    turns = np.stack([-off[:, 1], off[:, 0]], -1)
    basis = np.stack([np.stack([one, nil], -1), np.stack([nil, one], -1), turns, off], -1)  # [n,2,4]
    motion, total = np.vstack([guess, [0, 0, 1]]), np.zeros(4)
    for blur in SOFTER:
        soft = max(blur * reach, 0.8 / scale)
        old, new = (cv2.GaussianBlur(p.astype(np.float32), (0, 0), soft) for p in (before, now))
        grid = at.astype(np.float32)
        target = cv2.remap(new, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for _ in range(ITERATIONS):
            there = (at @ motion[:2, :2].T + motion[:2, 2]).astype(np.float32)
            moved = cv2.remap(old, there[..., 0], there[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            error = (target - moved)[used]  # [n,3]
            size = np.abs(error).mean(1)
            usual = max(1.0, 1.5 * float(np.median(size)))
            weight = 1 / np.square(1 + np.square(size / usual))
            dx, dy = (cv2.Sobel(moved, cv2.CV_32F, *axis, scale=scale / 8)[used] for axis in ((1, 0), (0, 1)))
            slopes = np.einsum("nkc,nkp->ncp", np.stack([dx, dy], 1), basis)
            normal = np.einsum("ncp,n,ncq->pq", slopes, weight, slopes)
            held = np.diag(WEIGHT * (usual / np.array(SURPRISE)) ** 2) * (1 if known else 0.01)
            step = np.linalg.solve(normal + held, np.einsum("ncp,n,nc->p", slopes, weight, error) - held @ total)
            total += step
            shift, turn, growth = step[:2], step[2] / reach, step[3] / reach
            linear = np.array([[1 + growth, -turn], [turn, 1 + growth]])
            further = np.eye(3)
            further[:2, :2], further[:2, 2] = linear, middle - linear @ middle + shift
            motion = motion @ further
            if np.abs(step).max() < ENOUGH:
                break
    return motion[:2]
