"""What grow and feather do, as one picture: frames spread over a clip with the region tinted that will be replaced."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .compositing import FEATHER, GROW
from .frames import as_bytes
from .mask_refine import overlay
from .report import BORDER, FAINT, GAP, MARGIN, PAPER, TILE_LARGEST, frame_indices

FRAMES, COLUMNS = 8, 4  # few to a row, so that a few pixels of grow can be seen in a large frame
LABEL = 26


def overlay_picture(frames, mask, grow: int = GROW, feather: int = FEATHER, keyframe_index: int = 0) -> torch.Tensor:
    """source frames [T,3,H,W] (uint8 or float in [0,1]), soft mask [T,1,H,W] -> uint8 [h,w,3].

    At most 8 of the frames with their numbers, the keyframe's among them, each as `mask_refine.overlay` shows it; of
    the clip nothing else is read, so the picture costs the same for any length.
    """
    at = frame_indices(len(frames), FRAMES, keyframe_index)
    height, width = frames.shape[-2:]
    columns = min(COLUMNS, len(at))
    tile = TILE_LARGEST, max(1, round(TILE_LARGEST * height / width))  # (width, height)
    rows = -(-len(at) // columns)
    size = 2 * MARGIN + columns * (tile[0] + GAP) - GAP, 2 * MARGIN + rows * (LABEL + tile[1] + GAP) - GAP
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for place, index in enumerate(at):
        shown = as_bytes(overlay(frames[index : index + 1], mask[index : index + 1], grow, feather))[0]
        picture = Image.fromarray(np.ascontiguousarray(shown.movedim(0, -1).cpu().numpy()))
        row, column = divmod(place, columns)
        x, y = MARGIN + column * (tile[0] + GAP), MARGIN + row * (LABEL + tile[1] + GAP) + LABEL
        draw.text((x + tile[0] // 2, y - 8), f"frame {index}" if place == 0 else str(index), FAINT, font, anchor="ms")
        sheet.paste(picture.resize(tile, Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x - 1, y - 1, x + tile[0], y + tile[1]), outline=BORDER)
    return torch.from_numpy(np.asarray(sheet).copy())
