"""The removed thing's colours, learned as it is followed, that tell it from the rest of the picture."""

import cv2
import numpy as np

BINS = 16  # a channel
TELLING = 3.0  # times as frequent on the thing as elsewhere: such a colour tells it
RARE = 1e-4  # of the picture: a colour more seldom than this elsewhere is as good as never there
LEAST = 100  # pixels of the thing in full sight, from which its colours can be learned
LEARNED = 0.1  # weight of the latest frame in them


class Colours:
    """`learn` from a frame, then ask where a picture is `telling`."""

    def __init__(self):
        self.thing = self.others = None

    def learn(self, picture: np.ndarray, sure: np.ndarray, around: np.ndarray) -> None:
        """Of a frame uint8 [H,W,3]: the thing's, where it surely is, and of all that is not around it, bool [H,W]."""
        if sure.sum() >= LEAST:
            seen = _histogram(picture[sure])
            self.thing = seen if self.thing is None else (1 - LEARNED) * self.thing + LEARNED * seen
        self.others = _histogram(picture[~around])

    def telling(self, picture: np.ndarray) -> np.ndarray:
        """bool [H,W]: where a colour is the thing's, rather than another's."""
        if self.thing is None:
            return np.zeros(picture.shape[:2], bool)
        at = tuple(np.moveaxis(picture.astype(int) * BINS // 256, -1, 0))
        ratio = self.thing[at] / (self.others[at] + RARE)
        return cv2.blur(ratio.clip(0, 20), (3, 3)) > TELLING


def _histogram(colours: np.ndarray) -> np.ndarray:
    """Shares [BINS,BINS,BINS] of colours [n,3] of 0..255, smoothed, so that neighbours count as well."""
    edges = [np.arange(BINS + 1) * 256 / BINS] * 3
    counts = np.histogramdd(colours, edges)[0].astype(np.float32)
    for axis in range(3):
        ends = np.take(counts, [0, -1], axis) * 0
        low, high = np.split(ends, 2, axis)
        padded = np.concatenate([low, counts, high], axis)
        middle = np.take(padded, range(1, BINS + 1), axis)
        sides = np.take(padded, range(BINS), axis) + np.take(padded, range(2, BINS + 2), axis)
        counts = middle / 2 + sides / 4
    return counts / max(1.0, float(counts.sum()))
