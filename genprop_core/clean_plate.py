"""The clean plate: what is behind a removed thing and in sight in another frame, put into the finished clip.

What a model makes behind a removed thing is a guess, and coarser than the film. Often nothing has to be guessed: the
thing moves, or the camera does, and the place is in sight earlier or later, or in a keyframe. `Behind` follows it from
there, once forwards and once backwards in time, and says where it is known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from .anchor import with_missed
from .behind import WRONG, Behind, box_of
from .clip_input import as_sharp_as, at_size
from .compositing import THRESHOLD, alpha
from .confidence import MARGIN
from .crop import edit_mask
from .frames import as_bytes, as_float
from .passing import difference, picture_of


@dataclass
class Laid:
    """known: float32 [T], how much of each frame's mask is known; overruled: indices of keyframes in whose place the
    film shows something else."""

    known: torch.Tensor
    overruled: list = field(default_factory=list)


def lay(out, masks, source, keyframes, shots, scale: float = 1.0, weight=None, sure=False, step=None) -> Laid:
    """Puts what is known into `out`, in place, near the masks.

    out: uint8 [T,3,H,W], what was made; source: the same as filmed, uint8 or float in [0,1]; masks: uint8 [T,1,H,W].
    keyframes: {frame index: [3,h,w]}. shots: [(start, stop)]; nothing is taken from one to another, and those without
    a keyframe stay as they are. scale: pixels of these frames to one of those that the model works on. weight:
    mask [1,1,H,W] -> how much may be replaced there, for a clip that is composited already; None for all. sure:
    whether the masks are the user's, so that nothing within them is to stay. step() is called twice for every frame;
    what it raises stops the work.
    """
    laid = Laid(torch.zeros(len(out)))
    laying = _Laying(out, masks, source, scale, weight, sure, laid, step or (lambda: None))
    for start, stop in shots:
        given = {k: f for k, f in keyframes.items() if start <= k < stop}
        orders = [range(start, stop), range(stop - 1, start - 1, -1)]
        if given and max(given) - start > stop - 1 - min(given):
            orders.reverse()  # what is seen in the film comes last, over what a keyframe has there
        for order in orders:
            laying.follow(given, order)
    return laid


@dataclass
class _Laying:
    """One clip at work. motions: {(from, to): the camera's}, found in one direction and used in the other as well."""

    out: torch.Tensor
    masks: torch.Tensor
    source: torch.Tensor
    scale: float
    weight: Callable | None
    sure: bool
    laid: Laid
    step: Callable[[], None]
    motions: dict = field(default_factory=dict)

    def follow(self, given, order) -> None:
        """One direction of one shot. given: its keyframes, {frame index: [3,h,w]}."""
        behind, margin, last = None, round(MARGIN * self.scale), None
        for index in order:
            self.step()
            if not given:
                continue
            frame, own = as_bytes(self.source[index]), self.masks[index][None]
            mask = with_missed(own, self.out[index][None], frame[None])
            edit = alpha(mask, margin, 0)[0, 0] > 0
            if behind is None:
                behind = Behind(frame, edit, self.scale, cautious=False)
            else:
                behind.move(frame, edit, self._motion(behind, last, index, frame, edit))
            if index in given:
                keyframe = at_size(given[index], self.source)[0]
                if _disagree(behind, keyframe, mask) and index not in self.laid.overruled:
                    self.laid.overruled.append(index)
                differs = edit_mask(as_sharp_as(given[index], frame), keyframe)
                behind.take(keyframe, alpha(differs[None], margin, 0)[0, 0] > 0)
            self._put(index, behind, edit, own, mask)
            last = index

    def _motion(self, behind, last, index, frame, edit):
        """The camera's from the last frame to this one; its inverse is kept for the way back."""
        if (last, index) not in self.motions:
            self.motions[last, index] = motion = behind.motion_to(frame, edit)
            self.motions[index, last] = None if motion is None else cv2.invertAffineTransform(motion)
        return self.motions[last, index]

    def _put(self, index, behind, edit, own, mask) -> None:
        """What is known into the frame, as far as it is believed."""
        part = box_of(edit.numpy())
        shown = behind.picture, behind.frame, picture_of(self.out[index])
        plate, film, made = (picture[part].astype(np.float32) for picture in shown)
        believed = _believed(plate, film, made)
        if self.sure:
            believed = torch.maximum(believed, as_float(own[0, 0][part]))
        share = (behind.share() * edit)[part] * believed
        if self.weight is not None:
            share = share * self.weight(own)[0, 0][part]
        if share.any():
            mixed = torch.lerp(torch.from_numpy(made), torch.from_numpy(plate), share[..., None])
            self.out[(index, slice(None), *part)] = as_bytes(mixed.clamp(0, 255).movedim(-1, 0) / 255)
        size = mask.sum()
        if size:
            known = (share * mask[0, 0][part]).sum() / size
            self.laid.known[index] = torch.maximum(self.laid.known[index], known)


def _disagree(behind, keyframe, mask) -> bool:
    """Whether most of what the mask covers is known from the film, and is not what the keyframe has there."""
    inside = (mask[0, 0] > THRESHOLD).numpy()
    both = inside & (behind.share() > 0.99).numpy()
    return both.sum() > inside.sum() / 2 and difference(behind.picture, picture_of(keyframe))[both].mean() > WRONG


def _believed(plate, film, made) -> torch.Tensor:
    """float32 [H,W]: 1 where the frame as made is nearer to the plate than to the film, falling to 0 where it is not.

    Something else that moves may be hidden by the mask, of which `Behind` knows nothing: what the model kept of the
    film is not for the plate to take away.
    """
    if not made.size:
        return torch.zeros(made.shape[:2])
    from_plate, from_film = (cv2.blur(difference(other, made), (5, 5)) for other in (plate, film))
    return torch.from_numpy(cv2.blur((from_plate <= from_film).astype(np.float32), (3, 3)))
