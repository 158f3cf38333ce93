"""The shadow that a companion casts on what stands still: its own outline, moved aside, softened and weakened.

The removed thing hides it as it hides the companion, and the backdrop knows nothing of it. Where all of the companion
is in sight, so is most of its shadow; there its place beside the companion, its softness and its strength are found,
and from then on it follows from the companion's outline. That is so of one light and a flat ground; where what is seen
does not look so, there is no shadow to be told.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .behind import box_of

FAR = 24  # pixels that a shadow may lie aside
SOFTNESS = (1.0, 2.5, 5.0)  # pixels: standard deviations that are tried
STRENGTH = (0.1, 0.9)  # a shadow takes at least and at most so much of the light
EXPLAINED = 0.7  # of what is darker around a companion, squared, its shadow must explain
SAME = 10.0  # of 255: what is nearer than this to what is behind it, or to a darker picture of that, is that
LEAST = 48  # pixels that must be darker
UNTOLD = 255  # in `darkness`: something else is in sight there, or what is behind it is not known


@dataclass(frozen=True)
class Shade:
    """aside: (x, y) pixels from the companion; softness, strength: as above; explained: how well it fits."""

    aside: tuple[int, int]
    softness: float
    strength: float
    explained: float

    def enlarged(self, ratio: float) -> "Shade":
        """The same in pictures that are so many times as large as those that it was found in."""
        return replace(self, aside=tuple(round(n * ratio) for n in self.aside), softness=self.softness * ratio)

    def on(self, shape: np.ndarray) -> np.ndarray:
        """float32 [H,W]: the share of the light that the shadow of a shape, float32 [H,W], takes."""
        way = np.float32([[1, 0, self.aside[0]], [0, 1, self.aside[1]]])
        moved = cv2.warpAffine(shape, way, shape.shape[::-1], flags=cv2.INTER_NEAREST)
        return self.strength * cv2.GaussianBlur(moved, (0, 0), self.softness)


def factor_of(now: np.ndarray, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How bright a frame [H,W,3] is beside what is behind it, and how far it is from that but darker, [H,W] each."""
    now, behind = now.astype(np.float32), behind.astype(np.float32)
    factor = (now * behind).sum(2) / np.maximum(1, np.square(behind).sum(2))
    return factor, np.abs(now - factor[..., None] * behind).mean(2)


def darkness(now: np.ndarray, behind: np.ndarray, known: np.ndarray) -> np.ndarray:
    """uint8 [H,W]: how much darker a frame [H,W,3] is than what is behind it, of 254; UNTOLD where that is not known.

    known: bool [H,W], where what is behind is known.
    """
    factor, off = factor_of(now, behind)
    dark = (254 * (1 - factor)).clip(0, 254).astype(np.uint8)
    return np.where(known & (off < SAME), dark, np.uint8(UNTOLD))


def cast(shape: np.ndarray, dark: np.ndarray, told: np.ndarray) -> Shade | None:
    """The shadow that explains best what is darker around a shape, or None.

    shape: float32 [H,W], all of the companion; dark: float32 [H,W] in [0,1]; told: bool [H,W], where that can be seen.
    """
    part = tuple(slice(max(0, s.start - FAR), s.stop + FAR) for s in box_of(shape > 0.5))
    told = (told[part] & (shape[part] < 0.05)).astype(np.float32)
    dark, body = dark[part] * told, cv2.copyMakeBorder(shape[part], *4 * (FAR,), cv2.BORDER_CONSTANT)
    whole = float(np.square(dark).sum())
    if (dark > STRENGTH[0]).sum() < LEAST:
        return None
    best = None
    for softness in SOFTNESS:
        soft = cv2.GaussianBlur(body, (0, 0), softness)
        common = cv2.matchTemplate(soft, dark, cv2.TM_CCORR)  # of the shape moved aside with what is darker
        own = cv2.matchTemplate(np.square(soft), told, cv2.TM_CCORR)
        explained = np.square(common) / np.maximum(own, 1) / whole
        y, x = np.unravel_index(explained.argmax(), explained.shape)
        found = Shade(
            (FAR - int(x), FAR - int(y)), softness, float(common[y, x] / max(own[y, x], 1)), float(explained[y, x])
        )
        if best is None or found.explained > best.explained:
            best = found
    return best if best.explained >= EXPLAINED and STRENGTH[0] <= best.strength <= STRENGTH[1] else None
