"""A clip of any length from one or more keyframes, made window by window with any `WindowModel`.

    propagate_clip(model: WindowModel, frames, keyframes, settings=None, mask=None, progress=None) -> ClipResult

frames: uint8 [T,3,H,W] (or float in [0,1]), in the CPU's memory; keyframes: {frame index: [3,h,w] uint8 or float};
settings: ClipSettings; mask: [1 or T,1,H,W] or [1 or T,H,W], float in [0,1] or uint8; progress(done, total) counts
sampling steps. Only one window at a time is float and goes to the model.
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from . import clean_plate, colour
from .ahead import Ahead, finer
from .clip_finish import companions_of, finished, shades_of
from .clip_input import View, at_size, check_choices, check_clip, check_keyframes, check_mask, check_shows_something
from .clip_progress import Counter, Halves, Steps
from .clip_region import find_region
from .compositing import FEATHER, GROW, alpha
from .conditioning import hide
from .confidence import advice, doubtful_ranges
from .fit import Fit, plan_fit
from .frames import as_bytes
from .made import Made
from .moving import Moving
from .shots import find_shots
from .window_chain import Chain, blended
from .window_model import FrameNoise, GivenNoise, WindowModel
from .windows import check_window, default_overlap, plan_runs


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is cut into windows and put together again. None means the model's default.

    window, overlap: frames per pass, and shared by neighbours. size: (height, width) to work at; None is the source's,
    padded. seed: of the noise. find_shots: whether scene cuts are looked for. anchor: whether a window's keyframe is
    the source's own outside the mask. composite, grow, feather: as in `compositing.composite`, on the finished clip.
    mask_mode: a given mask "replace"s the predicted one or "join"s it. second_pass: "off", or how the region found in
    a first pass is hidden from the SCE in a second, "black" or "blur". colour: "off", or the kind of `colour.match` for
    windows after the first, and all between two keyframes. refine: whether the mask follows the picture's edges at full
    size. crop: "auto" works on the region around the edit where that is small, "off" on whole frames. inner_keyframes:
    whether a window that holds more keyframes than its first shows each frame the nearest, for adapters that were
    trained so. guide_later: whether windows that start from a made frame are sampled with guidance too; each time, it
    deepens the colours of what was made. passing: whether what only passes through the mask is the source's own in such
    a frame. behind: whether such a frame has, behind a removed thing, what was seen there before. companions: whether
    every frame has there what moves on its own, as it was seen before; with `behind` and looking ahead. look_ahead:
    whether a removed thing is followed through the source ahead of the model, which then never keeps the source there,
    and always where another thing moves. clean_plate: whether the finished clip has there what is in sight in any other
    frame of the shot, before or after, or in a keyframe.
    """

    window: int | None = None
    overlap: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    find_shots: bool = True
    anchor: bool = True
    composite: bool = False
    grow: int = GROW
    feather: int = FEATHER
    mask_mode: str = "replace"
    second_pass: str = "off"
    colour: str = "local"
    refine: bool = False
    crop: str = "off"
    inner_keyframes: bool = False
    guide_later: bool = False
    passing: bool = True
    behind: bool = True
    companions: bool = True
    look_ahead: bool = True
    clean_plate: bool = False


@dataclass
class ClipResult:
    """frames: uint8 [T,3,H,W] at the source's size; mask: uint8 [T,1,H,W] (0..255) or None without adapters.

    confidence: [T] in [0,1], higher with a clean plate by what that knows. change_outside: [T], mean change outside the
    mask in 1/255, before compositing. doubtful: [(first, last)] frames that should be edited again. shots: [(start,
    stop)]; untouched: those without a keyframe, whose frames are the source's own. generated: uint8 [T,3,h,w], what the
    model made, at the working size (of the region, where there is one); mask_probability: [T,1,h/8,w/8]; fit: between
    source and working size; region: `crop.Crop` or None; windows: [(first, last)]; seams: frames where windows meet;
    seconds: what the model's phases took, where it says; overruled: keyframes in whose place the clean plate shows what
    the film has there.
    """

    frames: torch.Tensor
    mask: torch.Tensor | None
    confidence: torch.Tensor
    change_outside: torch.Tensor
    doubtful: list
    shots: list
    untouched: list
    generated: torch.Tensor
    mask_probability: torch.Tensor | None
    fit: Fit
    region: object = None
    windows: list = field(default_factory=list)
    seams: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)
    overruled: list = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the user should know, one line each."""
        shots = [
            f"frames {a}-{b - 1} are a shot without a keyframe and stay as they are: give one to edit it"
            for a, b in self.untouched
        ]
        film = [
            f"frame {index}: behind the mask the film shows something else than your keyframe, and so does the result; "
            "for an edit that does not remove something choose the task edit"
            for index in self.overruled
        ]
        return shots + film + advice(self.doubtful)


def make(model, view: View, keyframes, shots, settings, progress=None, noise=None, dtype=torch.uint8) -> Made:
    """What the model makes of a clip, at the working size; frames of shots without a keyframe are the source's.

    noise: unit noise in pieces [1,t,4,h,w] instead of the seed's. dtype: torch.float32 keeps every bit of the frames.
    """
    window, overlap = _window(model, settings)
    (height, width), count = view.fit.size, len(view.source)
    made = Made.empty(count, height, width, dtype)
    seeded = FrameNoise(settings.seed, height // 8, width // 8, min(window, count))
    chain = Chain(
        model,
        view,
        seeded if noise is None else GivenNoise(noise),
        window,
        overlap,
        Counter(progress, 1 if settings.second_pass == "off" else 2),
        settings.anchor,
        None if settings.colour == "off" else partial(colour.match, kind=settings.colour),
        None if settings.second_pass == "off" else partial(hide, how=settings.second_pass),
        keyframes if settings.inner_keyframes else {},
        settings.guide_later,
        settings.passing,
        settings.behind,
        settings.companions,
    )
    followed = finer(view)
    runs = {shot: plan_runs(*shot, [k for k in keyframes if shot[0] <= k < shot[1]]) for shot in shots}
    chain.counter.ahead = sum(chain.count(run) for of_shot in runs.values() for run in of_shot)
    for shot, of_shot in runs.items():
        if settings.look_ahead and model.removes and not view.says_all:
            moving = Moving.of_film(followed.picture, followed.fit.size, range(*shot))
            chain.ahead = partial(Ahead, view, followed, keyframes, moving)
        for run in of_shot:
            follow = blended if run.blend else Chain.follow
            follow(chain, run, view.keyframe(keyframes[run.order[0]]), made)
    for start, stop in untouched(shots, keyframes):
        for index in range(start, stop):
            made.put(index, 1, view.frames([index])[0], 0.0, 1.0, 1.0, 0.0)
    return made


def untouched(shots, keyframes) -> list[tuple[int, int]]:
    """The shots without a keyframe."""
    return [(start, stop) for start, stop in shots if not any(start <= k < stop for k in keyframes)]


def _window(model, settings) -> tuple[int, int]:
    window = model.default_frames if settings.window is None else settings.window
    return window, default_overlap(window) if settings.overlap is None else settings.overlap


def checked(model, frames, keyframes, settings, mask=None, fit: Fit | None = None, step=lambda: None):
    """(View, keyframes, shots) of a clip whose every part fits the others; else GenPropError, before any sampling.

    step() is called for every frame in which cuts are looked for; what it raises stops the work.
    """
    check_window(*_window(model, settings))
    check_clip(frames)
    check_choices(settings)
    keyframes, mask = check_keyframes(keyframes, frames), check_mask(mask, frames)
    check_shows_something(mask, settings.mask_mode)
    fit = plan_fit(*frames.shape[-2:], model.size_multiple, settings.size) if fit is None else fit
    shots = find_shots(frames, step) if settings.find_shots else [(0, len(frames))]
    per_frame = mask is not None and len(mask) > 1
    return View(frames, fit, mask, settings.mask_mode, per_frame), keyframes, shots


def propagate_clip(
    model: WindowModel, frames, keyframes, settings=None, mask=None, progress=None, finishing=None
) -> ClipResult:
    """See the top of this file. T frames in, T frames out, at the source's size.

    progress(done, total) counts sampling steps, and is 0 of 1 while cuts are looked for; after the last of them,
    finishing(done, total) counts the steps that put the frames to the source's size, and lay the clean plate, on the
    CPU. What either raises stops the clip.

    Raises GenPropError, before any sampling, for keyframes, masks, windows and sizes that do not fit the clip.
    """
    settings = settings or ClipSettings()
    looking = (lambda: None) if progress is None else partial(progress, 0, 1)
    view, keyframes, shots = checked(model, frames, keyframes, settings, mask, step=looking)
    whole = keyframes
    region, made, halves = None, None, Halves(progress)
    if settings.crop == "auto":
        region, made = find_region(
            view, keyframes, partial(make, model, view, keyframes, shots, settings, halves.first)
        )
    if region is None and made is not None:
        halves.leave_out_second()
    if region is not None:
        progress = progress if made is None else halves.second
        inner = plan_fit(*region.size, model.size_multiple, view.fit.size)
        given = view.given
        if given is not None:
            given = torch.cat([region.cut(as_bytes(view.own([i])), start=i) for i in range(len(frames))])
        cut = torch.cat([as_bytes(region.cut(frames[i : i + 1], start=i)) for i in range(len(frames))])
        view = View(cut, inner, given, settings.mask_mode, view.per_frame)
        keyframes = {k: region.cut(at_size(f, frames), start=k)[0] for k, f in keyframes.items()}
        made = None
    made = make(model, view, keyframes, shots, settings, progress) if made is None else made
    has_plate = settings.clean_plate and model.removes and (made.has_mask or mask is not None)
    step = Steps(finishing, len(frames) * (4 if has_plate else 1))
    out, masks = finished(view, made, frames, shots, region, settings, step)
    trust, overruled = made.confidence, []
    if has_plate:
        weight = partial(alpha, grow=settings.grow, feather=settings.feather) if settings.composite else None
        sure = mask is not None and settings.mask_mode == "replace"
        scale = view.fit.source[0] / view.fit.inner[0]
        stays = shade = None
        if made.companions is not None:
            stays, shade = partial(companions_of, view, made, region), partial(shades_of, view, made, region)
        laid = clean_plate.lay(out, masks, frames, whole, shots, scale, weight, sure, stays, shade, step)
        trust, overruled = 1 - (1 - trust) * (1 - laid.known), laid.overruled
    step.end()
    left = untouched(shots, keyframes)
    for start, stop in left:
        for index in range(start, stop):  # one by one: a shot of floats is large
            out[index] = as_bytes(frames[index])
        if masks is not None:
            masks[start:stop] = 0  # whatever the user's mask says: nothing was replaced there
    return ClipResult(
        out, masks, trust, made.change, doubtful_ranges(trust.tolist()), shots, left, made.frames,
        made.mask if made.has_mask else None, view.fit, region, made.windows, sorted(made.seams), overruled=overruled,
    )  # fmt: skip
