"""The paper's synthetic edits (GenProp section 4) on arrays: copy-and-paste, mask-and-fill, color-fill.

frames are uint8 [T,H,W,3], masks bool [T,H,W]. Every recipe returns an `Edit` and changes none of its inputs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

GROW = 5  # pixels that a filled box is larger than the object's
SHADOW_LEVEL = 0.25  # of a shadow's full strength: from there on it belongs to the mask
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
}


@dataclass(frozen=True)
class Edit:
    """source, target uint8 [T,H,W,3]; mask bool [T,H,W], where they differ by intent."""

    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray


def box(mask: np.ndarray, grow: int = 0):
    """(top, bottom, left, right) of a bool [H,W] mask, grown by pixels within the picture; None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    height, width = mask.shape
    return (
        max(0, rows[0] - grow), min(height, rows[-1] + 1 + grow),
        max(0, columns[0] - grow), min(width, columns[-1] + 1 + grow),
    )  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where a pasted object goes: `height` and `centre` (x, y) as shares of the picture, mirrored or not.

    shadow: strength 0 to 1, 0 is none; light: where it falls, in shares of the object's height.
    """

    height: float
    centre: tuple[float, float]
    mirrored: bool = False
    shadow: float = 0.0
    light: tuple[float, float] = (0.2, 0.1)


def copy_and_paste(frames, objects, masks, place: Placement) -> Edit:
    """Pastes the object of another clip on `frames`: the source is the composite, the target the untouched clip.

    objects uint8 [T,h,w,3] with masks bool [T,h,w]: as many frames, of any size. The object keeps its own motion. Its
    shadow, where there is one, is part of the mask, so that effects are learned with their object.
    """
    if len(objects) != len(frames) or len(masks) != len(frames):
        raise ValueError(f"Expected {len(frames)} frames of the object, got {len(objects)} with {len(masks)} masks.")
    if place.mirrored:
        objects, masks = objects[:, :, ::-1], masks[:, :, ::-1]
    boxes = [b for b in map(box, masks) if b is not None]
    if not boxes:
        raise ValueError("Expected an object to paste, but its mask is empty.")
    height, width = frames.shape[1:3]
    tall = max(b[1] - b[0] for b in boxes)
    wide = max(b[3] - b[2] for b in boxes)
    scale = min(place.height * height / tall, 0.8 * width / wide)
    middle = np.mean([((b[2] + b[3]) / 2, (b[0] + b[1]) / 2) for b in boxes], axis=0)
    shift = np.array(place.centre) * (width, height) - scale * middle
    matrix = np.float32([[scale, 0, shift[0]], [0, scale, shift[1]]])
    offset = np.float32(place.light) * scale * tall
    fall = matrix + np.float32([[0, 0, offset[0]], [0, 0, offset[1]]])
    source, region = [], []
    for frame, picture, mask in zip(frames, objects, masks):
        alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0 / min(scale, 1.0))
        moved = cv2.warpAffine(np.ascontiguousarray(picture), matrix, (width, height), flags=cv2.INTER_LINEAR)
        body = cv2.warpAffine(alpha, matrix, (width, height), flags=cv2.INTER_LINEAR)
        out, seen = frame.astype(np.float32), body > 0.5
        if place.shadow > 0:
            soft = cv2.GaussianBlur(cv2.warpAffine(alpha, fall, (width, height)), (0, 0), max(1.0, 0.05 * scale * tall))
            out *= 1 - place.shadow * soft[..., None]
            seen |= soft > SHADOW_LEVEL
        out = out * (1 - body[..., None]) + moved * body[..., None]
        source.append(out.round().clip(0, 255).astype(np.uint8))
        region.append(seen)
    return Edit(np.stack(source), frames, np.stack(region))


def mask_and_fill(frames, masks, how: str) -> Edit:
    """Fills the object's box, grown by 5 px: the filled clip is the source, the real clip the target.

    how: "mean", the mean colour of what is outside the box; or "telea", OpenCV's inpainting.
    """
    source, region = frames.copy(), np.zeros(masks.shape, bool)
    for frame, mask, seen in zip(source, masks, region):
        limits = box(mask, GROW)
        if limits is None:
            continue
        top, bottom, left, right = limits
        seen[top:bottom, left:right] = True
        if how == "telea":
            frame[:] = cv2.inpaint(frame, seen.astype(np.uint8), 5, cv2.INPAINT_TELEA)
        elif how == "mean":
            frame[seen] = frame[~seen].mean(0).round().astype(np.uint8) if not seen.all() else 128
        else:
            raise ValueError(f'how must be "mean" or "telea", got {how!r}.')
    return Edit(source, frames, region)


def color_fill(frames, masks, colour=COLOURS["red"]) -> Edit:
    """Paints the object: the source is the real clip, the target every frame with the object in one colour."""
    target = frames.copy()
    target[masks] = colour
    return Edit(frames, target, masks)
