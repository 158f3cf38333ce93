"""The mask: predicted from what the sampler saw or from finished latents, and used to keep the source's background."""
import torch
import torch.nn.functional as F
from comfy_api.latest import io

from ..genprop_core.compositing import FEATHER, GROW, composite
from ..genprop_core.errors import GenPropError
from ..genprop_core.frames import resize
from .encoding import channels_first, check_mask_count, fit_mask
from .memory import check_model
from .passes import join, mask_pass
from .sockets import CATEGORY, ConditionSocket, Features, FeaturesSocket


def confidence(probability: torch.Tensor, threshold: float) -> list[float]:
    """Per frame of [T,1,h,w]: the mean probability inside the region found, 0 where none was found."""
    found = probability >= threshold
    inside = (probability * found).flatten(1).sum(1) / found.flatten(1).sum(1).clamp(min=1)
    return inside.tolist()


class GenPropPredictMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropPredictMask",
            display_name="GenProp Predict Mask",
            category=CATEGORY,
            description="The region that the edit changes, in every frame. Connect the features of GenProp Sampler, or "
            "(after ComfyUI's own sampler) the model, the condition and the latent.",
            inputs=[
                io.Float.Input("threshold", default=0.5, min=0.0, max=1.0, step=0.01,
                               tooltip="Probability from which on a pixel belongs to the region."),
                FeaturesSocket.Input("features", optional=True, tooltip="From GenProp Sampler."),
                io.Model.Input("model", optional=True, tooltip="Without features: the model that made the latent."),
                ConditionSocket.Input("condition", optional=True, tooltip="Without features: the latent's condition."),
                io.Latent.Input("samples", optional=True, tooltip="Without features: the finished latent."),
            ],
            outputs=[
                io.Mask.Output("soft_mask", display_name="soft mask", tooltip="Probabilities from 0 to 1."),
                io.Mask.Output("mask", display_name="mask", tooltip="0 or 1, cut at the threshold."),
                io.Float.Output("confidence", display_name="confidence", is_output_list=True,
                                tooltip="Per frame: how sure the decoder is of the region it found; 0 where none."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, threshold, features=None, model=None, condition=None, samples=None) -> io.NodeOutput:
        if features is None:
            features = cls._by_one_pass(model, condition, samples)
        soft = F.interpolate(features.probability, (features.height, features.width), mode="bilinear")[:, 0]
        return io.NodeOutput(soft, (soft >= threshold).float(), confidence(features.probability, threshold))

    @staticmethod
    def _by_one_pass(model, condition, samples) -> Features:
        absent = [n for n, v in (("model", model), ("condition", condition), ("samples", samples)) if v is None]
        if absent:
            raise GenPropError(f"Expected features, or model, condition and samples; got no {', no '.join(absent)}. "
                               "Connect GenProp Sampler's features, or all three.")  # fmt: skip
        check_model(model, condition.adapters)
        latents, expected = samples["samples"], condition.latent_shape(condition.num_frames)
        if tuple(latents.shape) != expected:
            raise GenPropError(
                f"Expected the latent of {expected[0]} frames at {condition.width}x{condition.height} that this "
                f"condition made, got {latents.shape[0]} frames at {latents.shape[-1] * 8}x{latents.shape[-2] * 8}. "
                "Connect the latent and the condition of the same run."
            )
        parts = [mask_pass(model, condition, s, latents[list(s.frames)]) for s in condition.segments]
        return Features(join(condition, parts), condition.width, condition.height)


class GenPropComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropComposite",
            display_name="GenProp Composite",
            category=CATEGORY,
            description="Takes the result inside the mask and the source outside, whose pixels stay just as they are.",
            inputs=[
                io.Image.Input("source", tooltip="The clip as filmed; its size is the output's."),
                io.Image.Input("result", tooltip="The edited clip; another size is resized."),
                io.Mask.Input("mask", tooltip="Where the result shows: one mask, or one a frame."),
                io.Int.Input("grow", default=GROW, min=0, max=256, tooltip="Pixels to grow the mask by."),
                io.Int.Input("feather", default=FEATHER, min=0, max=256,
                             tooltip="Pixels over which it then fades out."),
            ],
            outputs=[io.Image.Output("composite", display_name="IMAGE", tooltip="The clip, at the source's size.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, source, result, mask, grow, feather) -> io.NodeOutput:
        if len(source) != len(result):
            raise GenPropError(f"The source has {len(source)} frames, the result {len(result)}. "
                               "Connect the clip that the result was made from.")  # fmt: skip
        check_mask_count(mask, len(source))
        frames = channels_first(source)
        made = resize(channels_first(result), *frames.shape[2:]).to(frames.device)
        cut = fit_mask(mask, len(frames), *frames.shape[2:]).to(frames.device)
        return io.NodeOutput(composite(frames, made, cut, grow, feather).movedim(1, -1))
