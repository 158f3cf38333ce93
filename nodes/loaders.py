"""Nodes that bring files in: adapters, the mini, and the sample clip."""
import os

import folder_paths
from comfy_api.latest import io

from ..genprop_core import assets
from ..genprop_core.video_io import read_image, read_video
from .memory import open_adapters
from .mini_parts import load_mini_parts
from .sockets import CATEGORY, MODELS_FOLDER, AdaptersSocket

BUNDLED = "mini (bundled)"


def _stamp(path):
    """Changes when the file does, so that a file written again under its name is read again."""
    try:
        facts = os.stat(path)
    except OSError:
        return "missing"
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _names():
    """All that can be chosen: the bundled adapters, and those in models/genprop."""
    found = folder_paths.get_filename_list(MODELS_FOLDER)
    return [BUNDLED, *(name for name in found if name.lower().endswith(".safetensors"))]


def _adapters_path(name):
    """Where an entry of the list is; where it would be, if it is gone."""
    if name == BUNDLED:
        return assets.MINI_ADAPTERS
    found = folder_paths.get_full_path(MODELS_FOLDER, name)
    inside = os.path.relpath(os.path.join("/", name), "/")  # as core does: no name leads out of the folder
    return found or os.path.join(folder_paths.get_folder_paths(MODELS_FOLDER)[0], inside)


class GenPropLoadAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropLoadAdapters",
            display_name="GenProp Load Adapters",
            category=CATEGORY,
            description="Loads GenProp adapters (source encoder, injections and mask decoder) from models/genprop.",
            inputs=[
                io.Combo.Input(
                    "adapters_name", options=_names(), default=BUNDLED,
                    tooltip="A .safetensors file in models/genprop, or the adapters of the bundled mini.",
                ),
            ],
            outputs=[AdaptersSocket.Output("adapters", display_name="adapters", tooltip="For Encode Condition.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, adapters_name):
        names = _names() if adapters_name is None else [adapters_name]  # None: a link, whose value comes later
        return " ".join(_stamp(_adapters_path(name)) for name in names)

    @classmethod
    def execute(cls, adapters_name) -> io.NodeOutput:
        return io.NodeOutput(open_adapters(_adapters_path(adapters_name)))


class GenPropLoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropLoadMini",
            display_name="GenProp Load Mini",
            category=CATEGORY,
            description="Loads the mini: a tiny video model with its adapters that ships with GenProp and runs on any "
            "computer. It knows moving shapes only; use it to learn and to test.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="The mini's UNet."),
                io.ClipVision.Output("clip_vision", display_name="CLIP_VISION", tooltip="The mini's image encoder."),
                io.Vae.Output("vae", display_name="VAE", tooltip="The mini's VAE."),
                AdaptersSocket.Output("adapters", display_name="adapters", tooltip="The mini's GenProp adapters."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        return _stamp(assets.MINI_BASE) + _stamp(assets.MINI_ADAPTERS)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_mini_parts(assets.MINI_BASE), open_adapters(assets.MINI_ADAPTERS))


class GenPropSampleClip(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GenPropSampleClip",
            display_name="GenProp Sample Clip",
            category=CATEGORY,
            description="A short clip for the mini: its frames, an edited first frame, and what a perfect result is.",
            inputs=[],
            outputs=[
                io.Image.Output("source", display_name="source", tooltip="The clip as filmed."),
                io.Image.Output("keyframe", display_name="keyframe", tooltip="Its first frame with one shape removed."),
                io.Image.Output("truth", display_name="truth", tooltip="The clip without that shape, for comparison."),
                io.Mask.Output("mask", display_name="mask", tooltip="Where source and truth differ."),
                io.Float.Output("fps", display_name="fps", tooltip="Frames per second, for Create Video."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        return _stamp(assets.SAMPLE / "source.mp4") + _stamp(assets.SAMPLE / "keyframe.png")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        clips = {name: read_video(assets.SAMPLE / f"{name}.mp4") for name in ("source", "truth", "mask")}
        frames = {name: clip.frames.float() / 255 for name, clip in clips.items()}  # [T,H,W,3]
        keyframe = read_image(assets.SAMPLE / "keyframe.png").float()[None] / 255
        mask = (frames["mask"][..., 0] > 0.5).float()
        return io.NodeOutput(frames["source"], keyframe, frames["truth"], mask, float(clips["source"].fps))
