"""Which region of a clip to cut out and work on, from the keyframes' edits and a mask for every frame."""

from .clip_finish import full_mask
from .clip_input import as_sharp_as, at_size
from .crop import boxes, edit_mask, plan_crop


def find_region(view, keyframes, first_pass):
    """(crop.Crop or None, what the first pass made or None).

    view: `clip_input.View` of whole frames. first_pass() -> `made.Made`, run only where it can decide: not
    where the edit is large in a keyframe already, nor where the user's mask says where the edit is.
    """
    frames, sizes = view.source, (tuple(view.source.shape[-2:]), view.fit.size)
    edited = {}
    for index, keyframe in keyframes.items():
        frame = as_sharp_as(keyframe, frames[index]).clamp(0, 1)
        edited[index] = boxes(edit_mask(frame, at_size(keyframe, frames)[0])[None])[0]
    if plan_crop(list(edited.values()), *sizes) is None:
        return None, None
    made = None if view.given is not None and view.mode == "replace" else first_pass()
    found = []
    for index in range(len(frames)):
        mask = view.own([index]) if made is None else full_mask(view, made, made.mask, index)
        found.append(_around([None if mask is None else boxes(mask)[0], edited.get(index)]))
    return plan_crop(found, *sizes), made


def _around(found):
    """One box (top, bottom, left, right) around several; None where there is none."""
    found = [box for box in found if box is not None]
    if not found:
        return None
    tops, bottoms, lefts, rights = zip(*found)
    return min(tops), max(bottoms), min(lefts), max(rights)
