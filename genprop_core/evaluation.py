"""Scores of a propagated clip against the truth, beside the floors that any method must beat."""

import time

import torch

from . import conditioning as cond
from .long_clip import ClipSettings
from .metrics import mean_over_clips, score
from .pipeline import GenProp, PropagateSettings, Result

KEYS = ("psnr", "ssim", "psnr_outside", "psnr_inside", "mask_iou", "removed")
ALONE = ClipSettings(look_ahead=False)  # what is scored is what adapters find, not what is found for them
FLOORS = ("copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd")


def vae_round_trip(vae, frames: torch.Tensor, decode_chunk: int) -> torch.Tensor:
    """frames [T,3,H,W] in [0,1] through the VAE and back."""
    return cond.decode_latents(vae, cond.encode_frames(vae, frames * 2 - 1, scaled=True), decode_chunk).cpu()


def scores(result: Result, target, source, mask) -> dict:
    """Scores of a result at the working size; target, source [T,3,H,W] and mask [T,1,H,W] of the same size."""
    true_mask = cond.mask_to_latents(mask) > 0.5
    predicted = None if result.mask is None else result.mask > 0.5
    return score(result.frames, target, source, mask, predicted, true_mask)


def floor_scores(
    model: GenProp, source, target, mask, keyframe, settings: PropagateSettings, index: int = 0
) -> dict[str, dict]:
    """Scores of copying the source, repeating the keyframe (frame `index`), the VAE alone, and SVD without adapters."""
    svd = GenProp(model.base, None, model.device, model.placement.offload)
    plain = svd.propagate(source, {index: keyframe}, settings)
    with model.placement.use(model.base.vae):
        round_trip = vae_round_trip(model.base.vae, target, settings.decode_chunk)
    pictures = {
        "copy_source": source,
        "repeat_keyframe": keyframe[None].expand_as(source),
        "vae_round_trip": round_trip,
        "plain_svd": plain.frames,
    }
    return {name: score(frames, target, source, mask) for name, frames in pictures.items()}


def summary(results: list[dict], floors: list[dict], *, controls, frames, size, seconds, checkpoint, seed) -> dict:
    """The JSON that `propagate` and `trainer.evaluate` both write: means over clips, spread beside them.

    results: scores per clip; floors: {name: scores} per clip; size: [width, height].
    """
    return {
        "result": mean_over_clips(results or [dict.fromkeys(KEYS)]),
        "floors": {name: mean_over_clips([f[name] for f in floors]) for name in FLOORS} if floors else {},
        "controls": controls,
        "clips": len(results),
        "frames": frames,
        "size": size,
        "seconds": seconds,
        "checkpoint": checkpoint,
        "seed": seed,
    }


def timed(function, *arguments):
    """The function's value and the seconds it took."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start
