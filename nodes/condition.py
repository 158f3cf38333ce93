"""The node that turns a clip and an edited frame into what the model is conditioned on."""
from comfy_api.latest import io

from ..genprop_core.frames import resize
from . import encoding, inputs
from .sockets import CATEGORY, ConditionSocket, Told


class GenPropEncodeCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropEncodeCondition",
            display_name="GenProp Encode Condition",
            category=CATEGORY,
            description="Reads the source video and the edited frame once, for every step of the sampling to come.",
            inputs=[
                inputs.adapters(),
                *inputs.image_models(),
                io.Image.Input("source", tooltip="All frames of the clip; SVD-XT is made for 25, SVD for 14."),
                io.Image.Input("keyframe", tooltip="One frame of the source after your edit, not cropped."),
                io.Int.Input("keyframe_index", default=0, min=0, max=9999,
                             tooltip="Which frame of the source was edited; 0 is the first. The edit is carried from "
                                     "there to both ends."),
                *inputs.size("rounded"),
                *inputs.told(),
                io.Int.Input("noise_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
                             tooltip="Seed of that noise."),
                io.Combo.Input("hide", options=list(encoding.HIDE), default=encoding.HIDE[0],
                               tooltip="With a mask: how the region is hidden from the source encoder."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Optional: a region the source encoder must not see, one mask or one a frame. "
                                      "Use the predicted mask in a second pass if traces of the object remain."),
            ],
            outputs=[ConditionSocket.Output("condition", display_name="condition",
                                            tooltip="For GenProp Sampler or GenProp Apply.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, adapters, clip_vision, vae, source, keyframe, keyframe_index, width, height, task, fps,
                motion_bucket, noise_augmentation, noise_seed, hide, mask=None) -> io.NodeOutput:  # fmt: skip
        encoding.check_pictures(source, keyframe, keyframe_index, mask)
        frames, key = encoding.channels_first(source), encoding.channels_first(keyframe)
        height, width = encoding.unsqueezed_size(*frames.shape[2:], height, width, adapters.size_multiple)
        frames, key = resize(frames, height, width), resize(key, height, width)
        if mask is not None:
            frames = encoding.hide(frames, encoding.fit_mask(mask, len(frames), height, width).to(frames), hide)
        told = Told(fps, motion_bucket, noise_augmentation)
        plan = encoding.passes(len(frames), keyframe_index)
        return io.NodeOutput(encoding.encode(adapters, clip_vision, vae, frames, key[0], plan, told, task, noise_seed))
