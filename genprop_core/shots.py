"""Where a clip cuts from one scene to another, so that no window reaches across.

A cut is a change far larger than the changes around it; a pan, a shaky camera or a flash is none. The rule is that of
PySceneDetect's adaptive detector (https://www.scenedetect.com), with the median of the neighbours instead of their
mean, so that two cuts close together do not hide each other. Fades and dissolves are not found.
"""

import torch
import torch.nn.functional as F

from .frames import as_bytes, as_float

RATIO = 3.0  # a cut changes the picture at least this many times as much as its neighbours do (their median)
LEAST = 10 / 255  # and by at least this much, mean over the picture
SHARP, MUCH = 1.6, 20 / 255  # or so many times as much as any of them, and by so much: a cut out of fast motion
REACH = 3  # neighbours on each side; a flash is at most this many frames long
MOST = 0.15  # counted per pixel: a bright thing that jumps in a scene that stays is no cut
BACK = 0.6  # after a flash the picture differs from the one before it by less than this share of the jump
SMALL = 64  # pixels of the longer side that changes are measured at: detail and noise do not count


def find_shots(frames: torch.Tensor, step=lambda: None) -> list[tuple[int, int]]:
    """[(start, stop)] in order, covering the clip: start..stop-1 are one shot. frames: [T,3,H,W], uint8 or float.

    A clip of fewer than four frames is one shot: there is nothing to compare a change with. step() is called for every
    frame; what it raises stops the work.
    """
    small = []
    for frame in frames:
        step()
        small.append(_small(frame))
    small = torch.cat(small)  # bytes: of a long clip they add up
    cuts = [t for t in range(1, len(small)) if len(small) > 3 and _is_cut(small, t)]
    return list(zip([0, *cuts], [*cuts, len(small)]))


def _small(frame) -> torch.Tensor:
    height, width = frame.shape[-2:]
    scale = min(1, SMALL / max(height, width))
    return as_bytes(F.adaptive_avg_pool2d(as_float(frame)[None], [max(1, round(n * scale)) for n in (height, width)]))


def _change(small, a: int, b: int) -> float:
    return (as_float(small[a]) - as_float(small[b])).abs().clamp(max=MOST).mean().item()


def _is_cut(small, t: int) -> bool:
    """Whether frame t begins a shot."""
    jump = _change(small, t, t - 1)
    if jump < LEAST:
        return False
    near = [n for n in range(t - REACH, t + REACH + 1) if n != t and 1 <= n < len(small)]
    around = sorted(_change(small, n, n - 1) for n in near)
    median = (around[(len(around) - 1) // 2] + around[len(around) // 2]) / 2
    if jump < RATIO * median and (jump < MUCH or jump < SHARP * around[-1]):
        return False
    # into a flash and out of it the picture is soon, or was just now, what it was
    into = any(_change(small, n, t - 1) < BACK * jump for n in range(t + 1, min(t + REACH, len(small) - 1) + 1))
    out = any(_change(small, t, n) < BACK * jump for n in range(max(0, t - 1 - REACH), t - 1))
    return not into and not out
