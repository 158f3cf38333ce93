"""What comes in with a clip, checked before any sampling and given out window by window at the working size."""

from dataclasses import dataclass

import torch

from .confidence import to_size
from .errors import GenPropError
from .frames import as_float, resize

MASK_MODES = ("replace", "join")


def check_aspect(keyframe, frames, tolerance=0.02):
    """Raises GenPropError when the keyframe's (height, width) has another aspect ratio than the frames'."""
    ratio = (keyframe[1] / keyframe[0]) / (frames[1] / frames[0])
    if abs(ratio - 1) > tolerance:
        raise GenPropError(
            f"Expected a keyframe of the source's aspect ratio ({frames[1]}x{frames[0]}), "
            f"got {keyframe[1]}x{keyframe[0]}. Edit an exported frame of the source, without cropping it."
        )


def check_clip(frames) -> None:
    if frames.ndim != 4 or frames.shape[0] < 2:
        raise GenPropError(f"Expected a clip of at least 2 frames [T,3,H,W], got shape {tuple(frames.shape)}.")


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
        found[index] = frame
    sizes = {i: f"{f.shape[2]}x{f.shape[1]}" for i, f in found.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} for frame {i}" for i, size in sizes.items())
        raise GenPropError(f"Expected keyframes of one size, got {told}. Export them all at the source's size.")
    return found


def check_mask(mask, frames, mode: str):
    """[1 or T,1,H,W] of a given mask [1 or T,H,W] or [1 or T,1,H,W]; None stays None. Raises where it fits nothing."""
    if mode not in MASK_MODES:
        raise GenPropError(f"Expected {' or '.join(MASK_MODES)} as the mask mode, got {mode!r}.")
    if mask is None:
        return None
    mask = mask[:, None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise GenPropError(f"Expected a mask [T,H,W] or [T,1,H,W], got {list(mask.shape)}.")
    if len(mask) not in (1, len(frames)):
        raise GenPropError(
            f"The mask has {len(mask)} frames, the video {len(frames)}. Give one mask, or {len(frames)}."
        )
    return mask


@dataclass
class View:
    """A clip at the working size, a window at a time. frames [T,3,H,W]; mask: the user's [1 or T,1,H,W] or None."""

    source: torch.Tensor
    height: int
    width: int
    given: torch.Tensor | None = None
    mode: str = "replace"

    def frames(self, indices) -> torch.Tensor:
        """[n,3,height,width] float in [0,1]."""
        return resize(as_float(self.source[list(indices)]), self.height, self.width)

    def mask(self, indices, predicted):
        """[n,1,height,width]: the predicted mask (at latent size), the user's, or both joined; None without either."""
        grown = None if predicted is None else to_size(predicted, self.height, self.width)
        if self.given is None:
            return grown
        at = [0] * len(indices) if len(self.given) == 1 else list(indices)
        own = to_size(as_float(self.given[at]), self.height, self.width)
        return own if grown is None or self.mode == "replace" else torch.maximum(own, grown)
