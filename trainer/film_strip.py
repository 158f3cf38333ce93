"""A clip as one small picture: rows of frames, for the report's slider."""

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from genprop_core.report import frame_indices

TILE, MOST_FRAMES = 160, 24  # pixels wide at most; frames of a longer clip are thinned out evenly
TINT = torch.tensor([0.88, 0.15, 0.11]).view(1, 3, 1, 1)


def film_strip(rows: dict[str, torch.Tensor], mask=None) -> dict:
    """{"image": JPEG as a data URL, "rows": labels, "frames": indices, "size": [w, h] of a tile}.

    rows: label -> [T,3,H,W] in [0,1], all of one size. mask: probability [T,1,h,w] of any size, drawn in red over the
    first row as a row of its own.
    """
    first = next(iter(rows.values()))
    at = frame_indices(len(first), MOST_FRAMES)
    width = min(TILE, first.shape[-1])
    height = max(1, round(first.shape[-2] * width / first.shape[-1]))
    small = {k: F.interpolate(v[at].float(), (height, width), mode="area") for k, v in rows.items()}
    if mask is not None:
        opacity = F.interpolate(mask[at].float(), (height, width), mode="bilinear")
        grey = next(iter(small.values())).mean(1, keepdim=True) * 0.6 + 0.3
        small["predicted mask"] = torch.lerp(grey.expand(-1, 3, -1, -1), TINT, 0.75 * opacity)
    sheet = torch.cat([torch.cat(list(v), dim=-1) for v in small.values()], dim=-2)  # [3,rows*h,frames*w]
    array = (sheet.movedim(0, -1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "JPEG", quality=88)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"image": url, "rows": list(small), "frames": at, "size": [width, height]}
