"""A picture without edges or texture, to find motion in."""

import numpy as np


def waves(height, width, seed=0, grey=False):
    """A picture without edges: a few soft waves of colour, of one brightness unless `grey`. uint8 [H,W,3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out = np.zeros((height, width, 3), np.float32)
    for _ in range(5):
        length, heading, phase = rng.uniform(40, 160), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        colour = np.ones(3) if grey else rng.normal(size=3)
        colour = colour if grey else colour - colour @ np.array([0.299, 0.587, 0.114])
        out += 14 * np.sin(2 * np.pi * (x * np.cos(heading) + y * np.sin(heading)) / length + phase)[..., None] * colour
    return (128 + out).clip(0, 255).astype(np.uint8)
