"""What any method must beat: floors that need no model, plain SVD, and two ways of filling in under the true masks."""

import json
from pathlib import Path

import torch

from genprop_core import conditioning as cond
from genprop_core.errors import GenPropError
from genprop_core.evaluation import vae_round_trip
from genprop_core.files import load_tensors, save_tensors
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import Known, sample, unit_noise
from genprop_core.windows import plan_windows

from .evaluation_clips import EvalClip

NAMES = ("copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd", "telea", "latent_blending")
MADE = ("vae_round_trip", "plain_svd", "telea", "latent_blending")  # those worth keeping on disk
VERSION = 1  # of how they are made: with another, none that was kept is taken
GROW = 2  # pixels that the true mask is grown by, so that no edge of the object is left to fill in from


def telea(source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Per-frame OpenCV Telea inpainting (2004) of source [T,3,H,W] under mask [T,1,H,W]; it knows nothing of time."""
    import cv2

    frames, kernel = [], torch.ones(2 * GROW + 1, 2 * GROW + 1).byte().numpy()
    for picture, region in zip(source, mask):
        image = (picture * 255).round().byte().movedim(0, -1).contiguous().numpy()
        region = cv2.dilate((region[0] > 0.5).byte().numpy(), kernel)
        frames.append(torch.from_numpy(cv2.inpaint(image, region, 3, cv2.INPAINT_TELEA)).movedim(-1, 0).float() / 255)
    return torch.stack(frames)


def latent_blending(model: GenProp, clip: EvalClip, settings: PropagateSettings) -> torch.Tensor:
    """Plain SVD with the source's latents kept outside the true mask at every step, window after window."""
    plain = GenProp(model.base, None, model.device, model.placement.offload)
    source, mask = clip.source, cond.mask_to_latents(clip.mask)
    mask = (mask > 0).float()  # whole latent pixels: a soft edge would keep some of the object
    plan = plan_windows(len(source), settings.window or model.base.defaults.num_frames)
    out, keyframe = source.clone(), clip.keyframe
    for index, (start, stop, new) in enumerate(plan):
        keyframe = out[start] if index else keyframe
        condition = plain.condition(source[start:stop], keyframe, settings, settings.seed + index)
        with model.placement.use(model.base.vae):
            latents = cond.encode_frames(model.base.vae, source[start:stop] * 2 - 1, scaled=True)[None].float()
        latents = latents.to(model.device)
        known = Known(latents, mask[start:stop][None].to(model.device))
        noise = unit_noise(latents.shape, settings.seed + index).to(model.device)
        with model.placement.use(model.base.unet):
            made, _ = sample(model.base.unet, None, condition, noise, settings.sampler, known=known)
        with model.placement.use(model.base.vae):
            out[new:stop] = cond.decode_latents(model.base.vae, made[0], settings.decode_chunk)[new - start :].cpu()
    return out


def make(name: str, model: GenProp, clip: EvalClip, settings: PropagateSettings) -> torch.Tensor | None:
    """The frames [T,3,H,W] of one baseline; None where the clip lacks what it needs (truth, or masks)."""
    if name == "copy_source":
        return clip.source
    if name == "repeat_keyframe":
        return clip.keyframe[None].expand_as(clip.source)
    if name == "plain_svd":
        plain = GenProp(model.base, None, model.device, model.placement.offload)
        return plain.propagate(clip.source, clip.keyframe, settings).frames
    if name == "vae_round_trip":
        if clip.target is None:
            return None
        with model.placement.use(model.base.vae):
            return vae_round_trip(model.base.vae, clip.target, settings.decode_chunk)
    if clip.mask is None:
        return None
    return telea(clip.source, clip.mask) if name == "telea" else latent_blending(model, clip, settings)


class BaselineCache:
    """Baselines' frames on disk (uint8), one file per clip: they depend on base, clip (its contents), seed and
    sampling settings only.

    Adapters trained further, or others, find them there. `facts` is what they depend on besides the clip.
    """

    def __init__(self, folder, facts: dict):
        self.folder, self.facts = None if folder is None else Path(folder), facts

    def frames(self, model: GenProp, clip: EvalClip, settings: PropagateSettings, names) -> dict[str, torch.Tensor]:
        """{name: frames [T,3,H,W]} in the order of `names`, without those that the clip lacks the means for."""
        of_clip = {"clip": clip.name, "contents": clip.digest(), "seed": settings.seed, "task": settings.task}
        key = json.dumps(self.facts | of_clip, sort_keys=True)
        kept = self._read(clip.name, key)
        found, new = {}, False
        for name in names:
            if name in kept:
                found[name] = kept[name].float() / 255
                continue
            frames = make(name, model, clip, settings)
            if frames is not None and name in MADE:
                kept[name] = (frames * 255).round().clamp(0, 255).to(torch.uint8)
                frames, new = kept[name].float() / 255, True
            if frames is not None:
                found[name] = frames
        if new and self.folder is not None:
            save_tensors(self._path(clip.name), kept, {"key": key})
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _read(self, name: str, key: str) -> dict[str, torch.Tensor]:
        if self.folder is None or not self._path(name).is_file():
            return {}
        try:
            tensors, metadata = load_tensors(self._path(name))
        except GenPropError:  # damaged: made again
            return {}
        return tensors if metadata.get("key") == key else {}
