"""How one thing moved between two frames: the shift, turn and growth that most of what is in sight of it follows.

Gauss-Newton on the colours, as in `camera`, from soft to sharp, but held near what is expected, since little of a thing
may be in sight, and a strip of one colour tells nothing of a turn.
"""

import cv2
import numpy as np

from .behind import box_of
from .camera import warped

SOFTER = (0.25, 0.06)  # blurs, of the thing's reach, in which its motion is looked for, one after the other
SHARPEST = 0.8  # pixels of the pictures that are looked at
ITERATIONS, ENOUGH = 8, 0.02  # of a blur, at most; and such pixels, a step below which ends it
ROOM = 16  # pixels around it that are read, and as many more as it moves
LONGEST = 128  # pixels a side that are looked at: larger things are made smaller first
SURPRISE = (1.0, 1.0, 1.0, 0.15)  # pixels that it may go, turn or grow otherwise than expected
WEIGHT = 64  # of that, in pixels that say otherwise
FREE = 0.01  # of the weight, where nothing is expected
FEW = 16  # pixels, at least, to tell by


def own_motion(before: np.ndarray, now: np.ndarray, where: np.ndarray, guess: np.ndarray, known: bool) -> np.ndarray:
    """2x3, from pixels of `now` to their places in `before`, of what is in bool [H,W] `where`.

    before, now: uint8 [H,W,3]. guess: where to begin, and the answer where too little is in sight; known: whether it is
    also what is expected.
    """
    where, part = where.astype(np.float32), box_of(where)
    if not where[part].size:
        return guess
    ends = np.array([[at.start, at.stop] for at in part[::-1]])  # x, y
    moved = np.abs(guess[:, :2] @ ends + guess[:, 2:] - ends).max()
    room = ROOM + int(np.ceil(moved))
    part = tuple(slice(max(0, at.start - room), at.stop + room) for at in part)
    height, width = where[part].shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    used = cv2.resize(where[part], size, interpolation=cv2.INTER_AREA) > 0.5
    if used.sum() < FEW:
        return guess
    x, y = size[0] / width, size[1] / height
    # full pixels of a frame to those of the small pictures, middle to middle
    small = np.array([[x, 0, (x - 1) / 2 - x * part[1].start], [0, y, (y - 1) / 2 - y * part[0].start], [0, 0, 1]])
    pictures = [cv2.resize(p[part], size, interpolation=cv2.INTER_AREA).astype(np.float32) for p in (before, now)]
    motion = small @ np.vstack([guess, [0, 0, 1]]) @ np.linalg.inv(small)
    motion = _fitted(*pictures, used, motion, WEIGHT if known else FREE * WEIGHT)
    return (np.linalg.inv(small) @ motion @ small)[:2]


def _fitted(before, now, used, motion, weight) -> np.ndarray:
    """The 3x3 motion between two small pictures of what is `used`, from a first guess on."""
    at = np.argwhere(used)[:, ::-1]
    middle = at.mean(0)
    reach = max(1.0, float(np.abs(at - middle).max()))
    off = (at - middle) / reach
    one, nil = np.ones(len(off)), np.zeros(len(off))
    turns = np.stack([-off[:, 1], off[:, 0]], -1)
    basis = np.stack([np.stack([one, nil], -1), np.stack([nil, one], -1), turns, off], -1)  # [n,2,4]
    total = np.zeros(4)
    for blur in SOFTER:
        old, new = (cv2.GaussianBlur(p, (0, 0), max(blur * reach, SHARPEST)) for p in (before, now))
        for _ in range(ITERATIONS):
            moved = warped(old, motion[:2], cv2.INTER_LINEAR, border=cv2.BORDER_REPLICATE)
            error = (new - moved)[used]  # [n,3]
            size = np.abs(error).mean(1)
            usual = max(1.0, 1.5 * float(np.median(size)))
            counts = 1 / np.square(1 + np.square(size / usual))
            dx, dy = (cv2.Sobel(moved, cv2.CV_32F, *axis, scale=1 / 8)[used] for axis in ((1, 0), (0, 1)))
            slopes = np.einsum("nkc,nkp->ncp", np.stack([dx, dy], 1), basis)
            normal = np.einsum("ncp,n,ncq->pq", slopes, counts, slopes)
            held = np.diag(weight * (usual / np.array(SURPRISE)) ** 2)
            step = np.linalg.solve(normal + held, np.einsum("ncp,n,nc->p", slopes, counts, error) - held @ total)
            total += step
            turn, growth = step[2:] / reach
            linear = np.array([[1 + growth, -turn], [turn, 1 + growth]])
            further = np.eye(3)
            further[:2, :2], further[:2, 2] = linear, middle - linear @ middle + step[:2]
            motion = motion @ further
            if np.abs(step).max() < ENOUGH:
                break
    return motion
