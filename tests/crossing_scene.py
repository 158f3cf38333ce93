"""A square of two colours that turns, and goes behind the red thing of `panning_scene`."""

import math

import torch
from panning_scene import FRAMES, SIZE, THING, edit, scene

from genprop_core.frames import as_bytes, as_float

COLOURS = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.8]]).view(2, 3, 1, 1)


def draw(frame, x, y, angle, side=26):
    """A square of two colours into a frame [3,H,W], in place. Returns where, bool [H,W]."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in frame.shape[-2:]), indexing="ij")
    along = math.cos(angle) * (columns - x) + math.sin(angle) * (rows - y)
    across = -math.sin(angle) * (columns - x) + math.cos(angle) * (rows - y)
    cover = torch.sigmoid(4 * (side / 2 - torch.maximum(along.abs(), across.abs())))
    colour = torch.lerp(COLOURS[1], COLOURS[0], torch.sigmoid(4 * along)[None])
    frame.copy_(torch.lerp(frame, colour, cover))
    return cover > 0.5


def crossing(turn=0.08, speed=5.0, y=38.0, changes=None, x=24.0, shadow=False):
    """(source, target, where the square is [T,H,W]): it turns and goes to the right, in part behind the red thing.

    changes: the frame from which on it has another colour; the truth has it as well. x: where it begins. shadow:
    whether it casts one.
    """
    _, target = scene()
    if shadow:
        lit = [draw(torch.zeros(3, SIZE, SIZE), x + 6 + speed * t, y + 7, turn * t) for t in range(FRAMES)]
        target *= 1 - 0.5 * torch.stack(lit)[:, None]
    squares = torch.stack([draw(f, x + speed * t, y, turn * t) for t, f in enumerate(target)])
    if changes is not None:
        for frame, square in zip(target[changes:], squares[changes:]):
            frame[:, square] = torch.tensor([0.95, 0.95, 0.95])[:, None]
    target = as_float(as_bytes(target))
    source = target.clone()
    source[:, :, THING[0], THING[1]] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    return source, target, squares


HIDDEN = edit(0)
