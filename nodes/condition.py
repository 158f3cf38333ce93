"""The node that turns a clip and an edited frame into what the model is conditioned on."""
from comfy_api.latest import io

from ..genprop_core import conditioning as cond
from ..genprop_core.config import TASKS
from ..genprop_core.frames import resize
from . import encoding
from .sockets import CATEGORY, AdaptersSocket, ConditionSocket, Told


class GenPropEncodeCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropEncodeCondition",
            display_name="GenProp Encode Condition",
            category=CATEGORY,
            description="Reads the source video and the edited frame once, for every step of the sampling to come.",
            inputs=[
                AdaptersSocket.Input("adapters", tooltip="From GenProp Load Adapters or GenProp Load Mini."),
                io.ClipVision.Input("clip_vision", tooltip="The CLIP vision of the SVD checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the SVD checkpoint, or taesd, which is faster."),
                io.Image.Input("source", tooltip="All frames of the clip; SVD-XT is made for 25, SVD for 14."),
                io.Image.Input("keyframe", tooltip="One frame of the source after your edit, not cropped."),
                io.Int.Input("keyframe_index", default=0, min=0, max=9999,
                             tooltip="Which frame of the source was edited; 0 is the first. The edit is carried from "
                                     "there to both ends."),
                io.Int.Input("width", default=0, min=0, max=8192, step=8,
                             tooltip="Pixels to work at, a multiple of 64 (mini: of 32). 0: the source's, rounded."),
                io.Int.Input("height", default=0, min=0, max=8192, step=8,
                             tooltip="Pixels to work at, a multiple of 64 (mini: of 32). 0: the source's, rounded."),
                io.Combo.Input("task", options=list(TASKS), default=TASKS[0],
                               tooltip="What the edit is: remove an object, change something, or track a painted one."),
                io.Float.Input("fps", default=7.0, min=1.0, max=120.0, step=1.0,
                               tooltip="Frames per second that SVD is told. 7 for svd and svd_xt, 6 for svd_xt_1_1."),
                io.Int.Input("motion_bucket", default=127, min=1, max=1023,
                             tooltip="How much motion SVD expects. 127 is its average."),
                io.Float.Input("noise_augmentation", default=cond.NOISE_AUGMENTATION, min=0.0, max=10.0, step=0.01,
                               tooltip="Noise added to the keyframe. More lets the result deviate further from it."),
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
        height, width = encoding.working_size(*frames.shape[2:], height, width, adapters.size_multiple)
        frames, key = resize(frames, height, width), resize(key, height, width)
        if mask is not None:
            frames = encoding.hide(frames, encoding.fit_mask(mask, len(frames), height, width), hide)
        told = Told(fps, motion_bucket, noise_augmentation)
        plan = encoding.passes(len(frames), keyframe_index)
        return io.NodeOutput(encoding.encode(adapters, clip_vision, vae, frames, key[0], plan, told, task, noise_seed))
