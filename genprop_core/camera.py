"""How the camera moved between two frames: one affine motion that most of the picture follows.

Gauss-Newton on the colours themselves, from coarse to fine, in which what does not follow counts little (Odobez and
Bouthemy, Robust Multiresolution Estimation of Parametric Motion Models, 1995). It needs no corners or texture, as
optical flow and feature matching do: a soft gradient in any of the colour channels is enough.
"""

import cv2
import numpy as np

LONGEST = 256  # pixels a side that are looked at: larger frames are made smaller first
SMALLEST = 24  # pixels of the shorter side at the coarsest level
ITERATIONS = 8  # a level
ENOUGH = 0.005  # pixels; a step below it ends a level
EDGE = 3  # pixels at the border, where smoothing has nothing beyond to go by
LEAST_FREE = 0.1  # share of the picture that must be free to look at


def camera_motion(before: np.ndarray, now: np.ndarray, free: np.ndarray, guess=None) -> np.ndarray | None:
    """The 2x3 matrix that takes a pixel of `now` (x, y, 1) to its place in `before`; None where too little is free.

    before, now: uint8 [H,W,3]; free: bool [H,W], the pixels of `now` that may be looked at. guess: such a matrix, near
    the one that is looked for.
    """
    height, width = now.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    size = (round(width * scale), round(height * scale))
    levels = [[cv2.GaussianBlur(cv2.resize(p, size, interpolation=cv2.INTER_AREA).astype(np.float32), (5, 5), 0)
               for p in (before, now)]]  # fmt: skip
    while guess is None and min(levels[-1][0].shape[:2]) >= 2 * SMALLEST:
        levels.append([cv2.pyrDown(p) for p in levels[-1]])
    motion = np.eye(3) if guess is None else np.vstack([guess, [0, 0, 1]])
    for one, two in reversed(levels):
        small = two.shape[1::-1]
        seen = cv2.resize(free.astype(np.float32), small, interpolation=cv2.INTER_AREA) > 0.99
        if seen.mean() < LEAST_FREE:
            return None
        level = np.diag([small[0] / width, small[1] / height, 1.0])
        there = _fitted(one, two, seen, level @ motion @ np.linalg.inv(level))
        if there is None:
            return None
        motion = np.linalg.inv(level) @ there @ level
    return motion[:2]


def _fitted(before, now, free, motion):
    """The 3x3 motion between two small pictures, from a first guess on; None where too little is seen in both."""
    height, width = now.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = x / width - 0.5, y / width - 0.5 * height / width  # about the middle, so that the unknowns weigh alike
    middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    border = np.zeros_like(x)
    border[EDGE:-EDGE, EDGE:-EDGE] = 1
    for _ in range(ITERATIONS):
        moved = warped(before, motion[:2], cv2.INTER_LINEAR)
        inside = warped(border, motion[:2], cv2.INTER_LINEAR) > 0.99
        error = now - moved
        seen = free & inside
        seen[:EDGE] = seen[-EDGE:] = seen[:, :EDGE] = seen[:, -EDGE:] = False
        if seen.mean() < LEAST_FREE:
            return None
        size = np.abs(error).mean(2)
        usual = max(1.0, 1.5 * float(np.median(size[seen])))
        weight = seen / np.square(1 + np.square(size / usual))
        dx, dy = (cv2.Sobel(moved, cv2.CV_32F, *axis, scale=1 / 8)[seen] for axis in ((1, 0), (0, 1)))  # [n,3]
        at = np.stack([u[seen], v[seen], np.ones_like(u[seen])], -1)[:, None]  # [n,1,3]
        slopes = np.concatenate([dx[..., None] * at, dy[..., None] * at], -1).reshape(-1, 6)
        weights = np.repeat(weight[seen], 3)[:, None]
        normal = slopes.T @ (weights * slopes)
        held = 1e-6 * (np.trace(normal) / 6 + 1) * np.eye(6)  # a flat picture tells nothing: it stands still
        step = np.linalg.solve(normal + held, slopes.T @ (weights[:, 0] * error[seen].reshape(-1))).reshape(2, 3)
        further = np.vstack([step * [1 / width, 1 / width, 1], [0, 0, 0]]) + np.eye(3)
        motion = motion @ np.linalg.inv(middle) @ further @ middle
        if np.abs(step).max() < ENOUGH:
            break
    return motion


def warped(
    picture: np.ndarray, motion: np.ndarray, how: int = cv2.INTER_CUBIC, part=None, border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    """`before` [H,W] or [H,W,C], uint8 or float32, moved to where `now` has it; 0 where it comes from outside it.

    part: (rows, columns) slices, for that part of `now` alone, which may then be of another size. border: OpenCV's, for
    what comes from outside.
    """
    size = picture.shape[1::-1]
    if part is not None:
        rows, columns = part
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if not all(size):
            return picture[part]
        motion = np.hstack([motion[:, :2], motion @ [[columns.start], [rows.start], [1]]])
    return cv2.warpAffine(picture, motion, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=border)
