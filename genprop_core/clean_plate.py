"""The clean plate: what is behind a removed thing and in sight in another frame, put into the finished clip.

What a model makes behind a removed thing is a guess, and coarser than the film. Often nothing has to be guessed: the
thing moves, or the camera does, and the place is in sight earlier or later, or in a keyframe: `Backdrop` finds it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from .anchor import with_missed
from .backdrop import Backdrop
from .behind import box_of
from .clip_input import as_sharp_as, at_size
from .compositing import THRESHOLD, alpha
from .confidence import MARGIN
from .crop import edit_mask
from .frames import as_bytes, as_float
from .passing import difference, picture_of

KEPT = 4.0  # of 255: what was made and is nearer than that to the film was kept
EMPTY = 8.0  # of 255: up to there the film shows the backdrop itself


@dataclass
class Laid:
    """known: float32 [T], how much of each frame's mask is known; overruled: indices of keyframes in whose place the
    film shows something else."""

    known: torch.Tensor
    overruled: list = field(default_factory=list)


def lay(
    out, masks, source, keyframes, shots, scale: float = 1.0, weight=None, sure=False, stays=None, shade=None, step=None
) -> Laid:
    """Puts what is known into `out`, in place, near the masks.

    out: uint8 [T,3,H,W], what was made; source: the same as filmed, uint8 or float in [0,1]; masks: uint8 [T,1,H,W].
    keyframes: {frame index: [3,h,w]}. shots: [(start, stop)]; nothing is taken from one to another, and those without
    a keyframe stay as they are. scale: pixels of these frames to one of those that the model works on. weight:
    mask [1,1,H,W] -> how much may be replaced there, for a clip that is composited already; None for all. sure:
    whether the masks are the user's, so that nothing within them is to stay. stays: frame index -> float [1,1,H,W],
    what moves before the backdrop all the same; shade: the same of the light that its shadows take; None for nothing.
    step() is called three times for every frame; what it raises stops the work.
    """
    laid = Laid(torch.zeros(len(out)))
    laying = _Laying(out, masks, source, scale, weight, sure, stays, shade, laid, step or (lambda: None))
    for start, stop in shots:
        given = {k: f for k, f in keyframes.items() if start <= k < stop}
        laying.lay(given, range(start, stop))
    return laid


@dataclass
class _Laying:
    """One clip at work."""

    out: torch.Tensor
    masks: torch.Tensor
    source: torch.Tensor
    scale: float
    weight: Callable | None
    sure: bool
    stays: Callable | None
    shade: Callable | None
    laid: Laid
    step: Callable[[], None]

    def lay(self, given, shot: range) -> None:
        """One shot. given: its keyframes, {frame index: [3,h,w]}."""
        if not given:
            for _ in range(3 * len(shot)):
                self.step()
            return
        size = tuple(self.source.shape[-2:])
        backdrop = Backdrop(self._film, self._edit, size, shot, self.scale, self.step)
        for index, frame in given.items():
            self._take(backdrop, index, frame)
        for index in shot:
            self.step()
            self._put(backdrop, index)

    def _film(self, index, part) -> np.ndarray:
        return picture_of(self.source[(index, slice(None), *part)])

    def _made(self, index) -> tuple[torch.Tensor, torch.Tensor]:
        """The mask of a frame with what it missed [1,1,H,W], and where the removed thing may be seen, bool [H,W]."""
        mask = with_missed(self.masks[index][None], self.out[index][None], as_bytes(self.source[index])[None])
        return mask, alpha(mask, round(MARGIN * self.scale), 0)[0, 0] > 0

    def _edit(self, index) -> np.ndarray:
        return self._made(index)[1].numpy()

    def _take(self, backdrop, index, frame) -> None:
        """A keyframe, for what the film never shows."""
        keyframe = at_size(frame, self.source)[0]
        differs = edit_mask(as_sharp_as(frame, as_bytes(self.source[index])), keyframe)
        there = (alpha(differs[None], round(MARGIN * self.scale), 0)[0, 0] > 0).numpy()
        # of the mask, what was edited: it may reach over something beside it, where the keyframe is the film's own
        inside = ((self._made(index)[0][0, 0] > THRESHOLD) & (differs[0] > THRESHOLD)).numpy()
        if backdrop.take(index, picture_of(keyframe), there, inside):
            self.laid.overruled.append(index)

    def _put(self, backdrop, index) -> None:
        """What is known into the frame, as far as it is believed."""
        mask, edit = self._made(index)
        own, part = self.masks[index][None], box_of(edit.numpy())
        film, made = (f.astype(np.float32) for f in (self._film(index, part), picture_of(self.out[index])[part]))
        if not made.size:
            return
        plate, known = backdrop.behind(index, edit.numpy(), part)
        if self.shade is not None:
            plate = plate * (1 - self.shade(index)[0, 0][part].numpy())[..., None]
        empty, within = _empty(plate, film), as_float(own[0, 0][part])
        believed = torch.maximum(_believed(plate, film, made), empty)
        if self.weight is not None:  # as if it had been composited with the plate
            faded = self.weight(own)[0, 0][part]
            plate = torch.lerp(torch.from_numpy(film), torch.from_numpy(plate), faded[..., None]).numpy()
            within = (faded > 0).float()
        if self.sure:
            believed = torch.maximum(believed, within)
        told = (known | ~edit[part].numpy()).astype(np.float32)
        share = cv2.blur(cv2.erode(told, np.ones((3, 3), np.uint8)), (5, 5)) * told  # beyond it the plate is the film
        share = torch.from_numpy(share) * edit[part] * believed
        if self.stays is not None:
            share = share * (1 - self.stays(index)[0, 0][part])
        if self.weight is not None:
            share = share * within
        if share.any():
            mixed = torch.lerp(torch.from_numpy(made), torch.from_numpy(plate), share[..., None])
            self.out[(index, slice(None), *part)] = as_bytes(mixed.clamp(0, 255).movedim(-1, 0) / 255)
        covered = mask[0, 0][part] * (1 - empty * torch.from_numpy(known))  # an empty place says nothing of the edit
        if covered.any():  # and what moves beside the mask may be a part of the thing that it missed
            beside = backdrop.moves_beside(index, edit.numpy(), part)
            self.laid.known[index] = (share * covered).sum() / (covered.sum() + beside)


def _believed(plate, film, made) -> torch.Tensor:
    """float32 [H,W]: 1 where the frame as made is nearer to the plate than to the film, falling to 0 where it is not.

    Something else that moves may be hidden by the mask, of which the backdrop knows nothing: what the model kept of the
    film is not for the plate to take away. What it changed is compared where it changed something, as its neighbours
    that it kept are no nearer to anything.
    """
    from_plate, from_film = difference(plate, made), difference(film, made)
    changed = (from_film > KEPT).astype(np.float32)
    nearer = _mean(from_plate, 5) <= _mean(from_film, 5)
    drawn = changed * (_mean(changed * from_plate, 5) <= _mean(changed * from_film, 5))
    drawn = _mean(drawn, 3) / np.maximum(_mean(changed, 3), 1e-6)
    believed = np.where(changed > 0, drawn, _mean(nearer.astype(np.float32), 3))
    return torch.from_numpy(believed.astype(np.float32))


def _empty(plate, film) -> torch.Tensor:
    """float32 [H,W]: 1 where the film shows the plate itself, so that nothing can be before it."""
    same = difference(_mean(plate, 5), _mean(film, 5)) < EMPTY
    return torch.from_numpy(_mean(same.astype(np.float32), 3))


def _mean(values: np.ndarray, side: int) -> np.ndarray:
    return cv2.blur(values, (side, side))
