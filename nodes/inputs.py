"""Inputs that several nodes have, in the order in which they stand there. Saved graphs name their ids."""
import comfy.samplers
from comfy_api.latest import io

from ..genprop_core import conditioning as cond
from ..genprop_core.config import TASKS
from .sockets import AdaptersSocket


def model():
    return io.Model.Input("model", tooltip="SVD, or the mini. LoRAs and torch.compile before it are fine.")


def adapters():
    return AdaptersSocket.Input("adapters", tooltip="From GenProp Load Adapters or GenProp Load Mini.")


def image_models() -> list:
    """clip_vision, vae."""
    return [
        io.ClipVision.Input("clip_vision", tooltip="The CLIP vision of the SVD checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the SVD checkpoint, or taesd, which is faster."),
    ]


def sampling() -> list:
    """seed, steps, min_guidance, max_guidance, sampler_name, scheduler."""
    return [
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                     tooltip="Seed of the noise the clip is made from."),
        io.Int.Input("steps", default=25, min=1, max=1000,
                     tooltip="Sampling steps. 25 is SVD's own number; the mini is best with 2."),
        io.Float.Input("min_guidance", default=1.0, min=1.0, max=100.0, step=0.1,
                       tooltip="Guidance at the first of the frames made together; it grows evenly to the last."),
        io.Float.Input("max_guidance", default=3.0, min=1.0, max=100.0, step=0.1,
                       tooltip="Guidance at the last of the frames made together. With both at 1 there is none, in "
                               "half the time."),
        io.Combo.Input("sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler",
                       tooltip="ComfyUI's samplers. SVD is usually sampled with euler."),
        io.Combo.Input("scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), default="karras",
                       tooltip="ComfyUI's schedulers. SVD is usually sampled with karras."),
    ]  # fmt: skip


def strength():
    return io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                          tooltip="How strongly the source is kept. 0 is plain SVD.")  # fmt: skip


def span() -> list:
    """start_percent, end_percent."""
    return [
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01,
                       tooltip="Share of the sampling after which the source begins to count."),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01,
                       tooltip="Share of the sampling after which the source no longer counts."),
    ]  # fmt: skip


def size(fitted: str) -> list:
    """width, height. fitted: what becomes of a source whose size is no multiple, at 0."""
    said = "Pixels to work at, a multiple of 64 (mini: of 32). 0 for one: by the source's aspect; for both: the "
    said += f"source's size, {fitted}. SVD wants about 1024 x 576."
    # The editor brings what is typed to a multiple of the step: of one that every base's multiples are of.
    return [io.Int.Input(name, default=0, min=0, max=8192, step=32, tooltip=said) for name in ("width", "height")]


def told(remark: str = "") -> list:
    """task, and what SVD is told: fps, motion_bucket, noise_augmentation. remark: more to say of the task."""
    said = "What the edit is: remove an object, change something, or track a painted one." + remark
    return [
        io.Combo.Input("task", options=list(TASKS), default=TASKS[0], tooltip=said),
        io.Float.Input("fps", default=7.0, min=1.0, max=120.0, step=1.0,
                       tooltip="Frames per second that SVD is told. 7 for svd and svd_xt, 6 for svd_xt_1_1."),
        io.Int.Input("motion_bucket", default=127, min=1, max=1023,
                     tooltip="How much motion SVD expects. 127 is its average."),
        io.Float.Input("noise_augmentation", default=cond.NOISE_AUGMENTATION, min=0.0, max=10.0, step=0.01,
                       tooltip="Noise added to the keyframe. More lets the result deviate further from it."),
    ]  # fmt: skip
