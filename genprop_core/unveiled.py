"""What a keyframe shows of the companions that the removed thing hides in its frame.

The user has drawn, or filmed, what is behind the thing, and a companion is whole there. What is none of the backdrop
and of a companion's colours is its own, if it hangs together with what is in sight of it.
"""

import cv2
import numpy as np

from .behind import disc
from .companions import LITTLE
from .mover import filled
from .passing import difference
from .shade import SAME, is_shadow
from .thing_colours import Colours

SPECK = 2  # pixels across half of what is no companion


def unveiled(keyframe, seen, edit, known, still) -> np.ndarray:
    """bool [h,w]: the companions in a keyframe uint8 [h,w,3], with what is hidden of them in its frame.

    seen: bool [h,w], what is in sight of them; edit: where the keyframe may differ from its frame. known, still: where
    what stands still can be told, and that, [h,w,3], the removed thing not counted.
    """
    off = cv2.blur(difference(keyframe, still), (3, 3)) > SAME
    stands = known & (~off | is_shadow(keyframe, still) | is_shadow(still, keyframe))
    colours = Colours()
    colours.learn(keyframe, seen, edit | seen)
    whole = filled(seen | edit & ~stands & colours.telling(keyframe), SPECK).astype(np.uint8)
    _, parts = cv2.connectedComponents(cv2.morphologyEx(whole, cv2.MORPH_OPEN, disc(SPECK)))
    share = np.bincount(parts.ravel(), seen.ravel()) / np.bincount(parts.ravel()).clip(1)
    return (share >= LITTLE)[parts] & (parts > 0) | seen
