"""What a long clip is measured in: the variants of the settings, and the scores of one clip in one of them."""

import time
from dataclasses import replace

import torch

from genprop_core.compositing import composite
from genprop_core.confidence import to_size
from genprop_core.frames import as_bytes, as_float
from genprop_core.long_clip import ClipSettings
from genprop_core.metrics import colour_drift, iou, psnr, seam_jump
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.windows import default_overlap

from .long_sources import ENDS, EVERY, FIRST, LongClip

NEAR = 4  # frames that stand for one in the scores inside the mask, so that an occluded moment does not decide
GUIDED = 3.0  # guidance at the last frame in the variants named so
BASE = ClipSettings()
MASKED = "mask of every frame"  # the variant in which the user gives the true one
VARIANTS = {  # name -> (settings, whether in large frames, which have a keyframe)
    "as it is": (BASE, False, FIRST),
    "two keyframes": (BASE, False, ENDS),
    "clean plate": (replace(BASE, clean_plate=True), False, FIRST),
    "two keyframes, clean plate": (replace(BASE, clean_plate=True), False, ENDS),
    "no looking ahead": (replace(BASE, look_ahead=False), False, FIRST),
    "a keyframe in every window": (BASE, False, EVERY),
    "companions forgotten": (replace(BASE, companions=False), False, FIRST),
    "inner keyframes": (replace(BASE, inner_keyframes=True), False, ENDS),
    "without anchoring": (replace(BASE, anchor=False), False, FIRST),
    "nothing passes through": (replace(BASE, passing=False), False, FIRST),
    "nothing seen before": (replace(BASE, behind=False), False, FIRST),
    MASKED: (BASE, False, FIRST),
    "overlap of 1 frame": (replace(BASE, overlap=1), False, FIRST),
    "guidance 1 to 3": (BASE, False, FIRST),
    "guidance 1 to 3 in every window": (replace(BASE, guide_later=True), False, FIRST),
    "without colour match": (replace(BASE, colour="off"), False, FIRST),
    "colour match: offset": (replace(BASE, colour="offset"), False, FIRST),
    "colour match: gain": (replace(BASE, colour="gain"), False, FIRST),
    "colour match: smooth": (replace(BASE, colour="smooth"), False, FIRST),
    "second pass, black": (replace(BASE, second_pass="black"), False, FIRST),
    "second pass, blur": (replace(BASE, second_pass="blur"), False, FIRST),
    "refined mask": (replace(BASE, refine=True), False, FIRST),
    "large frame": (BASE, True, FIRST),
    "large frame, crop": (replace(BASE, crop="auto"), True, FIRST),
}


def measure(model: GenProp, clip: LongClip, name: str, settings: PropagateSettings) -> dict:
    """One clip in one variant: its scores, and the seconds of processor time it took."""
    clip_settings, _, which = VARIANTS[name]
    source, target, frames = clip.source, clip.target, len(clip.source)
    window = model.base.defaults.num_frames
    keyframes = clip.keyframes(window, default_overlap(window), which)
    if name.startswith("guidance"):
        settings = replace(settings, sampler=replace(settings.sampler, max_cfg=GUIDED))
    started = time.process_time()
    clip_settings = replace(clip_settings, find_shots=len(clip.shots) > 1)
    settings = replace(settings, clip=clip_settings, seed=settings.seed + clip.number, task=clip.task)
    result = model.propagate_clip(source, keyframes, settings, as_bytes(clip.mask) if name == MASKED else None)
    seconds = time.process_time() - started
    made, truth, outside = as_float(result.frames), as_float(target), 1 - clip.mask
    whole = composite(source, result.frames, result.mask)
    half, last = slice(frames // 2, None), slice(frames - window, None)
    return {
        "psnr": psnr(made, truth),
        "psnr_outside": psnr(made, truth, outside),
        "psnr_inside": psnr(made, truth, clip.mask),
        "psnr_composited": psnr(as_float(whole), truth),
        "mask_iou": iou(result.mask > 127, clip.mask > 0.5),
        "seam_jump": seam_jump(made, result.seams),
        "colour_drift": colour_drift(made, truth, clip.mask),
        "outside_first_window": psnr(made[:window], truth[:window], outside[:window]),
        "outside_last_window": psnr(made[last], truth[last], outside[last]),
        "inside_at_8": _inside(made, truth, clip.mask, window),
        "inside_at_end": _inside(made, truth, clip.mask, frames),
        "second_half": psnr(made[half], truth[half]),
        "second_half_composited": psnr(as_float(whole[half]), truth[half]),
        "second_half_inside": psnr(made[half], truth[half], clip.mask[half]),
        "confidence": float(result.confidence.mean()),
        "told_apart": told_apart(result, made, truth, clip.mask),
        "windows": len(result.windows),
        "seconds": seconds,
    }


def _inside(made, truth, mask, stop: int):
    """PSNR inside the mask over the frames that end before `stop`; None where the object is out of sight."""
    part = slice(max(0, stop - NEAR), stop)
    return psnr(made[part], truth[part], mask[part])


def told_apart(result, made, truth, mask):
    """Spearman's rank correlation of a frame's confidence with its PSNR in and around the mask; 1 is the best guide.

    None with fewer than three frames to rank, and where all are equally confident or equally good.
    """
    near = to_size(torch.nn.functional.max_pool2d(mask, 9, stride=1, padding=4), *made.shape[-2:])
    quality = [psnr(made[t : t + 1], truth[t : t + 1], near[t : t + 1]) for t in range(len(made))]
    seen = [t for t, q in enumerate(quality) if q is not None]
    if len(seen) < 3:
        return None
    ranked = [ranks(torch.tensor(v)) for v in ([quality[t] for t in seen], result.confidence[seen].tolist())]
    if any(r.eq(r[0]).all() for r in ranked):
        return None
    return float(torch.corrcoef(torch.stack(ranked))[0, 1])


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0, float64; equal values share the mean of theirs, so that their order in time counts for nothing."""
    below, equal = ((op(values[None], values[:, None])).sum(1) for op in (torch.lt, torch.eq))
    return below + (equal.double() - 1) / 2
