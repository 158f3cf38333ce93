"""`Tracking` along a run of windows, and what of it a window and the finished mask are told."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch

from .behind import disc
from .moving import Moving
from .registered import SIDE
from .tracking import Tracking, as_region

RIM = 1  # pixel, by which the outline is wider than the thing,
THIN = 4  # but for parts up to twice as wide as this: those are kept whole, as the model's mask has little of them


class Ahead:
    """`Tracking` along a run of windows, each frame once.

    view, followed: `clip_input.View` at the size that pictures are made at, and at that of `finer`. keyframes: {frame
    index: [3,h,w]}. moving: of the run's shot; order: the indices of the run's frames, the first of which has a
    keyframe. motions: of the camera, from each place in the run's one before to it; outlines, others, companions: bool
    [1,h,w] of each place; darkness: uint8 [1,h,w], as in `shade.darkness`.
    """

    def __init__(self, view, followed, keyframes, moving: Moving, order):
        self.view, self.followed, self.order = view, followed, order
        frame, keyframe = followed.frames(order[:1])[0], followed.keyframe(keyframes[order[0]])
        self.tracking = Tracking(frame, keyframe, moving, order[0], view.fit.size)
        first = self.tracking.outline()
        # each in one piece for the whole run: many small ones between the models' large ones would scatter memory
        self.outlines, self.others, self.companions = (first.new_zeros(len(order), *first.shape) for _ in range(3))
        self.darkness, self.motions = torch.zeros(len(order), *first.shape, dtype=torch.uint8), []
        self._keep(None)

    def correct(self, index: int, mask: torch.Tensor) -> None:
        """Takes the mask [1,h,w] that was made of the last frame so far, index `index` of the clip."""
        self.tracking.correct(self.view.edit([index], mask[None]))

    def regions(self, start: int, count: int, step: Callable[[], None]) -> torch.Tensor:
        """`as_region` of a window, [n,1,h,w]: its first frame's place in the run, and how many it has.

        step() is called before every frame that is new; what it raises stops the work.
        """
        for index in self.order[len(self.motions) : start + count]:
            step()
            self.tracking.advance(self.followed.frames([index])[0], index)
            self._keep(self.tracking.camera_motion())
        window = slice(start, start + count)
        return as_region(self.outlines[window], self.others[window], self.view.fit.size)

    def _keep(self, motion) -> None:
        """What `Tracking` says of the frame that it stands at, which is the first that nothing is kept of."""
        at, tracking = len(self.motions), self.tracking
        self.outlines[at], self.others[at] = tracking.outline(), tracking.others()
        self.companions[at], self.darkness[at] = tracking.companions(), tracking.darkness()
        self.motions.append(motion)


def without_rim(outline: torch.Tensor) -> torch.Tensor:
    """bool [1,h,w]: an outline as it joins the finished mask, with all of its thin parts."""
    outline = outline[0].numpy().astype(np.uint8)
    thin = outline & ~cv2.morphologyEx(outline, cv2.MORPH_OPEN, disc(THIN))
    return torch.from_numpy((cv2.erode(outline, disc(RIM)) | thin) > 0)[None]


def finer(view):
    """The view at the size that things are followed in: larger than small pictures are made, if the source is."""
    return replace(view, fit=view.fit.enlarged(SIDE))
