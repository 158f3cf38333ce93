"""What comes in with a clip, checked before any sampling and given out window by window at the working size."""

from dataclasses import dataclass

import numpy as np
import torch

from .colour import KINDS
from .compositing import THRESHOLD
from .conditioning import mask_to_latents
from .confidence import to_size
from .errors import GenPropError
from .fit import Fit
from .frames import as_float, resize
from .passing import picture_of

MASK_MODES = ("replace", "join")
MASK_TOLERANCE = 0.1  # of the aspect ratio: one made at a working size in multiples of 64 may be off by some of it
CHOICES = {
    "mask_mode": MASK_MODES,
    "second_pass": ("off", "black", "blur"),
    "colour": ("off", *KINDS),
    "crop": ("off", "auto"),
}  # of `long_clip.ClipSettings`
EDITED = "Edit an exported frame of the source, without cropping it."


def check_aspect(keyframe, frames, tolerance=0.02, what="a keyframe", how=EDITED):
    """Raises GenPropError when the keyframe's (height, width) has another aspect ratio than the frames'.

    what: it is, where it is no keyframe, and how to make it, for the message.
    """
    ratio = (keyframe[1] / keyframe[0]) / (frames[1] / frames[0])
    if abs(ratio - 1) > tolerance:
        turned = abs((keyframe[0] / keyframe[1]) / (frames[1] / frames[0]) - 1) <= tolerance
        why = " If the source was filmed upright, it is stored turned: export it again first." if turned else ""
        raise GenPropError(
            f"Expected {what} of the source's aspect ratio ({frames[1]}x{frames[0]}), "
            f"got {keyframe[1]}x{keyframe[0]}. {how}{why}"
        )


def check_clip(frames) -> None:
    if frames.ndim != 4 or frames.shape[0] < 2 or frames.shape[1] != 3:
        raise GenPropError(f"Expected a clip of at least 2 frames [T,3,H,W], got shape {tuple(frames.shape)}.")
    for index, frame in enumerate(frames):
        _check_numbers(frame, f"frame {index} of the clip")


def _check_numbers(picture, what: str) -> None:
    if picture.is_floating_point() and not picture.isfinite().all():
        raise GenPropError(
            f"Expected numbers from 0 to 1, but {what} has some that are none (NaN or infinite). Look at what made it."
        )


def check_keyframes(keyframes, frames) -> dict[int, torch.Tensor]:
    """{index: [3,h,w]} in order of index, from such a dict, from (index, frame) pairs, or from one frame (index 0).

    Raises GenPropError for none, for an index outside the clip or given twice, and for sizes that do not fit.
    """
    if isinstance(keyframes, torch.Tensor):
        keyframes = {0: keyframes}
    pairs = list(keyframes.items() if isinstance(keyframes, dict) else keyframes)
    if not pairs:
        raise GenPropError("Expected at least one keyframe, got none. Give an edited frame.")
    found = {}
    for index, frame in sorted(pairs, key=lambda pair: pair[0]):
        if not 0 <= index < len(frames):
            raise GenPropError(
                f"Expected keyframe indices from 0 to {len(frames) - 1} for this clip, got {index}. "
                "Frames count from 0."
            )
        if index in found:
            raise GenPropError(f"Expected one keyframe for frame {index}, got two. Leave one out.")
        if frame.ndim != 3 or frame.shape[0] != 3:
            raise GenPropError(f"Expected the keyframe of frame {index} as [3,H,W], got {list(frame.shape)}.")
        check_aspect(frame.shape[-2:], frames.shape[-2:])
        _check_numbers(frame, f"the keyframe of frame {index}")
        found[index] = frame
    sizes = {i: f"{f.shape[2]}x{f.shape[1]}" for i, f in found.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} for frame {i}" for i, size in sizes.items())
        raise GenPropError(f"Expected keyframes of one size, got {told}. Export them all at the source's size.")
    return found


def check_choices(settings) -> None:
    """Raises GenPropError for a setting that is none of its kind."""
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            raise GenPropError(f"Expected {', '.join(choices)} as {name}, got {getattr(settings, name)!r}.")
    if settings.grow < 0 or settings.feather < 0:
        raise GenPropError(f"Expected grow and feather of at least 0, got {settings.grow} and {settings.feather}.")


def check_mask(mask, frames):
    """[1 or T,1,H,W] of a given mask [1 or T,H,W] or [1 or T,1,H,W]; None stays None. Raises where it fits nothing."""
    if mask is None:
        return None
    mask = mask[:, None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise GenPropError(f"Expected a mask [T,H,W] or [T,1,H,W], got {list(mask.shape)}.")
    if len(mask) not in (1, len(frames)):
        raise GenPropError(
            f"The mask has {len(mask)} frames, the video {len(frames)}. Give one mask, or {len(frames)}."
        )
    ratio = mask.shape[-1] / mask.shape[-2] * frames.shape[-2] / frames.shape[-1]
    if abs(ratio - 1) > MASK_TOLERANCE and mask.any():  # an empty one is no region at all
        raise GenPropError(
            f"Expected a mask of the source's aspect ratio ({frames.shape[-1]}x{frames.shape[-2]}), got "
            f"{mask.shape[-1]}x{mask.shape[-2]}. Give a mask of the whole frame."
        )
    return mask


def check_shows_something(mask, mode: str) -> None:
    """Raises GenPropError for a mask [n,1,H,W] in the predicted one's place that is empty in every frame."""
    if mask is not None and mode == "replace" and not any((as_float(one) > THRESHOLD).any() for one in mask):
        raise GenPropError(
            "Expected a mask that shows where the edit is (white), but it is empty: nothing would change. Give "
            "another, or leave it out, and it is predicted."
        )


def at_size(keyframe, frames) -> torch.Tensor:
    """A keyframe [3,h,w] at the size of the frames [T,3,H,W]: float [1,3,H,W]."""
    return resize(as_float(keyframe)[None], *frames.shape[-2:])


def as_sharp_as(keyframe, frame) -> torch.Tensor:
    """The frame [3,H,W] as float [3,H,W] without what a smaller keyframe [3,h,w] cannot show of it: what is compared
    with that has no edges that it lacks."""
    frame = as_float(frame)[None]
    if keyframe.shape[-2] >= frame.shape[-2]:
        return frame[0]
    return resize(resize(frame, *keyframe.shape[-2:]), *frame.shape[-2:])[0]


@dataclass
class View:
    """A clip at the working size, a window at a time. source [T,3,H,W]; fit: from its size to the working one;
    given: the user's mask [1 or T,1,H,W] or None, which replaces or joins (mode) the predicted one. per_frame: whether
    it was given frame by frame, so that it is no more than the edit."""

    source: torch.Tensor
    fit: Fit
    given: torch.Tensor | None = None
    mode: str = "replace"
    per_frame: bool = False

    def frames(self, indices) -> torch.Tensor:
        """[n,3,*fit.size] float in [0,1]."""
        made = [self.fit.apply(self.source[i : i + 1]) for i in indices]  # one by one: as floats they are large
        return torch.cat(made).clamp(0, 1)

    def picture(self, index: int, part) -> np.ndarray:
        """uint8 [h,w,3]: a part (rows, columns) of a frame at the working size, for OpenCV."""
        return picture_of(self.frames([index])[0])[part]

    def keyframe(self, frame) -> torch.Tensor:
        """A keyframe [3,h,w] of any size as [3,*fit.size]."""
        return self.fit.apply(at_size(frame, self.source))[0]

    def mask(self, indices, predicted):
        """[n,1,*fit.size]: the predicted mask (at latent size), the user's, or both joined; None without either."""
        found = None if predicted is None else to_size(predicted, *self.fit.size)
        own = self.own(indices)
        if own is None or found is None:
            return found if own is None else self.fit.apply(own)
        own = self.fit.apply(own)
        return own if self.mode == "replace" else torch.maximum(own, found)

    def edit(self, indices, predicted):
        """`mask`, as far as it says where the edit is in each frame: one of the user's for all frames only says where
        to look for the predicted one."""
        if self.given is None or self.per_frame or predicted is None:
            return self.mask(indices, predicted)
        found = to_size(predicted, *self.fit.size)
        return found if self.mode == "join" else torch.minimum(found, self.fit.apply(self.own(indices)))

    def region(self, indices):
        """Where the user's masks say that the picture is edited, float [n,1,h,w] at latent size, or None. One mask for
        all frames says no more than where to look."""
        if self.given is None or not self.per_frame:
            return None
        return mask_to_latents(self.fit.apply(self.own(indices)))

    @property
    def says_all(self) -> bool:
        """Whether the user's masks say of every frame where the edit is, and nothing else does."""
        return self.given is not None and self.per_frame and self.mode == "replace"

    def own(self, indices):
        """The user's masks of these frames, float [n,1,H,W] at the source's size, or None."""
        if self.given is None:
            return None
        at = [0] * len(indices) if len(self.given) == 1 else list(indices)
        return to_size(as_float(self.given[at]), *self.fit.source)
