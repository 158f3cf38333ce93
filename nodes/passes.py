"""One pass of the sampler over the frames of a segment, and the mask that is read on the way. No nodes here."""
from dataclasses import dataclass, replace

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ..genprop_core import edm
from ..genprop_core.errors import GenPropError
from ..genprop_core.sampler import MASK_STEPS
from .control import GenPropControl, patch_model
from .mask_recorder import MaskRecorder
from .memory import on_device_of
from .sockets import EncodedCondition, Segment

COMPILE_KEY = "torch.compile"


@dataclass(frozen=True)
class Sampling:
    """How a pass is sampled. sampler_name and scheduler are ComfyUI's; strength, start and end are the injection's."""

    steps: int
    min_guidance: float
    max_guidance: float
    sampler_name: str
    scheduler: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def unguided(self) -> "Sampling":
        return replace(self, min_guidance=1.0, max_guidance=1.0)


def conditioning(condition: EncodedCondition, segment: Segment, control):
    """positive and negative CONDITIONING of one segment; the negative is SVD's empty branch, with the same control."""
    clip, image = segment.condition.clip, segment.condition.image_latents[0]
    shared = {"motion_bucket_id": condition.motion_bucket, "fps": condition.fps, "control": control,
              "augmentation_level": condition.noise_augmentation, "control_apply_to_uncond": False}  # fmt: skip
    positive = [[clip, {**shared, "concat_latent_image": image}]]
    return positive, [[torch.zeros_like(clip), {**shared, "concat_latent_image": torch.zeros_like(image)}]]


def guide(model, low: float, high: float) -> None:
    """Sets guidance growing linearly over the frames on a clone of ours, as VideoLinearCFGGuidance does."""

    def linear(args):
        full, empty = args["cond"], args["uncond"]
        scale = edm.linear_guidance(low, high, len(full))[0].to(full.device, full.dtype)
        return empty + scale * (full - empty)

    model.set_model_sampler_cfg_function(linear, disable_cfg1_optimization=low != high)


def sample_pass(model, condition: EncodedCondition, segment: Segment, settings: Sampling, seed, noise, callback):
    """(latents [T,4,h,w], mask probability [T,1,h,w]) of one segment. noise: unit noise [T,4,h,w]; seed: for samplers
    that draw more; callback(step, x0, x, steps) is called after every step."""
    adapters = on_device_of(model, condition.adapters)
    control = GenPropControl(adapters, segment, settings.strength, settings.start, settings.end)
    patched = patch_model(model, [control])
    guide(patched, settings.min_guidance, settings.max_guidance)
    patched.set_model_sampler_post_cfg_function(control.guide_edit_only)
    names, steps = (settings.sampler_name, settings.scheduler), settings.steps
    sigmas = comfy.samplers.KSampler(patched, steps, patched.load_device, *names, 1.0).sigmas
    below = float(sigmas[-1 - min(MASK_STEPS, len(sigmas) - 1)])
    recorder = MaskRecorder(condition.adapters, len(segment.frames), below)
    recorder.attach(patched)
    positive, negative = conditioning(condition, segment, control)
    empty = torch.zeros(condition.latent_shape(len(segment.frames)), device=mm.intermediate_device())
    made = comfy.sample.sample(
        patched, noise, steps, settings.max_guidance, *names, positive, negative, empty, callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    probability = recorder.probability()
    return made, mask_pass(model, condition, segment, made) if probability is None else probability


def mask_pass(model, condition: EncodedCondition, segment: Segment, latents) -> torch.Tensor:
    """The mask's probability [T,1,h,w] by one UNet pass at the lowest noise level on finished latents [T,4,h,w]."""
    control = GenPropControl(on_device_of(model, condition.adapters), segment)
    patched = patch_model(model, [control])
    patched.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)  # a compiled UNet may leave patches out
    recorder = MaskRecorder(condition.adapters, len(segment.frames), edm.SIGMA_MIN)
    recorder.attach(patched)
    positive, negative = conditioning(condition, segment, control)

    def once(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
        denoiser(x, sigmas[0] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        return x

    sigmas = torch.tensor([edm.SIGMA_MIN, 0.0])
    comfy.sample.sample_custom(patched, torch.zeros_like(latents), 1.0, comfy.samplers.KSAMPLER(once), sigmas, positive,
                               negative, latents, disable_pbar=True, seed=0)  # fmt: skip
    probability = recorder.probability()
    if probability is None:
        raise GenPropError("Expected to read the mask from the UNet, but a patch on the MODEL keeps its blocks hidden. "
                           "Connect the MODEL before it was compiled.")  # fmt: skip
    return probability


def join(condition: EncodedCondition, parts) -> torch.Tensor:
    """[T,...] of the whole clip from the segments' parts; the keyframe, which all share, is the first one's."""
    whole = torch.zeros(condition.num_frames, *parts[0].shape[1:])
    for number, (segment, part) in enumerate(zip(condition.segments, parts)):
        skip = min(number, 1)
        whole[list(segment.frames[skip:])] = part[skip:].float().cpu()
    return whole
