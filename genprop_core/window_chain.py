"""Window after window along a run of frames: each starts from the best frame of the one before, anchored anew."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from .adapters import with_region
from .ahead import without_rim
from .beside import Beside
from .clip_progress import Counter
from .compositing import THRESHOLD, alpha
from .conditioning import nearest
from .confidence import change_outside, confidence, sureness
from .errors import GenPropError
from .frames import as_float, resize
from .made import Made
from .next_keyframe import NextKeyframe
from .window_model import WindowModel
from .windows import Run, plan_windows

FIRM = 4  # power of a side's weight, by which its guess holds against what the other side knows
AS_GOOD = 0.02  # confidences this near the best are as good as it; the earliest of them is taken


@dataclass
class Chain:
    """Makes runs. `view` gives pictures and masks at the working size, `noise` a frame's noise.

    view.frames(indices) -> [n,3,H,W] in [0,1]; view.mask(indices, predicted [n,1,h,w] or None) -> the mask to use,
    [n,1,H,W], or None where there is none; view.edit: the same, where it is to say how the edit goes on.
    colour(made, source, mask) -> made with its colours matched, or None.
    hide(frames, mask) -> what the SCE sees in a second pass, or None for a single pass. keyframes: {frame index:
    picture} that a window shows beside its first one where it comes upon them, to the frames they are nearest to.
    guide_later: whether windows that start from a made frame are sampled with guidance too. passing: whether what only
    passes through the mask is the source's own in a made keyframe. behind: whether what was seen before is put behind
    the removed thing there; where the model changes things instead, it never is. companions: whether what moves on its
    own is put behind it in every frame, as it was seen before; only with `behind` and `ahead`. ahead: indices of a
    run's frames -> `ahead.Ahead`, by which the removed thing is followed ahead of the windows; None to leave that.
    """

    model: WindowModel
    view: object
    noise: object
    window: int
    overlap: int
    counter: Counter
    anchor: bool = True
    colour: object = None
    hide: object = None
    keyframes: dict = field(default_factory=dict)
    guide_later: bool = False
    passing: bool = True
    behind: bool = True
    companions: bool = True
    ahead: Callable | None = None

    def follow(self, run: Run, keyframe: torch.Tensor, made: Made, places=None) -> None:
        """Makes the run's needed frames into `made`, at `places` (by default the frames' own indices)."""
        places = run.order[: run.need] if places is None else places
        window, length = min(self.window, len(run.order)), len(run.order)
        done = start = 0
        inherited, reference, following, source, ahead, decoded = 1.0, None, None, None, None, None
        beside = Beside(self.view)
        self.counter.ahead -= self.count(run)
        while done < run.need:
            if done:
                earlier, start = start, self._next_start(run, made, places, start, done, length - window)
                if following is None:
                    passing, behind = self.passing and made.has_mask, self.behind and made.has_mask
                    behind = behind and self.model.removes
                    following = NextKeyframe(self.view, source[0], keyframe, self.anchor, passing, behind)
                for p in range(earlier + 1, start + 1):
                    motion = () if ahead is None else (ahead.motions[p],)
                    following.advance(made, places[p], run.order[p], source[p - earlier], *motion)
                keyframe = following.picture(made, places[start], run.order[start])
                inherited = float(made.confidence[places[start]])  # no window is better than what it starts from
            part = run.order[start : start + window]
            after = max(0, run.need - start - window)
            self.counter.window(1 + math.ceil(after / max(1, window - self.overlap)))
            source = self.view.frames(part)
            if not done and self.ahead is not None:
                ahead = self.ahead(run.order)
            elif ahead is not None and decoded is not None:
                ahead.correct(run.order[done - 1], decoded[-1])
            followed = None if ahead is None else ahead.regions(start, len(part), self.counter.again)
            region = self._region(part, followed)
            drifts = bool(done) or run.between  # what is blended is to be of one colour; else a start has no drift
            frames, decoded, mask, shown = self._make(part, source, keyframe, region, not done, drifts)
            if self.companions and self.behind and ahead is not None and shown is not None:
                frames = beside.laid(frames, source, shown, ahead, start, self.counter.again)
            change = change_outside(frames, source, shown)
            reference = float(change[0]) if reference is None else reference
            sure = torch.ones(len(part)) if shown is None else sureness(shown if decoded is None else decoded)
            own = confidence(sure, change, reference)
            trust = inherited * own
            made.has_mask |= mask is not None
            mask = made.mask.new_zeros(len(part), *made.mask.shape[1:]) if mask is None else mask
            fade = max(start, done - self.overlap)
            for p in range(start, min(start + window, run.need)):
                weight = 1.0 if p >= done else max(0.0, (p - fade) / (done - fade))
                if weight:
                    n = p - start
                    made.put(places[p], weight, frames[n], mask[n], float(trust[n]), float(own[n]), float(change[n]))
                    if ahead is not None:
                        outline = ahead.outlines[p]
                        made.draw(places[p], without_rim(outline), *beside.at(p, outline.shape[-2:]))
            if done:
                meet = range(fade + 1, min(done, run.need - 1) + 1)
                made.seams.update(max(run.order[p], run.order[p - 1]) for p in meet)
            made.windows.append((part[0], part[-1]))
            done = start + window
        if self.companions and self.behind and ahead is not None and made.has_mask and not run.between:
            beside.back(made, run.order[: run.need], places, ahead, self.counter.again)

    def count(self, run: Run) -> int:
        """Windows that a run needs at most."""
        stops = [stop for _, stop, _ in plan_windows(len(run.order), self.window, self.overlap)]
        return next(n for n, stop in enumerate(stops, 1) if stop >= run.need)

    def _next_start(self, run: Run, made: Made, places, start: int, done: int, last: int) -> int:
        """Where in the overlap the next window starts, `last` at the latest where that can be.

        The frame to be trusted most of those that show the edit, the earliest of equals. One in which the removed thing
        is hidden is the source's own once it is anchored, and a window that starts from it knows of no edit. Where the
        whole overlap is such, it is the latest frame before that is not; without any, the overlap counts as it is.
        """
        overlap = range(max(start + 1, done - self.overlap), min(done, len(places)))
        before = range(overlap.start - 1, start, -1)

        def shows(p):
            mask = self.view.edit([run.order[p]], made.mask[places[p]][None] if made.has_mask else None)
            return mask is None or bool((mask > THRESHOLD).any())

        candidates = [p for p in overlap if shows(p)] or [p for p in before if shows(p)][:1] or list(overlap)
        trust = {p: float(made.confidence[places[p]]) for p in candidates}
        best = next(p for p in candidates if trust[p] >= max(trust.values()) - AS_GOOD)
        if best <= last:
            return best
        # moved back to be full; where all of those are hidden ones, not moved back, and so shorter
        return next((p for p in range(last, start, -1) if shows(p)), best if shows(best) else last)

    def _nearest(self, part, keyframe: torch.Tensor) -> torch.Tensor:
        """The window's keyframe [3,H,W]; where there are others in it, the nearest for each of its frames [T,3,H,W]."""
        shown = {0: keyframe}
        for position, index in enumerate(part):
            if index in self.keyframes and index != part[0]:
                shown[position] = self.view.keyframe(self.keyframes[index])
        if len(shown) == 1:
            return keyframe
        return torch.stack([shown[p] for p in nearest(len(part), list(shown)).tolist()])

    def _region(self, part, followed):
        """Where the picture is known to be edited or not, [n,1,h,w] or None: as it was followed, but for the user's
        masks, which have the last word on where it is."""
        given = self.view.region(part)
        if followed is None or given is None:
            return given if followed is None else followed
        return torch.where(given > 0, torch.maximum(followed, given), followed)

    def _make(self, part, source, keyframe, region, first: bool, drifts: bool):
        """One window: frames, the mask as the decoder has it and with the region, at latent size, both None without
        adapters, and the mask to use at the working size. drifts: whether its colours are matched."""
        noise, keyframe = self.noise(part), self._nearest(part, keyframe)
        guided = first or self.guide_later
        run = partial(self.model.run, keyframe=keyframe, noise=noise, region=region, guided=guided)
        frames, decoded = run(source, progress=self.counter.step())
        _check_finite(part, frames, decoded)
        mask = None if decoded is None else with_region(decoded, region)  # what it missed was made anew all the same
        shown = self.view.mask(part, mask)
        if self.hide is not None and shown is not None:
            hidden = self.hide(source, alpha(shown))  # grown, so that no rim of what was there can be seen
            frames, _ = run(hidden, progress=self.counter.step())
            _check_finite(part, frames)
        if self.colour is not None and shown is not None and drifts:
            frames = self.colour(frames, source, shown)
        return frames, decoded, mask, shown


def _check_finite(part, *made) -> None:
    """Raises GenPropError where what the model made of the frames `part` has values that are no numbers."""
    if not all(values.isfinite().all() for values in made if values is not None):
        raise GenPropError(
            f"Expected pictures from the model, but frames {min(part)}-{max(part)} came out as no numbers (NaN). "
            "Run it in bf16 or fp32 instead of fp16, or with other adapters."
        )


def pixel_share(weight: float, there: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """How much each pixel [1,H,W] of a frame counts that is blended by `weight` in (0, 1] with what is there.

    there, mine: how much of the pixel is a companion that the one and the other know, float in [0,1]. Where only one
    does, what the other drew there is a guess, but near its own keyframe.
    """
    only_there, only_mine = there * (1 - mine), mine * (1 - there)
    left = 1 - weight
    return weight * (1 - only_there * (1 - weight**FIRM)) + left * only_mine * (1 - left**FIRM)


def blended(chain: Chain, run: Run, keyframe: torch.Tensor, made: Made) -> None:
    """Makes a run and blends it with what `made` holds of these frames already, by distance times their own confidence.

    What windows hand on is in the distance already. The run starts at one keyframe and what is there at the other,
    run.need - 1 frames away. Something else that moves is taken from the side that knows it, where only one does.
    """
    height, width = made.frames.shape[-2:]
    other = Made.empty(run.need, height, width, made.frames.dtype)
    chain.follow(run, keyframe, other, list(range(run.need)))
    made.windows += other.windows
    made.seams |= other.seams
    made.has_mask |= other.has_mask
    for p, index in enumerate(run.order[: run.need]):
        near = 1 - p / max(1, run.need - 1)
        mine, there = near * float(other.own[p]), (1 - near) * float(made.own[index])
        weight = mine / (mine + there) if mine + there > 0 else near
        if not math.isclose(weight, 0, abs_tol=1e-6):
            values = (float(of[p]) for of in (other.confidence, other.own, other.change))
            frame, share = as_float(other.frames[p]), None
            if other.outline is not None and made.outline is not None:
                known = made.companions[index], other.companions[p]
                share = pixel_share(weight, *(resize(of[None].float(), height, width)[0] for of in known))
                outline = other.outline[p] if weight > 0.5 else made.outline[index]
                shade = torch.maximum(made.shades[index], other.shades[p])
                made.draw(index, outline, known[0] | known[1], shade)
            made.put(index, weight, frame, other.mask[p], *values, share)
