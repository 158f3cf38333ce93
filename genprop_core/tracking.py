"""Where the removed thing is in the frames to come, followed through the source before they are made.

A model sees one window. Once the removed thing was all but hidden, or looks like something else, it may take it for
what is to stay, and from then on it is back. But the source alone shows where it goes, by five things of which none
would do alone: optical flow carries on which pixels are the thing's (`passing`); what looks as that behind it does is
not it (`behind`); its colours tell it from the rest where nothing is known of what is behind, and when it comes out
from behind something else; what moves on its own in the shot has an outline (`mover`); and a thing that does not bend
keeps its own (`stiff`). Where they say nothing, the model decides.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .behind import SURE, Behind, disc
from .companions import Companions
from .compositing import THRESHOLD
from .confidence import MARGIN
from .frames import resize
from .mover import Mover, filled, without_specks
from .moving import Moving
from .next_keyframe import FAR, grown
from .passing import KEPT, LOST, REMOVED, Passing, difference, edited, picture_of
from .shade import SAME, darkness, factor_of
from .stiff import Stiff
from .thing_colours import Colours

STAYS = 2.0  # of 255: what changes less from frame to frame did not move in the picture
LARGEST = 0.5  # of the picture: what differs in more of it is no thing, but another exposure, say
REACH, SPEED = 40, 4  # pixels from where it was last seen, and more for each frame since, that it is looked for in
SHOWN, UNSHOWN = 0.5, 0.1  # share of a part that the model's mask covers
GAP = 4  # pixels between followed parts that are the thing's as well: spokes and thin limbs are followed in part
BESIDE = 4  # pixels from the thing, from where on what moves can be surely another's,
MOSTLY = 0.5  # and the share of a latent pixel in which that must be; and of a part, to be like the most of it
SURELY = 0.3  # share of a companion's outline that surely is another's
SPECK = 2  # pixels across half of what is no companion
EDGE = 3  # pixels around the thing that are neither surely its nor another's
SHADE = (0.25, 0.97)  # factors of what is behind it, that make a pixel its shadow and no part of it


class Tracking:
    """Follows a run; `region` is where the thing is in the frame that it stands at.

    source, keyframe: [3,H,W] in [0,1], the frame that a run starts from and its edited picture. moving: of its shot;
    index: of that frame. full: (height, width) that pictures are made at, where that is not the frames' size.
    """

    def __init__(self, source: torch.Tensor, keyframe: torch.Tensor, moving: Moving, index: int, full=None):
        self.full, self.size = full or moving.frames.size, moving.frames.small_size
        source, keyframe = self._small(source), self._small(keyframe)
        edit = self._grown(edited(source, keyframe).numpy(), MARGIN)
        self.passing, self.behind = Passing(source, keyframe), Behind(source, edit)
        self.behind.take(keyframe, edit)
        self.thing = self.passing.kind == REMOVED
        if self.thing.mean() > LARGEST:
            self.passing.kind[self.thing] = LOST
            self.thing = np.zeros_like(self.thing)
        self.empty = ~edit.numpy()
        self.hidden, self.colours = 0, Colours()
        self.mover = Mover(moving, index, self.thing)
        now = picture_of(source)
        self.colours.learn(now, self.thing & ~_shadow(now, picture_of(keyframe)), edit.numpy())
        self._by_what_moves(now, np.ones_like(self.thing), self.thing)
        self.thing = self.last = without_specks(self.passing.kind == REMOVED)
        shadow = _shadow(now, self.mover.backdrop) | _shadow(now, picture_of(keyframe))
        others = self.mover.moves & ~shadow & ~self._grown(self.thing, EDGE).numpy()
        self.stiff = Stiff(now, self.thing & ~shadow, self.thing & shadow, others)
        self.beside = Companions(source, self._grown(self.thing, EDGE), self.companions()[0])

    def _small(self, frame):
        return resize(frame[None], *self.size)[0]

    def advance(self, source: torch.Tensor, index: int) -> None:
        """On to the run's next frame [3,H,W], index `index` of the clip."""
        source, before = self._small(source), self.mover.index
        self.mover.look(index)
        now = picture_of(source)
        self.hidden = 0 if self.thing.any() else self.hidden + 1
        near = cv2.dilate(self.last.astype(np.uint8), disc(REACH + SPEED * self.hidden)) > 0
        stays = (self.passing.kind == REMOVED) & (_soft(difference(now, self.passing.frame)) < STAYS)
        self.passing.advance(source, self._grown(self.passing.kind == REMOVED, MARGIN // 2), self._zone(near))
        kind = self.passing.kind
        kind[stays & (kind == LOST)] = REMOVED  # at the picture's border, say, where flow cannot look beyond
        edit = self._grown(kind == REMOVED if (kind == REMOVED).any() else self.last, MARGIN)
        self.motion = self.behind.motion_to(source, edit, guess=self.mover.way(before))
        self.behind.move(source, edit, self.motion)
        known = self.behind.known > SURE
        self.empty = known & (_soft(difference(now, self.behind.picture)) < SAME)  # what is behind it is in sight there
        kind[self.empty & (kind == REMOVED)] = KEPT
        telling = self.colours.telling(now)
        found = without_specks(near & telling & ~self.empty & ~self.mover.still() & (kind == LOST))
        kind[found], self.passing.colour[found] = REMOVED, now[found]
        kind[(kind == REMOVED) & ~known & ~telling & ~self.mover.moves] = LOST
        self._by_what_moves(now, near, known & ~self.empty)
        shadow = _shadow(now, self.mover.backdrop) | _shadow(now, self.behind.picture) & known
        self._by_outlines(source, now, shadow)
        self.thing = without_specks(kind == REMOVED)
        whole = self.mover.of_its_size(self.thing)
        kind[self.thing & ~whole] = LOST
        self.thing = whole
        self.mover.note(self.thing)
        self.stiff.look(self.thing & ~shadow, self.mover.moves & shadow)
        self.beside.look(self.companions()[0].numpy())
        self.last = self.thing if self.thing.any() else self.last
        sure = self.thing & known & ~_shadow(now, self.behind.picture)
        self.colours.learn(now, sure, edit.numpy())

    def _by_what_moves(self, now, near, differs) -> None:
        kind, colour = self.passing.kind, self.passing.colour
        self.empty = self.mover.sort(kind, colour, now, near, self.empty, differs, self.colours.telling)

    def _by_outlines(self, source, now, shadow) -> None:
        """Corrects it by the thing as a whole, and by the companions, which are followed up to it, not beyond."""
        kind, moves = self.passing.kind, self.mover.moves
        self.stiff.advance(now, (kind == KEPT) & moves & ~shadow)
        whole = self.stiff.known()
        self.beside.follow(source, self._grown(kind == REMOVED if whole is None else whole, EDGE))
        still = self.mover.known & ~moves
        self.stiff.sort(kind, self.passing.colour, shadow, moves, still, self.beside.shown())

    def _grown(self, mask: np.ndarray, pixels: int) -> torch.Tensor:
        return grown(torch.from_numpy(mask.astype(np.float32))[None, None], pixels)

    def _zone(self, near: np.ndarray) -> torch.Tensor:
        """bool [H,W]: where the thing may be; while all of it is hidden, anywhere near the place where it was last."""
        return torch.from_numpy(near) if self.hidden else self._grown(self.thing, FAR)

    def correct(self, mask: torch.Tensor) -> None:
        """The model's soft mask [1,1,H,W] of the frame that it stands at: where pixels were lost, it decides; and of
        several parts of the thing, when it shows one and nothing of another, that other is none."""
        kind = self.passing.kind
        mask = resize(mask.float(), *self.size)[0, 0].cpu().numpy() > THRESHOLD
        count, parts = cv2.connectedComponents(self.thing.astype(np.uint8))
        shown = [float(mask[parts == part].mean()) for part in range(1, count)]
        if max(shown, default=0) > SHOWN:
            kind[np.isin(parts, [part for part, share in enumerate(shown, 1) if share < UNSHOWN])] = KEPT
        kind[mask & (kind == LOST) & ~self.empty] = REMOVED

    def camera_motion(self) -> np.ndarray | None:
        """How the camera moved to the frame that it stands at, in pixels of the full size: see `camera.py`."""
        if self.motion is None:
            return None
        small, full = (np.diag([*reversed(size), 1.0]) for size in (self.size, self.full))
        scale = full @ np.linalg.inv(small)
        return (scale @ np.vstack([self.motion, [0, 0, 1]]) @ np.linalg.inv(scale))[:2]

    def outline(self) -> torch.Tensor:
        """bool [1,h,w]: the thing in the frame that it stands at, at the size that it is followed in."""
        closed = cv2.morphologyEx(self.thing.astype(np.uint8), cv2.MORPH_CLOSE, disc(GAP)) > 0
        return torch.from_numpy(self.thing | closed & ~self.empty)[None]

    def others(self) -> torch.Tensor:
        """bool [1,h,w]: what moves on its own and surely is none of the thing: followed from where nothing was edited.

        Mere shadows may be the thing's. While all of it is hidden it may be lost, and nothing is sure.
        """
        others = without_specks((self.passing.kind == KEPT) & self.mover.moves & ~self._near() & self.thing.any())
        _, parts = cv2.connectedComponents(others.astype(np.uint8))
        shadow = np.bincount(parts.ravel(), _shadow(self.passing.frame, self.mover.backdrop).ravel())
        mere = shadow > MOSTLY * np.bincount(parts.ravel())
        return torch.from_numpy(others & ~mere[parts])[None]

    def _near(self) -> np.ndarray:
        return cv2.dilate(self.outline()[0].numpy().astype(np.uint8), disc(BESIDE)) > 0

    def companions(self) -> torch.Tensor:
        """bool [1,h,w]: all that is in sight of the `others`, without their shadows: their outlines, filled."""
        moves, near = self.mover.moves & ~_shadow(self.passing.frame, self.mover.backdrop), self._near()
        whole = (filled(moves & ~near, SPECK) & ~near).astype(np.uint8)
        _, parts = cv2.connectedComponents(cv2.morphologyEx(whole, cv2.MORPH_OPEN, disc(SPECK)))
        sure = np.bincount(parts.ravel(), self.others()[0].numpy().ravel()) > SURELY * np.bincount(parts.ravel())
        return torch.from_numpy(sure[parts] & (parts > 0))[None]

    def darkness(self) -> torch.Tensor:
        """`shade.darkness` of the frame that it stands at, uint8 [1,h,w]."""
        return torch.from_numpy(darkness(self.passing.frame, self.mover.backdrop, self.mover.known))[None]

    def region(self) -> torch.Tensor:
        """`as_region` of the frame that it stands at, [1,H/8,W/8]."""
        return as_region(self.outline(), self.others(), self.full)


def as_region(outlines: torch.Tensor, others: torch.Tensor, size) -> torch.Tensor:
    """bool [...,1,h,w], the thing and what surely is another's -> `Condition.region` of pictures of this size (H, W).

    float32 [...,1,H/8,W/8]: the thing's share of each latent pixel; where it has none, down to -1 by how much of it is
    another's.
    """
    mine, theirs = (F.adaptive_avg_pool2d(of.float(), [n // 8 for n in size]) for of in (outlines, others))
    return torch.where(mine > 0, mine, -(theirs / MOSTLY).clamp(max=1))


def _shadow(now: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """bool [H,W]: where a frame [H,W,3] is but a darker picture of what is behind the thing."""
    factor, off = factor_of(now, behind)
    return (factor > SHADE[0]) & (factor < SHADE[1]) & (off < SAME)


def _soft(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (3, 3))
