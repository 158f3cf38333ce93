"""`convert`: an SVD base from the official single file to a diffusers folder, or back, without changing a bit."""
import json
import logging
import os
import shutil
import uuid
from pathlib import Path

import torch

from . import svd_config
from .diffusers_folder import STEMS, open_diffusers_folder
from .errors import GenPropError
from .files import write_json
from .lazy_tensors import LazyTensor, read_lazy, write_lazy
from .quant_conv import CONV_OUT, QUANT, folded, is_identity, kept_copy
from .single_file import CONFIG_KEY, TINY_SCALE, open_single_file
from .svd_keys import CONDITION_ENCODER, REQUIRED
from .svd_parts import Parts, official_entries, to_official

log = logging.getLogger(__name__)


def convert(src, dst) -> None:
    """Converts an SVD base between its two layouts; the direction follows from `src`.

    src: an official .safetensors file, then dst is a new diffusers folder; or a diffusers folder, then dst is a new
    .safetensors file. There and back gives the same tensors, bit for bit; dtypes stay. Optional tensors of a single
    file (a second VAE copy, text leftovers) have no place in a folder: they are left out, with a warning that counts
    them. A quant_conv that is not the identity is folded into the single file's encoder, and kept beside it.
    Raises GenPropError when src is not SVD, dst exists or cannot be written, or a setting cannot be said in the other
    layout; nothing of dst is left then.
    """
    src, dst = Path(src), Path(dst)
    if dst.exists() or dst.is_symlink():
        raise GenPropError(f"Expected a new path to write to, but {dst} exists. Choose another or remove it.")
    if src.is_dir():
        if dst.suffix.lower() != ".safetensors":
            raise GenPropError(f"Expected the name of a .safetensors file to write {src} to, got {dst}.")
        parts = open_diffusers_folder(src)
    else:
        if dst.suffix.lower() == ".safetensors":
            raise GenPropError(f"Expected the name of a folder to write {src.name} to, got the file name {dst}.")
        parts = open_single_file(src)
    try:
        to_single_file(parts, dst) if src.is_dir() else to_diffusers_folder(parts, read_lazy(src)[0], dst)
    except OSError as error:
        raise GenPropError(
            f"Expected a place to write {dst} to, but it cannot be written ({error.strerror or error}). "
            "Choose another, or make space."
        ) from None


def to_single_file(parts: Parts, path: Path) -> None:
    """Writes the official layout, with the three configs as metadata."""
    configs = {name: part.config for name, part in parts.items()}
    write_lazy(path, official_tensors(parts), {"format": "pt", CONFIG_KEY: json.dumps(configs)})


def official_tensors(parts: Parts) -> dict[str, LazyTensor]:
    """A base under the official file's keys, unread: what ComfyUI's own loading code expects, TAESD's scale included.

    Raises GenPropError when the UNet's heads are not of width 64, which the layout cannot say.
    """
    unet = parts.unet.config
    heads, widths = unet["num_attention_heads"], unet["block_out_channels"]
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    if any(w != h * svd_config.HEAD_WIDTH for w, h in zip(widths, heads, strict=True)):
        raise GenPropError(
            f"Expected UNet attention heads of width {svd_config.HEAD_WIDTH}, got {list(heads)} heads for the widths "
            f"{list(widths)}: a single file cannot say so and would be misread. Keep it as a diffusers folder."
        )
    official: dict[str, LazyTensor] = {}
    for name, part in parts.items():
        entries = official_entries(name, part.class_name, part.tensors, part.config)
        official |= to_official(entries, part.tensors)
    if parts.vae.class_name == "AutoencoderTiny":
        official |= {k: LazyTensor.of(torch.tensor(v)) for k, v in TINY_SCALE.items()}
    else:
        _fold_quant_conv(official)
    return official


def _fold_quant_conv(official: dict[str, LazyTensor]) -> None:
    prefix = REQUIRED["vae"]
    quant = tuple(official.pop(prefix + k) for k in QUANT)
    if is_identity(*quant):
        return
    log.warning(
        "The VAE's quant_conv is not the identity: it is folded into encoder.conv_out, and kept unfolded in %s*.",
        CONDITION_ENCODER,
    )
    encoder = {k.removeprefix(prefix): t for k, t in official.items() if k.startswith(prefix + "encoder.")}
    official |= {CONDITION_ENCODER + k: t for k, t in encoder.items()}
    official |= {CONDITION_ENCODER + k: t for k, t in zip(QUANT, quant, strict=True)}
    whole = folded(tuple(encoder[k] for k in CONV_OUT), quant)
    official |= {prefix + k: LazyTensor.of(t) for k, t in zip(CONV_OUT, whole, strict=True)}


def to_diffusers_folder(parts: Parts, tensors: dict[str, LazyTensor], path: Path) -> None:
    """Writes StableVideoDiffusionPipeline's folder. tensors: all of the official file, for a kept quant_conv."""
    if parts.vae.class_name != "AutoencoderTiny" and REQUIRED["vae"] + QUANT[0] not in tensors:
        parts.vae.tensors |= kept_copy(tensors) or {}
    if parts.unused:
        groups = sorted({".".join(k.split(".")[:3]) for k in parts.unused})
        log.warning("%d optional tensors have no place in a diffusers folder and are left out: %s", len(parts.unused),
                    ", ".join(f"{g}.*" for g in groups))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name, part in parts.items():
            write_json(temporary / name / "config.json", part.config)
            write_lazy(temporary / name / f"{STEMS[name]}.safetensors", part.tensors, {"format": "pt"})
        write_json(temporary / "scheduler" / "scheduler_config.json", svd_config.SCHEDULER)
        write_json(temporary / "feature_extractor" / "preprocessor_config.json", svd_config.FEATURE_EXTRACTOR)
        write_json(
            temporary / "model_index.json",
            {
                "_class_name": "StableVideoDiffusionPipeline",
                "feature_extractor": ["transformers", "CLIPImageProcessor"],
                "image_encoder": ["transformers", parts.image_encoder.class_name],
                "scheduler": ["diffusers", svd_config.SCHEDULER["_class_name"]],
                "unet": ["diffusers", parts.unet.class_name],
                "vae": ["diffusers", parts.vae.class_name],
            },
        )
        os.rename(temporary, path)  # refuses to replace a folder that is not empty
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
