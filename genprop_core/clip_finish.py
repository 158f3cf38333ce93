"""From what the model made to the finished clip: at the source's size, with its mask, its background untouched."""

import torch
import torch.nn.functional as F

from .compositing import composite
from .frames import as_bytes, as_float
from .mask_refine import close_holes, steady, upsample


def finished(view, made, frames, shots, region, settings, step) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(uint8 [T,3,H,W], uint8 mask [T,1,H,W] or None), a frame at a time, so that memory holds little beside them.

    view, made: of the clip, or of its region. frames: the source [T,3,H,W]. region: `crop.Crop` or None.
    step() is called before every frame.
    """
    out = torch.empty(frames.shape, dtype=torch.uint8)
    has_mask = made.has_mask or view.given is not None
    masks = torch.zeros(len(frames), 1, *frames.shape[-2:], dtype=torch.uint8) if has_mask else None
    found = made.mask
    if settings.refine:
        found = torch.cat([steady(found[start:stop]) for start, stop in shots])
    for index in range(len(frames)):
        step()
        here = slice(index, index + 1)
        frame = as_bytes(view.fit.undo(as_float(made.frames[here])))
        mask = as_bytes(full_mask(view, made, found, index, settings.refine)) if has_mask else None
        source = as_bytes(frames[here])
        shown = mask if settings.composite else None
        if region is not None:
            out[here] = region.stitch(source, frame, shown, settings.grow, settings.feather, start=index)
            mask = None if mask is None else region.place(mask, start=index)
        else:
            out[here] = frame if shown is None else composite(source, frame, shown, settings.grow, settings.feather)
        if mask is not None:
            masks[here] = mask
    return out, masks


def full_mask(view, made, found, index: int, refine: bool = False) -> torch.Tensor | None:
    """The mask of one frame at the view's source size, float [1,1,H,W]: predicted, the user's, or both; or None.

    found: probabilities of the clip [T,1,h,w]; refine: whether they follow the picture's edges. Where the thing was
    followed its outline joins them: it is finer than a latent, so that thin parts are in the mask as well.
    """
    own = view.own([index])
    if not made.has_mask or own is not None and view.mode == "replace":
        return own
    part = found[index : index + 1]
    parts = [guided(view, part, index) if refine else view.fit.undo_mask(part)]
    if made.outline is not None:
        parts.append(view.fit.undo_mask(made.outline[index : index + 1]))
    return torch.stack(parts if own is None else [own, *parts]).amax(0)


def companions_of(view, made, region, index: int) -> torch.Tensor:
    """Where something else that moves was put behind the removed thing in a frame, float [1,1,H,W] of the source's."""
    return _placed(view, made.companions[index : index + 1].float(), region, index)


def shades_of(view, made, region, index: int) -> torch.Tensor:
    """How much of the light the shadows take of what was put so, float [1,1,H,W] of the source's."""
    return _placed(view, as_float(made.shades[index : index + 1]), region, index)


def _placed(view, there, region, index: int) -> torch.Tensor:
    """A map [1,1,h,w] in [0,1] of what a frame was made at, at the source's size."""
    there = view.fit.undo_mask(there)
    return there if region is None else as_float(region.place(as_bytes(there), start=index))


def guided(view, part, index: int) -> torch.Tensor:
    """The predicted mask [1,1,h,w] at the source's size, along the edges of the source, without holes."""
    fit, frame = view.fit, as_float(view.source[index : index + 1])
    below, right = (
        max(0, round(own * whole / inner) - own) for own, whole, inner in zip(fit.source, fit.size, fit.inner)
    )
    # the latents cover the padding too, so the guide has to
    padded = F.pad(frame, (0, right, 0, below), mode="replicate") if below or right else frame
    return close_holes(upsample(part, padded)[..., : fit.source[0], : fit.source[1]])
