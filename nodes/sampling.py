"""The two nodes that denoise: GenProp's own sampler, and the same injection for ComfyUI's samplers."""
import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..genprop_core import edm
from ..genprop_core.errors import GenPropError
from ..genprop_core.sampler import MASK_STEPS
from .control import GenPropControl, MaskRecorder, patch_model
from .memory import check_model
from .sockets import CATEGORY, ConditionSocket, EncodedCondition, Features, FeaturesSocket, Segment

COMPILE_KEY = "torch.compile"


def conditioning(condition: EncodedCondition, segment: Segment, control):
    """positive and negative CONDITIONING of one segment; the negative is SVD's empty branch, with the same control."""
    clip, image = segment.condition.clip, segment.condition.image_latents[0, :1]
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


def mask_pass(model, condition: EncodedCondition, segment: Segment, latents) -> torch.Tensor:
    """The mask's probability [T,1,h,w] by one UNet pass at the lowest noise level on finished latents [T,4,h,w]."""
    control = GenPropControl(condition.adapters, segment)
    patched = patch_model(model, [control])
    patched.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)  # a compiled UNet may leave patches out
    recorder = MaskRecorder(condition.adapters, len(segment.frames), edm.SIGMA_MIN)
    patched.set_model_output_block_patch(recorder)
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


class GenPropSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropSampler",
            display_name="GenProp Sampler",
            category=CATEGORY,
            description="Carries the edit of the keyframe through the clip, and reads the mask of what changes.",
            inputs=[
                io.Model.Input("model", tooltip="SVD, or the mini. LoRAs and torch.compile before it are fine."),
                ConditionSocket.Input("condition", tooltip="From GenProp Encode Condition."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="Seed of the noise the clip is made from."),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps. 25 is SVD's own number."),
                io.Float.Input("min_guidance", default=1.0, min=1.0, max=100.0, step=0.1,
                               tooltip="Guidance at the first frame; it grows evenly to the last."),
                io.Float.Input("max_guidance", default=3.0, min=1.0, max=100.0, step=0.1,
                               tooltip="Guidance at the last frame. With both at 1 there is none, in half the time."),
                io.Combo.Input("sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler",
                               tooltip="ComfyUI's samplers. SVD is usually sampled with euler."),
                io.Combo.Input("scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), default="karras",
                               tooltip="ComfyUI's schedulers. SVD is usually sampled with karras."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="How strongly the source is kept. 0 is plain SVD."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the source begins to count."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the source no longer counts."),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="LATENT", tooltip="The edited clip, for VAE Decode."),
                FeaturesSocket.Output("features", display_name="features", tooltip="For GenProp Predict Mask."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, condition, seed, steps, min_guidance, max_guidance, sampler_name, scheduler, strength,
                start_percent, end_percent) -> io.NodeOutput:  # fmt: skip
        check_model(model, condition.adapters)
        latents, masks = [], []
        for number, segment in enumerate(condition.segments):
            control = GenPropControl(condition.adapters, segment, strength, start_percent, end_percent)
            patched = patch_model(model, [control])
            guide(patched, min_guidance, max_guidance)
            sigmas = comfy.samplers.KSampler(patched, steps, patched.load_device, sampler_name, scheduler, 1.0).sigmas
            below = float(sigmas[-1 - min(MASK_STEPS, len(sigmas) - 1)])
            recorder = MaskRecorder(condition.adapters, len(segment.frames), below)
            patched.set_model_output_block_patch(recorder)
            positive, negative = conditioning(condition, segment, control)
            empty = torch.zeros(condition.latent_shape(len(segment.frames)), device=mm.intermediate_device())
            part = (seed + number) % 2**64
            made = comfy.sample.sample(
                patched, comfy.sample.prepare_noise(empty, part), steps, max_guidance, sampler_name, scheduler,
                positive, negative, empty, callback=latent_preview.prepare_callback(patched, steps),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=part,
            )  # fmt: skip
            latents.append(made)
            probability = recorder.probability()
            masks.append(mask_pass(model, condition, segment, made) if probability is None else probability)
        features = Features(join(condition, masks), condition.width, condition.height)
        return io.NodeOutput({"samples": join(condition, latents).to(mm.intermediate_device())}, features)


class GenPropApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropApply",
            display_name="GenProp Apply",
            category=CATEGORY,
            description="The same injection for ComfyUI's own samplers: connect all four outputs to a KSampler or to "
            "SamplerCustomAdvanced, with Video Linear CFG Guidance on the model.",
            inputs=[
                io.Model.Input("model", tooltip="SVD, or the mini."),
                ConditionSocket.Input("condition", tooltip="From GenProp Encode Condition, with keyframe index 0."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="How strongly the source is kept. 0 is plain SVD."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the source begins to count."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the source no longer counts."),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="MODEL", tooltip="A copy of the model you gave."),
                io.Conditioning.Output("positive", display_name="positive", tooltip="The keyframe, with the source."),
                io.Conditioning.Output("negative", display_name="negative", tooltip="Empty, with the source."),
                io.Latent.Output("latent", display_name="LATENT", tooltip="An empty latent of the clip's size."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, condition, strength, start_percent, end_percent) -> io.NodeOutput:
        check_model(model, condition.adapters)
        index = condition.segments[0].frames[0]
        if index != 0:
            raise GenPropError(
                f"Expected a condition with keyframe index 0 for ComfyUI's samplers, got {index}: only GenProp "
                "Sampler runs backward from a keyframe. Use that node, or a keyframe of the first frame."
            )
        segment = condition.segments[0]
        control = GenPropControl(condition.adapters, segment, strength, start_percent, end_percent)
        positive, negative = conditioning(condition, segment, control)
        empty = torch.zeros(condition.latent_shape(len(segment.frames)), device=mm.intermediate_device())
        return io.NodeOutput(patch_model(model, [control]), positive, negative, {"samples": empty})
