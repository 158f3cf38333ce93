"""confidence.png: how far each frame can be trusted, over time, and where another keyframe would help."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .confidence import TRUSTED
from .images import write_image

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1200, 420, 70, 70, 60, 50
PAPER, INK, FAINT, LINE, CHANGE, DOUBT = (
    (250, 250, 248), (32, 34, 38), (120, 124, 130), (30, 90, 160), (200, 130, 30), (250, 214, 206),
)  # fmt: skip


def confidence_plot(result, keyframes, path) -> None:
    """Writes `confidence_picture`."""
    write_image(path, confidence_picture(result, keyframes))


def confidence_picture(result, keyframes) -> torch.Tensor:
    """The plot of a `ClipResult`, uint8 [H,W,3]: confidence (blue, left axis), change outside the mask in 1/255
    (orange, right axis), keyframes (triangles), scene cuts (dashed), and the frames to edit again (shaded)."""
    count = len(result.confidence)
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    high = max(10.0, float(result.change_outside.max()) * 1.1)

    def x(frame):
        return LEFT + (WIDTH - LEFT - RIGHT) * frame / max(1, count - 1)

    def y(share):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * float(share)

    for first, last in result.doubtful:
        draw.rectangle((x(first) - 2, y(1), x(last) + 2, y(0)), fill=DOUBT)
    for share in (0, 0.25, 0.5, 0.75, 1):
        draw.line((LEFT, y(share), WIDTH - RIGHT, y(share)), fill=(222, 222, 220))
        draw.text((LEFT - 8, y(share)), f"{share:g}", LINE, font, anchor="rm")
        draw.text((WIDTH - RIGHT + 8, y(share)), f"{share * high:.3g}", CHANGE, font, anchor="lm")
    _dashed(draw, [(LEFT, y(TRUSTED)), (WIDTH - RIGHT, y(TRUSTED))], FAINT)
    for start, _ in result.shots[1:]:
        _dashed(draw, [(x(start - 0.5), y(1)), (x(start - 0.5), y(0))], INK)
    for frame in sorted({round(i * (count - 1) / 10) for i in range(11)}):
        draw.text((x(frame), HEIGHT - BOTTOM + 8), str(frame), FAINT, font, anchor="mt")
    for values, colour in ((result.change_outside / high, CHANGE), (result.confidence, LINE)):
        draw.line([(x(i), y(v)) for i, v in enumerate(values.tolist())], fill=colour, width=3, joint="curve")
    for key in keyframes:
        draw.polygon([(x(key) - 7, TOP - 14), (x(key) + 7, TOP - 14), (x(key), TOP - 2)], fill=INK)
    draw.text((LEFT, 14), "confidence", LINE, font)
    draw.text((LEFT + 110, 14), "change outside the mask (of 255, right)", CHANGE, font)
    draw.text((LEFT + 430, 14), "triangle: keyframe   shaded: edit a frame here", INK, font)
    return torch.from_numpy(np.asarray(sheet).copy())


def _dashed(draw, ends, colour, dash=8):
    (x0, y0), (x1, y1) = ends
    steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / dash))
    for i in range(0, steps, 2):
        a, b = i / steps, min(1, (i + 1) / steps)
        draw.line((x0 + (x1 - x0) * a, y0 + (y1 - y0) * a, x0 + (x1 - x0) * b, y0 + (y1 - y0) * b), fill=colour)
