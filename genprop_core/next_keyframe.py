"""The picture that a run's next window starts from, put together of the best that is known of every pixel.

Outside the mask, with a margin, that is the source. Inside it is what was made, but for what only passes through the
mask, which the source shows (`passing`), and for what is behind a removed thing and was seen before (`behind`).
"""

import torch
import torch.nn.functional as F

from .anchor import anchored, with_missed
from .behind import Behind
from .compositing import THRESHOLD, alpha
from .confidence import MARGIN
from .frames import as_float, resize
from .passing import Passing, edited

UNKNOWN = object()  # None is a motion that could not be found
SIDE = 192  # pixels a side in which what passes is followed: in larger pictures things go farther than flow can see
FAR = 24  # pixels from the mask, three latent cells: so far the edit may reach where the mask has lost some of it


class NextKeyframe:
    """Goes along a run, frame by frame.

    view: as in `window_chain.Chain`. anchor: False takes the made frame as it is. source, keyframe: [3,H,W] in [0,1],
    the run's first frame and its edited picture. passing, behind: whether these two are looked at.
    """

    def __init__(self, view, source, keyframe, anchor: bool, passing: bool, behind: bool):
        self.view, self.anchor = view, anchor
        height, width = source.shape[-2:]
        ratio = min(1.0, SIDE / max(height, width))
        self.small = max(1, round(height * ratio)), max(1, round(width * ratio))
        self.passing = Passing(self._small(source), self._small(keyframe)) if anchor and passing else None
        self.behind = None
        if anchor and behind:
            edit = grown(edited(source, keyframe).float()[None, None], MARGIN)
            self.behind = Behind(source, edit)
            self.behind.take(keyframe, edit)

    def advance(self, made, place: int, index: int, source: torch.Tensor, motion=UNKNOWN) -> None:
        """On to the run's next frame: its place in `made`, its index in the clip and its source [3,H,W].

        motion: of the camera on the way there (`camera_motion`), where it was found already.
        """
        if self.passing is None and self.behind is None:
            return
        mask = self.view.mask([index], made.mask[place][None])
        mask = with_missed(mask, as_float(made.frames[place])[None], source[None])
        if self.passing is not None:
            region = F.adaptive_max_pool2d(grown(mask, FAR).float()[None], self.small)[0] > 0
            self.passing.advance(self._small(source), self._small(mask[0])[0] > THRESHOLD, region)
        if self.behind is not None:
            edit = grown(mask, MARGIN)
            motion = self.behind.motion_to(source, edit) if motion is UNKNOWN else motion
            self.behind.move(source, edit, motion)

    def picture(self, made, place: int, index: int) -> torch.Tensor:
        """The keyframe [3,H,W] of the frame that it stands at."""
        frame = as_float(made.frames[place])[None]
        mask = self.view.mask([index], made.mask[place][None] if made.has_mask else None)
        if mask is None or not self.anchor:
            return frame[0]
        source = self.view.frames([index])
        keyframe = anchored(frame, source, mask)[0]
        if self.behind is not None:
            keyframe = self.behind.filled(keyframe)
        if self.passing is None:
            return keyframe
        kept = resize(self.passing.kept()[None], *source.shape[-2:])[0]
        return torch.lerp(keyframe, source[0], kept.to(source))

    def _small(self, frame):
        """A frame or mask [C,H,W] as what passes is followed in."""
        return resize(frame[None], *self.small)[0]


def grown(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Soft mask [1,1,H,W] -> bool [H,W], grown."""
    return alpha(mask, pixels, 0)[0, 0] > 0
