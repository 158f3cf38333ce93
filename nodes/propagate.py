"""The nodes for real clips: any number of keyframes, and any length and size by genprop_core's long-clip engine."""
from dataclasses import replace

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..genprop_core.clip_input import CHOICES, check_keyframes
from ..genprop_core.compositing import FEATHER, GROW, composite
from ..genprop_core.confidence_plot import confidence_picture
from ..genprop_core.errors import GenPropError
from ..genprop_core.frames import as_float
from ..genprop_core.long_clip import ClipSettings, propagate_clip
from ..genprop_core.overlay_picture import overlay_picture
from . import inputs
from .clips import NO_IMAGE, NO_VIDEO, Clip, unless_cancelled
from .encoding import channels_first, working_size
from .passes import Sampling
from .sockets import CATEGORY, KeyframesSocket, Told
from .windows import ComfyWindows


class GenPropKeyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropKeyframes",
            display_name="GenProp Keyframes",
            category=CATEGORY,
            description="One edited frame and where in the clip it belongs. Chain several of these nodes for several "
            "keyframes, in any order.",
            inputs=[
                io.Image.Input("image", tooltip="One frame of the source after your edit, not cropped."),
                io.Int.Input("frame_index", default=0, min=0, max=999999,
                             tooltip="Which frame of the source was edited; 0 is the first."),
                KeyframesSocket.Input("others", optional=True, tooltip="Keyframes from another of these nodes."),
            ],
            outputs=[KeyframesSocket.Output("keyframes", display_name="keyframes",
                                            tooltip="For GenProp Propagate, or the next of these nodes.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, frame_index, others=()) -> io.NodeOutput:
        if len(image) != 1:
            raise GenPropError(
                f"Expected one keyframe, got {len(image)} images. Connect the one frame that was edited."
            )
        if frame_index in dict(others):
            raise GenPropError(f"Expected one keyframe for frame {frame_index}, got two. Leave one out.")
        return io.NodeOutput((*others, (frame_index, channels_first(image)[0].cpu())))


class GenPropPropagate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropPropagate",
            display_name="GenProp Propagate",
            category=CATEGORY,
            description="Carries the edits of one or more keyframes through a clip of any length and size, window by "
            "window, and says which frames should be edited again.",
            inputs=[
                inputs.model(),
                *inputs.image_models(),
                inputs.adapters(),
                io.MultiType.Input("source", [io.Image, io.Video],
                                   tooltip="The clip as filmed. A VIDEO keeps its frame rate and audio; one that "
                                           "is a whole file needs a quarter of the memory."),
                KeyframesSocket.Input("keyframes", tooltip="From GenProp Keyframes."),
                *inputs.sampling(),
                inputs.strength(),
                *inputs.size("padded"),
                *inputs.told(" Only with remove is what is behind it taken from frames in which it is in sight."),
                io.Int.Input("window", default=25, min=2, max=1000,
                             tooltip="Frames made together: 25 for svd_xt, 14 for svd, 8 for the mini."),
                io.Int.Input("overlap", default=0, min=0, max=999,
                             tooltip="Frames that neighbouring windows share. 0: a quarter of the window."),
                io.Boolean.Input("find_shots", default=True,
                                 tooltip="Look for scene cuts. None is crossed; every shot needs its own keyframe."),
                io.Boolean.Input("keep_background", default=True,
                                 tooltip="Outside the mask, take every pixel from the source."),
                io.Int.Input("grow", default=GROW, min=0, max=256, tooltip="Pixels to grow the mask by for that."),
                io.Int.Input("feather", default=FEATHER, min=0, max=256,
                             tooltip="Pixels over which the result then fades into the source."),
                io.Combo.Input("mask_mode", options=list(CHOICES["mask_mode"]), default=ClipSettings.mask_mode,
                               tooltip="With a mask: whether it takes the predicted one's place or is joined with it."),
                io.Combo.Input("second_pass", options=list(CHOICES["second_pass"]), default=ClipSettings.second_pass,
                               tooltip="Make every window again with the region that was found hidden from the source "
                                       "encoder: for traces of an object that remain. Twice the time."),
                io.Combo.Input("colour", options=list(CHOICES["colour"]), default=ClipSettings.colour,
                               tooltip="How later windows' colours are matched to the source outside the mask."),
                io.Boolean.Input("refine", default=ClipSettings.refine,
                                 tooltip="Let the mask follow the picture's edges at full size."),
                io.Combo.Input("crop", options=list(CHOICES["crop"]), default=ClipSettings.crop,
                               tooltip="auto: where the edit is small, work on the region around it, in more detail."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Optional: the region that changes, one mask or one a frame, from any "
                                      "segmentation. One a frame tells the model as well where it is."),
                io.Boolean.Input("inner_keyframes", default=ClipSettings.inner_keyframes, optional=True,
                                 tooltip="Show each frame of a window the nearest of its keyframes. For adapters that "
                                         "were trained with several keyframes a window."),
                io.Boolean.Input("guide_later", default=ClipSettings.guide_later, optional=True,
                                 tooltip="Guidance in windows that start from a made frame too: steps of twice the "
                                         "time, and deeper colours window by window."),
                io.Boolean.Input("clean_plate", default=True, optional=True,
                                 tooltip="With the task remove: where what is behind is in sight in another frame, "
                                         "before or after, take it from there."),
                io.Boolean.Input("look_ahead", default=True, optional=True,
                                 tooltip="With the task remove: follow the object through the source, so that it is "
                                         "not taken for what is to stay when it was hidden, nor another moving "
                                         "object for it."),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The edited clip, of a source that is IMAGE."),
                io.Video.Output("video", display_name="VIDEO",
                                tooltip="The edited clip with frame rate and audio, of a source that is VIDEO."),
                io.Mask.Output("changed", display_name="MASK", tooltip="The region that changed, from 0 to 1."),
                io.String.Output("report", display_name="report",
                                 tooltip="What was made, and which frames should be edited again."),
                io.Float.Output("confidence", display_name="confidence", is_output_list=True,
                                tooltip="Per frame, from 0 to 1: how far the result can be trusted."),
                io.Image.Output("plot", display_name="plot", tooltip="Confidence over time, with what to edit again."),
                io.Image.Output("overlay", display_name="overlay",
                                tooltip="Frames of the source with the region that is replaced, after grow and "
                                        "feather, tinted."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip_vision, vae, adapters, source, keyframes, seed, steps, min_guidance, max_guidance,
                sampler_name, scheduler, strength, width, height, task, fps, motion_bucket, noise_augmentation, window,
                overlap, find_shots, keep_background, grow, feather, mask_mode, second_pass, colour, refine, crop,
                mask=None, inner_keyframes=ClipSettings.inner_keyframes,
                guide_later=ClipSettings.guide_later, clean_plate=True, look_ahead=True) -> io.NodeOutput:  # fmt: skip
        told = Told(fps, motion_bucket, noise_augmentation)
        sampling = Sampling(steps, min_guidance, max_guidance, sampler_name, scheduler, strength)
        windows = ComfyWindows(model, clip_vision, vae, adapters, window, told, task, sampling, seed)
        clip = Clip.of(source)
        keyframes = check_keyframes(keyframes, clip.frames)
        size = None  # the source's, padded
        if height or width:
            size = working_size(*clip.frames.shape[2:], height, width, adapters.size_multiple)
        is_video = clip.fps is not None
        settings = ClipSettings(
            window, overlap or None, size, seed, find_shots, composite=keep_background and is_video, grow=grow,
            feather=feather, mask_mode=mask_mode, second_pass=second_pass, colour=colour, refine=refine, crop=crop,
            inner_keyframes=inner_keyframes, guide_later=guide_later, clean_plate=clean_plate,
            look_ahead=look_ahead,
        )  # fmt: skip
        mask = None if mask is None else mask.cpu()
        made = propagate_clip(windows, clip.frames, keyframes, settings, mask, bar(lambda: windows.preview), bar())
        video, image = ExecutionBlocker(NO_VIDEO), ExecutionBlocker(NO_IMAGE)
        if is_video:
            video, notes = clip.video(made.frames)
            clip = replace(clip, notes=clip.notes + notes)
        else:
            if keep_background:  # on the IMAGE's own numbers, which may be finer than bytes
                frames = torch.empty_like(clip.frames)
                for index in unless_cancelled(range(len(frames))):
                    parts = (of[index : index + 1] for of in (clip.frames, made.frames, made.mask))
                    frames[index] = composite(*parts, grow, feather)[0]
            else:
                frames = as_float(made.frames)
            image = frames.movedim(1, -1)
        plot = as_float(confidence_picture(made, keyframes))[None]
        overlay = as_float(overlay_picture(clip.frames, made.mask, grow, feather, next(iter(keyframes))))[None]
        return io.NodeOutput(image, video, as_float(made.mask[:, 0]), report(made, clip), made.confidence.tolist(),
                             plot, overlay)  # fmt: skip


def bar(preview=lambda: None):
    """A function progress(done, total) that moves the node's bar, and stops the node when Cancel was pressed."""
    own = comfy.utils.ProgressBar(1)

    def progress(done, total):
        mm.throw_exception_if_processing_interrupted()  # which the bar leaves out when it moves by less than it shows
        own.update_absolute(done, total, preview())

    return progress


def report(made, clip: Clip) -> str:
    """What was made, for people: one line each for the whole, for the shots, the timing, and what should be done."""
    lines = [f"{len(made.frames)} frames in {len(made.windows)} windows"]
    if len(made.shots) > 1:
        lines.append("shots: " + ", ".join(f"{start}-{stop - 1}" for start, stop in made.shots))
    return "\n".join([*lines, *clip.notes] + (made.notes() or ["no frame needs another edit"]))
