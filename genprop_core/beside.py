"""`Companions` along a run of windows: what is hidden of them is put into the frames that are made."""

import math

import torch

from .anchor import with_missed
from .companions import RIM, Companions
from .compositing import alpha
from .confidence import MARGIN
from .frames import resize
from .tracking import BESIDE

CLOSE = 2  # pixels around the mask in which a companion is shown as it was; beyond them the film shows it


class Beside:
    """`Companions` along a run of windows, each frame once. view: as in `window_chain.Chain`."""

    def __init__(self, view):
        self.view, self.companions, self.known, self.given = view, None, {}, {}

    def laid(self, frames, source, mask, seen, start: int, step) -> torch.Tensor:
        """A window's frames [n,3,H,W] in [0,1] with what is hidden of the companions.

        source, mask: [n,3,H,W] and [n,1,H,W] of the window; seen: bool [1,h,w] of each frame of the run so far, what is
        in sight of them; start: the window's place in the run. step() is called before every frame that is new; what it
        raises stops the work.
        """
        done = max(self.known, default=start - 1) + 1
        for n in range(done - start, len(frames)):
            step()
            edit = alpha(mask[n : n + 1], MARGIN // 2, 0)[0, 0] > 0
            others = resize(seen[start + n][None].float(), *self.view.fit.size)[0, 0] > 0.5
            if self.companions is None:
                near = RIM + math.ceil(BESIDE * self.view.fit.size[0] / seen[start].shape[-2])
                self.companions = Companions(source[n], edit, others, near)
            else:
                self.companions.advance(source[n], edit, others)
            self.known[start + n] = self.companions.whole()
        self.known = {place: known for place, known in self.known.items() if place >= start}
        changed = with_missed(mask, frames, source)  # some of what is in sight may have been taken for the edit
        shown = alpha(changed, CLOSE, CLOSE)
        self.given = {place: (picture, share * shown[place - start]) for place, (picture, share) in self.known.items()}
        pictures, share = (torch.stack(of).to(frames) for of in zip(*self.given.values()))
        return torch.lerp(frames, pictures, share)

    def at(self, place: int, size: tuple[int, int]) -> torch.Tensor:
        """bool [1,h,w] of this size: where a frame of the latest window was given them."""
        if place not in self.given:
            return torch.zeros(1, *size, dtype=torch.bool)
        return resize(self.given[place][1][None], *size)[0] > 0.5
