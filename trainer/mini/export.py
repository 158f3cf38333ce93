"""Puts trained stages together into the files that ship: the mini's base and adapters, and the sample clip."""

import json
import shutil
from pathlib import Path

from genprop_core.assets import ASSETS, MINI_ADAPTERS, MINI_BASE, SAMPLE
from genprop_core.checkpoint import load_adapters
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, open_tensors, save_tensors
from genprop_core.mini import read_mini, save_mini
from genprop_core.video_io import write_image, write_video
from trainer.encoder import weights_digest
from trainer.logs import read_log

from .cache import load_vae
from .clips import SAMPLE_SEED, make_clip
from .curves import FOLDER, curve_name, plot, pyplot
from .shape import new_image_encoder, new_unet

SAMPLE_FPS = 8
PACKED = "mini.safetensors"
PARTS = {"vae": "vae", "base": "unet"}  # of the mini's file, by the stage that trains them
DECODER = "decoder"  # the stage that trains a part of the VAE again


def provenance_of(folder, stage: str) -> dict:
    """What made a work folder's vae or base: the last row of its log, or for the shipped weights what their file says.

    Raises GenPropError for other weights without a log.
    """
    file = Path(folder) / f"{stage}.safetensors"
    if (Path(folder) / f"{stage}.jsonl").exists():
        return read_log(Path(folder) / f"{stage}.jsonl")[-1]
    shipped, mine = read_mini(MINI_BASE)[0][PARTS[stage]], load_tensors(file)[0]
    if shipped.keys() != mine.keys() or any(not shipped[k].equal(v.to(shipped[k].dtype)) for k, v in mine.items()):
        raise GenPropError(
            f"Expected {stage}.jsonl, the log of the training, beside {file}, or the weights that ship with GenProp. "
            f"Run: python -m trainer.mini {stage} --work {folder}."
        )
    with open_tensors(MINI_BASE) as opened:
        return json.loads(opened.metadata()["provenance"])["stages"][stage]


def _decoder_provenance(folder) -> dict | None:
    """What made the decoder where it was trained again: here, or before the shipped VAE was unpacked."""
    if (Path(folder) / f"{DECODER}.safetensors").exists():
        return read_log(Path(folder) / f"{DECODER}.jsonl")[-1]
    if (Path(folder) / "vae.jsonl").exists():
        return None
    with open_tensors(MINI_BASE) as opened:
        return json.loads(opened.metadata()["provenance"])["stages"].get(DECODER)


def latest_vae(folder):
    """The work folder's VAE, with the decoder of the stage decoder where that was run.

    Raises GenPropError where that went on from another VAE.
    """
    vae, file = load_vae(folder), Path(folder) / f"{DECODER}.safetensors"
    if file.exists():
        state, metadata = load_tensors(file)
        if metadata.get("vae") != (own := weights_digest(vae)):
            raise GenPropError(
                f"Expected {file} to go on from vae.safetensors beside it ({own}), but it went on "
                f"from {metadata.get('vae', 'another')}. Remove the files {DECODER}.* and run that stage again."
            )
        vae.decoder.load_state_dict(state)
    return vae


def export_base(folder, path=MINI_BASE):
    """vae.safetensors and base.safetensors of the work folder -> one file of half precision.

    The image encoder is the one that ships already: its weights are random ones, drawn once.
    """
    folder = Path(folder)
    unet = new_unet()
    unet.load_state_dict(load_tensors(folder / "base.safetensors")[0])
    provenance = {"stages": {name: provenance_of(folder, name) for name in PARTS}}
    if (decoder := _decoder_provenance(folder)) is not None:
        provenance["stages"][DECODER] = decoder
    image_encoder = new_image_encoder()
    image_encoder.load_state_dict({k: v.float() for k, v in read_mini(MINI_BASE)[0]["image_encoder"].items()})
    save_mini(path, {"unet": unet, "vae": latest_vae(folder), "image_encoder": image_encoder}, provenance)


def pack(folder) -> Path:
    """The work folder's vae and base as one file in it, mini.safetensors, that --base takes; what ships stays.

    Raises GenPropError where one of them was not trained yet.
    """
    folder = Path(folder)
    for stage in PARTS:
        file = folder / f"{stage}.safetensors"
        if not file.exists():
            command = f"python -m trainer.mini {stage} --work {folder}"
            raise GenPropError(f"Expected {file}, but it is not there. Run: {command}.")
    export_base(folder, folder / PACKED)
    return folder / PACKED


def latest_adapters(folder) -> Path:
    """Those of the last stage that made some in the work folder.

    Raises GenPropError where the stage adapters has trained on since the stage long went on from it.
    """
    first, last = (Path(folder) / f"{stage}.safetensors" for stage in ("adapters", "long"))
    if last.exists() and first.exists():
        started, now = load_adapters(last).provenance.get("started_from"), load_adapters(first).digest
        if started != now:
            raise GenPropError(
                f"Expected {last} to go on from {first} ({now}), but it went on from {started}. "
                "Remove the files long.* and run the stage long again, or remove the one that you do not want."
            )
    return last if last.exists() else first


def unpack(folder, path=MINI_BASE):
    """The shipped base as vae.safetensors and base.safetensors of a work folder, to train new adapters for it."""
    states, _ = read_mini(path)
    parts = {Path(folder) / f"{stage}.safetensors": part for stage, part in PARTS.items()}
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


def export(folder, assets=ASSETS, curves=FOLDER):
    """Everything that ships, into `assets`, and the training curves as JSON lines into `curves`.

    A stage that was not run in the work folder (`unpack`) keeps its curve. Raises GenPropError without adapters, and
    without matplotlib.
    """
    pyplot()  # before anything is replaced
    folder, adapters = Path(folder), latest_adapters(folder)
    if not adapters.exists():
        raise GenPropError(
            f"Expected trained adapters at {adapters}, but there are none. "
            f"Run: python -m trainer.mini adapters --work {folder}."
        )
    base, shipped, sample = (Path(assets) / p.relative_to(ASSETS) for p in (MINI_BASE, MINI_ADAPTERS, SAMPLE))
    export_base(folder, base)
    shutil.copyfile(adapters, shipped)
    export_sample(sample)
    curves.mkdir(parents=True, exist_ok=True)
    goes_on = {DECODER: "vae", "long": "adapters"}
    for stage in (*PARTS, DECODER, "adapters", "long"):
        curve = goes_on.get(stage, stage)
        if (folder / f"{stage}.jsonl").exists():
            rows = "".join(json.dumps(row) + "\n" for row in read_log(Path(folder) / f"{stage}.jsonl"))
            (curves / f"{curve_name(curves, curve, rows)}.jsonl").write_text(rows, encoding="utf-8")
    plot(curves, curves / "curves.png")
