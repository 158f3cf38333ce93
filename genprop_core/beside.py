"""`Companions` along a run of windows: what is hidden of them is put into the frames that are made."""

import math

import torch

from .anchor import with_missed
from .companions import RIM, Companions
from .compositing import alpha
from .confidence import MARGIN
from .frames import as_bytes, as_float, resize
from .tracking import BESIDE

CLOSE = 2  # pixels around the mask in which a companion is shown as it was; beyond them the film shows it


class Beside:
    """`Companions` along a run of windows, each frame once. view: as in `window_chain.Chain`."""

    def __init__(self, view):
        self.view, self.companions = view, None
        self.known, self.shades, self.given = {}, {}, {}  # by place in the run, of the latest window's frames

    def laid(self, frames, source, mask, ahead, start: int, step) -> torch.Tensor:
        """A window's frames [n,3,H,W] in [0,1] with what is hidden of the companions.

        source, mask: [n,3,H,W] and [n,1,H,W] of the window; ahead: `Ahead` of the run, which says what is in sight of
        them; start: the window's place in the run. step() is called before every frame that is new; what it raises
        stops the work.
        """
        done = max(self.known, default=start - 1) + 1
        for n in range(done - start, len(frames)):
            step()
            self._advance(source[n], mask[n : n + 1], ahead, start + n)
            self.known[start + n], self.shades[start + n] = self.companions.whole(), self.companions.shades()
        self.known, self.shades = (
            {place: of for place, of in kept.items() if place >= start} for kept in (self.known, self.shades)
        )
        changed = with_missed(mask, frames, source)  # some of what is in sight may have been taken for the edit
        shown = alpha(changed, CLOSE, CLOSE)
        self.given = {place: (picture, share * shown[place - start]) for place, (picture, share) in self.known.items()}
        if not any(share.any() for _, share in self.given.values()):
            return frames
        given = ((of.to(frames) for of in pair) for pair in self.given.values())
        return torch.stack([torch.lerp(frame, *pair) for frame, pair in zip(frames, given)])

    def _advance(self, source, mask, ahead, place: int) -> None:
        """On to the next frame [3,H,W], which has the mask [1,1,H,W] and this place in the run."""
        seen, size = ahead.companions[place], self.view.fit.size
        edit = alpha(mask, MARGIN // 2, 0)[0, 0] > 0
        others = resize(seen[None].float(), *size)[0, 0] > 0.5
        dark = ahead.darkness[place][0].numpy()
        if self.companions is None:
            near = RIM + math.ceil(BESIDE * size[0] / seen.shape[-2])
            self.companions = Companions(source, edit, others, near, dark)
        else:
            self.companions.advance(source, edit, others, dark)

    def back(self, made, order, places, ahead, step) -> None:
        """From the last frame of a finished run to its first, for what was in full sight only later.

        order, places: the indices of its frames, and their places in `made`; ahead, step: as in `laid`.
        """
        self.companions = None
        for p in reversed(range(len(order))):
            step()
            place, source = places[p], self.view.frames([order[p]])
            frame, mask = as_float(made.frames[place])[None], self.view.mask([order[p]], made.mask[place][None])
            self._advance(source[0], mask, ahead, p)
            picture, share = self.companions.whole()
            known = resize(made.companions[place][None].float(), *share.shape[-2:])[0]
            share = share * (1 - known) * alpha(with_missed(mask, frame, source), CLOSE, CLOSE)[0]
            if share.any():
                frame = torch.lerp(frame[0], picture.to(frame), share.to(frame))
                made.frames[place] = as_bytes(frame) if made.frames.dtype == torch.uint8 else frame
            given, shade = self._as_kept(share, self.companions.shades(), made.companions.shape[-2:])
            made.companions[place] |= given
            made.shades[place] = torch.maximum(made.shades[place], shade)

    def at(self, place: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Where a frame of the latest window was given them, bool [1,h,w] of this size, and their shadows, uint8."""
        if place not in self.given:
            return tuple(torch.zeros(1, *size, dtype=dtype) for dtype in (torch.bool, torch.uint8))
        return self._as_kept(self.given[place][1], self.shades[place], size)

    def _as_kept(self, share, shade, size) -> tuple[torch.Tensor, torch.Tensor]:
        """Both [1,H,W] in [0,1], as `Made` has them."""
        return resize(share[None], *size)[0] > 0.5, as_bytes(resize(shade[None], *size)[0])
