"""From what the model made to the finished clip: at the source's size, with its mask, its background untouched."""

import torch

from .compositing import composite
from .frames import as_bytes, as_float


def finished(view, made, frames, region, settings) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(uint8 [T,3,H,W], uint8 mask [T,1,H,W] or None), a frame at a time, so that memory holds little beside them.

    view, made: of the clip, or of its region. frames: the source [T,3,H,W]. region: `crop.Crop` or None.
    """
    out = torch.empty(frames.shape, dtype=torch.uint8)
    has_mask = made.has_mask or view.given is not None
    masks = torch.zeros(len(frames), 1, *frames.shape[-2:], dtype=torch.uint8) if has_mask else None
    for index in range(len(frames)):
        here = slice(index, index + 1)
        frame = as_bytes(view.fit.undo(as_float(made.frames[here])))
        mask = as_bytes(full_mask(view, made, index)) if has_mask else None
        source = as_bytes(frames[here])
        shown = mask if settings.composite else None
        if region is not None:
            out[here] = region.stitch(source, frame, shown, settings.grow, settings.feather, start=index)
            masks[here] = 0 if mask is None else region.place(mask, start=index)
            continue
        out[here] = frame if shown is None else composite(source, frame, shown, settings.grow, settings.feather)
        if mask is not None:
            masks[here] = mask
    return out, masks


def full_mask(view, made, index: int) -> torch.Tensor:
    """The mask of one frame at the view's source size, float [1,1,H,W]: predicted, the user's, or both."""
    own = view.own([index])
    if not made.has_mask or own is not None and view.mode == "replace":
        return own
    found = view.fit.undo_mask(made.mask[index : index + 1])
    return found if own is None else torch.maximum(own, found)
