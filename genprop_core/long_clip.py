"""A clip of any length from one or more keyframes, made window by window with any `WindowModel`.

    propagate_clip(model: WindowModel, frames, keyframes, settings=None, mask=None, progress=None) -> ClipResult

frames: uint8 [T,3,H,W] (or float in [0,1]), in the CPU's memory; keyframes: {frame index: [3,h,w] uint8 or float};
settings: ClipSettings; mask: [1 or T,1,H,W] or [1 or T,H,W], float in [0,1] or uint8; progress(done, total) counts
sampling steps. Only one window at a time is float and goes to the model.
"""

from dataclasses import dataclass, field

import torch

from .clip_input import View, check_clip, check_keyframes, check_mask
from .compositing import FEATHER, GROW, composite
from .confidence import advice, doubtful_ranges, to_size
from .errors import GenPropError
from .frames import as_bytes, as_float, resize
from .window_chain import Chain, Counter, Made, blended
from .window_model import FrameNoise, GivenNoise, WindowModel
from .windows import check_window, default_overlap, plan_runs


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is cut into windows and put together again. None means the model's default.

    window, overlap: frames per pass, and shared by neighbours. size: (height, width) to work at; None is the source's.
    seed: of the noise. find_shots: whether scene cuts are looked for. anchor: whether a window's keyframe is the
    source's own outside the mask. composite, grow, feather: as in `compositing.composite`. mask_mode: whether a given
    mask replaces the predicted one or joins it.
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


@dataclass
class ClipResult:
    """frames: uint8 [T,3,H,W] at the source's size; mask: uint8 [T,1,H,W] (0..255) or None without adapters.

    confidence: [T] in [0,1]; change_outside: [T], mean change outside the mask in 1/255, before compositing.
    doubtful: [(first, last)] frames that should be edited again. shots: [(start, stop)]; untouched: those without a
    keyframe, whose frames are the source's own. generated: uint8 [T,3,h,w], what the model made, at the working size;
    mask_probability: [T,1,h/8,w/8]; windows: [(first, last)]; seams: frames where windows meet.
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
    windows: list = field(default_factory=list)
    seams: list = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the user should know, one line each."""
        shots = [f"frames {a}-{b - 1} have no keyframe and stay as they are: give one to edit that shot"
                 for a, b in self.untouched]  # fmt: skip
        return shots + advice(self.doubtful)


def make(model, frames, keyframes, settings, mask=None, progress=None, noise=None, dtype=torch.uint8):
    """(Made, shots, untouched shots) at the working size, without what comes after the model. See `propagate_clip`.

    noise: unit noise in pieces [1,t,4,h,w] instead of the seed's. dtype: torch.float32 keeps every bit of the frames.
    """
    window = settings.window or model.default_frames
    overlap = default_overlap(window) if settings.overlap is None else settings.overlap
    check_window(window, overlap)
    check_clip(frames)
    keyframes = check_keyframes(keyframes, frames)
    mask = check_mask(mask, frames, settings.mask_mode)
    height, width = settings.size or tuple(frames.shape[-2:])
    if height % model.size_multiple or width % model.size_multiple:
        raise GenPropError(
            f"Expected a size to work at in multiples of {model.size_multiple} for this base, got {width}x{height}."
        )
    shots = [(0, len(frames))]
    made = Made.empty(len(frames), height, width, dtype)
    view = View(frames, height, width, mask, settings.mask_mode)
    seeded = FrameNoise(settings.seed, height // 8, width // 8, min(window, len(frames)))
    own = seeded if noise is None else GivenNoise(noise)
    runs = [(run, shot) for shot in shots for run in plan_runs(*shot, [k for k in keyframes if shot[0] <= k < shot[1]])]
    chain = Chain(model, view, own, window, overlap, Counter(progress, 0, 1), settings.anchor)
    chain.counter.windows = sum(chain.count(run) for run, _ in runs)
    for run, _ in runs:
        picture = resize(as_float(keyframes[run.order[0]])[None], height, width)[0]
        if run.blend:
            blended(run, chain, picture, made)
        else:
            chain.follow(run, picture, made)
    untouched = [shot for shot in shots if not any(shot[0] <= k < shot[1] for k in keyframes)]
    for start, stop in untouched:
        for index in range(start, stop):
            made.put(index, 1, view.frames([index])[0], 0.0, 1.0, 0.0)
    return made, shots, untouched


def propagate_clip(model: WindowModel, frames, keyframes, settings=None, mask=None, progress=None) -> ClipResult:
    """See the top of this file. T frames in, T frames out, at the source's size.

    Raises GenPropError, before any sampling, for keyframes, masks, windows and sizes that do not fit the clip.
    """
    settings = settings or ClipSettings()
    made, shots, untouched = make(model, frames, keyframes, settings, mask, progress)
    height, width = frames.shape[-2:]
    out, masks = torch.empty(frames.shape, dtype=torch.uint8), None
    view = View(frames, *made.frames.shape[-2:], check_mask(mask, frames, settings.mask_mode), settings.mask_mode)
    if made.has_mask or mask is not None:
        masks = torch.empty(len(frames), 1, height, width, dtype=torch.uint8)
    for index in range(len(frames)):
        frame = resize(as_float(made.frames[index])[None], height, width)
        if masks is not None:
            own = view.mask([index], made.mask[index][None] if made.has_mask else None)
            masks[index] = as_bytes(to_size(own, height, width))[0]
        if settings.composite and masks is not None:
            frame = composite(frames[index][None], as_bytes(frame), masks[index][None], settings.grow, settings.feather)
        out[index] = as_bytes(frame)[0]
    for start, stop in untouched:
        out[start:stop] = as_bytes(frames[start:stop])
    return ClipResult(
        out, masks, made.confidence, made.change, doubtful_ranges(made.confidence.tolist()), shots, untouched,
        made.frames, made.mask if made.has_mask else None, made.windows, sorted(made.seams),
    )  # fmt: skip
