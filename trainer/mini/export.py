"""Puts trained stages together into the files that ship: the mini's base and adapters, and the sample clip."""

import json
import shutil
from pathlib import Path

from genprop_core.assets import MINI_ADAPTERS, MINI_BASE, SAMPLE
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from genprop_core.mini import read_mini, save_mini
from genprop_core.video_io import write_image, write_video

from .cache import load_vae
from .clips import SAMPLE_SEED, make_clip
from .curves import plot
from .shape import new_image_encoder, new_unet
from .stage import read_log

SAMPLE_FPS = 8


def export_base(folder, path=MINI_BASE):
    """vae.safetensors and base.safetensors of the work folder -> one file of half precision."""
    folder = Path(folder)
    unet = new_unet()
    unet.load_state_dict(load_tensors(folder / "base.safetensors")[0])
    provenance = {"stages": {name: read_log(folder, name)[-1] for name in ("vae", "base")}}
    save_mini(path, {"unet": unet, "vae": load_vae(folder), "image_encoder": new_image_encoder()}, provenance)


def unpack(folder, path=MINI_BASE):
    """The shipped base as vae.safetensors and base.safetensors of a work folder, to train new adapters for it."""
    states, _ = read_mini(path)
    parts = {Path(folder) / "vae.safetensors": "vae", Path(folder) / "base.safetensors": "unet"}
    for file in parts:
        if file.exists():
            raise GenPropError(f"Expected a work folder without {file.name}, but {file} exists. Choose another --work.")
    for file, part in parts.items():
        save_tensors(file, {k: v.float() for k, v in states[part].items()}, {"stage": file.stem})


def export_sample(folder=SAMPLE, seed=SAMPLE_SEED):
    """The bundled clip: source, truth and mask as lossless-looking mp4, the keyframe as png."""
    clip = make_clip(seed)

    def frames(x):
        return (x.expand(-1, 3, -1, -1) * 255).round().byte().movedim(1, -1)  # [T,3,H,W] -> [T,H,W,3]

    folder = Path(folder)
    write_video(folder / "source.mp4", frames(clip.source), SAMPLE_FPS, crf=4)
    write_video(folder / "truth.mp4", frames(clip.target), SAMPLE_FPS, crf=4)
    write_video(folder / "mask.mp4", frames(clip.mask), SAMPLE_FPS, crf=4)
    write_image(folder / "keyframe.png", frames(clip.target)[0])


def export(folder):
    """Everything that ships, and the training curves as JSON lines under docs/curves."""
    folder = Path(folder)
    export_base(folder)
    shutil.copyfile(folder / "adapters.safetensors", MINI_ADAPTERS)
    export_sample()
    curves = MINI_BASE.parents[3] / "docs" / "curves"
    curves.mkdir(parents=True, exist_ok=True)
    for name in ("vae", "base", "adapters"):
        rows = "".join(json.dumps(row) + "\n" for row in read_log(folder, name))
        (curves / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    plot(curves, curves / "curves.png")
