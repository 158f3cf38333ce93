"""The two nodes that denoise: GenProp's own sampler, and the same injection for ComfyUI's samplers."""
import comfy.model_management as mm
import comfy.sample
import latent_preview
import torch
from comfy_api.latest import io

from ..genprop_core.errors import GenPropError
from . import inputs
from .control import GenPropControl, patch_model
from .memory import check_model, on_device_of
from .passes import Sampling, conditioning, join, sample_pass
from .sockets import CATEGORY, ConditionSocket, Features, FeaturesSocket


class GenPropSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropSampler",
            display_name="GenProp Sampler",
            category=CATEGORY,
            description="Carries the edit of the keyframe through the clip, and reads the mask of what changes.",
            inputs=[
                inputs.model(),
                ConditionSocket.Input("condition", tooltip="From GenProp Encode Condition."),
                *inputs.sampling(),
                inputs.strength(),
                *inputs.span(),
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
        settings = Sampling(steps, min_guidance, max_guidance, sampler_name, scheduler, strength, start_percent,
                            end_percent)  # fmt: skip
        latents, masks = [], []
        for number, segment in enumerate(condition.segments):
            part = (seed + number) % 2**64
            noise = comfy.sample.prepare_noise(torch.zeros(condition.latent_shape(len(segment.frames))), part)
            callback = latent_preview.prepare_callback(model, steps)
            made, probability = sample_pass(model, condition, segment, settings, part, noise, callback)
            latents.append(made)
            masks.append(probability)
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
                inputs.strength(),
                *inputs.span(),
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
        control = GenPropControl(on_device_of(model, condition.adapters), segment, strength, start_percent, end_percent)
        positive, negative = conditioning(condition, segment, control)
        empty = torch.zeros(condition.latent_shape(len(segment.frames)), device=mm.intermediate_device())
        patched = patch_model(model, [control])
        patched.set_model_sampler_post_cfg_function(control.guide_edit_only)
        return io.NodeOutput(patched, positive, negative, {"samples": empty})
