"""SVD in one official file (svd.safetensors, svd_xt.safetensors, svd_xt_1_1.safetensors, or the mini)."""
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from . import svd_config
from .components import VERSION_FRAMES, Components, version_from_name
from .errors import GenPropError
from .lazy_tensors import LazyTensor, read_lazy
from .mini import FORMAT as MINI
from .quant_conv import check_condition_encoder, identity_tensors, is_identity
from .svd_keys import REQUIRED, image_encoder_entries, is_optional, refusal
from .svd_parts import (
    Part,
    Parts,
    is_full_size,
    load_parts,
    meta_model,
    official_entries,
    refuse_quantised,
    to_diffusers,
    to_official,
)

log = logging.getLogger(__name__)
CONFIG_KEY = "genprop_base"  # metadata of files written by us: the three configs as JSON
PARTS = {"unet": "the UNet", "vae": "the VAE", "image_encoder": "the CLIP image encoder"}
TINY_SCALE = {"first_stage_model.vae_scale": 0.18215, "first_stage_model.vae_shift": 0.0}  # what ComfyUI's TAESD reads


def load_single_file(path, dtype: torch.dtype = torch.float32) -> Components:
    """Loads SVD from one official safetensors file, without a download or a conversion, one component at a time.

    dtype: float32, float16 or bfloat16, of the loaded weights. Memory beyond the loaded weights is one tensor: the file
    is memory-mapped. Raises GenPropError, one line that says what the file is, for anything that is not SVD.
    """
    return load_parts(open_single_file(path), dtype, path)


def open_single_file(path) -> Parts:
    """The parts of an official file, unread, every key accounted for. Raises GenPropError as `load_single_file`."""
    path = Path(path)
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise GenPropError(
            f"Expected a .safetensors file, got {path.name}: a pickle can run code, so it is not read. "
            "Use the safetensors file of the same model."
        )
    tensors, metadata = read_lazy(path)
    if metadata.get("format") == MINI:
        return _mini_parts(tensors, metadata)
    if found := refusal(tensors):
        raise GenPropError(f"Expected a Stable Video Diffusion checkpoint, but {path} is {found[0]}. {found[1]}.")
    absent = [PARTS[n] for n, prefix in REQUIRED.items() if not any(k.startswith(prefix) for k in tensors)]
    if len(absent) == len(REQUIRED):
        raise GenPropError(
            f"Expected a Stable Video Diffusion checkpoint, but {path} has no key of one (its first is "
            f"{min(tensors, default='none at all')}). Use svd, svd_xt or svd_xt_1_1."
        )
    refuse_quantised(path, tensors)
    try:
        return _parts(path, tensors, metadata, absent)
    except GenPropError as error:
        raise GenPropError(f"{path}: {error}") from None


def _parts(path: Path, tensors: dict[str, LazyTensor], metadata: Mapping[str, str], absent: list[str]) -> Parts:
    stored = _stored_configs(metadata)
    taken, parts = set(), {}
    for name, prefix in REQUIRED.items():
        if PARTS[name] in absent:
            continue  # named below, once the UNet has shown whether this is SVD at all
        mine = _read_comfy_clip(tensors, taken) if name == "image_encoder" else None
        mine = mine or tensors
        shapes = {k.removeprefix(prefix): t.shape for k, t in mine.items() if k.startswith(prefix)}
        config = {**getattr(svd_config, f"{name}_config")(shapes), **stored.get(name, {})}
        keys = meta_model(name, config).state_dict()
        entries = official_entries(name, Part(config, {}).class_name, keys, config)
        part = Part(config, to_diffusers(entries, mine))
        taken |= {e.official for e in entries if e.official in tensors}
        if name == "vae":
            taken |= _settle_vae(tensors, part)
        if missing := keys.keys() - part.tensors.keys():
            official = sorted(e.official for e in entries if e.diffusers in missing)
            raise GenPropError(
                f"{len(missing)} tensors of {PARTS[name]} are missing ({', '.join(official[:2])}). "
                "The file is incomplete; get it again from its source."
            )
        parts[name] = part
    if absent:
        raise GenPropError(
            f"Expected the UNet, the VAE and the CLIP image encoder of SVD, but {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} missing. Use the whole checkpoint."
        )
    rest = [k for k in tensors if k not in taken]
    if unknown := sorted(k for k in rest if not is_optional(k)):
        raise GenPropError(
            f"{len(unknown)} tensors have no place in SVD ({', '.join(unknown[:2])}). Use svd, svd_xt or svd_xt_1_1."
        )
    log.info("%s: %d optional tensors are not needed", path.name, len(rest))
    check_condition_encoder(tensors, path)
    version = version_from_name(path) if is_full_size(parts["unet"].config) else None
    frames = stored.get("unet", {}).get("num_frames") or VERSION_FRAMES.get(version)
    if frames:
        parts["unet"].config["num_frames"] = frames
    return Parts(**parts, unused=rest, num_frames=frames, version=version)


def _mini_parts(tensors: dict[str, LazyTensor], metadata: Mapping[str, str]) -> Parts:
    """The mini's file has diffusers' names already, with the part's name in front; see `mini.save_mini`."""
    classes = {
        "unet": {"_class_name": "UNetSpatioTemporalConditionModel"},
        "vae": {"_class_name": "AutoencoderTiny"},
        "image_encoder": {"architectures": ["CLIPVisionModelWithProjection"]},
    }
    parts = {
        name: Part(
            {**json.loads(metadata[name]), **class_name},
            {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")},
        )
        for name, class_name in classes.items()
    }
    return Parts(**parts, unused=[], num_frames=parts["unet"].config["num_frames"], version="mini")


def _stored_configs(metadata: Mapping[str, str]) -> dict[str, dict]:
    """The configs in the file's metadata: they say what shapes cannot, such as CLIP's heads and the clip length."""
    if CONFIG_KEY not in metadata:
        return {}
    try:
        stored = json.loads(metadata[CONFIG_KEY])
        return {name: dict(stored[name]) for name in REQUIRED if name in stored}
    except (ValueError, TypeError) as error:
        raise GenPropError(f"Its metadata {CONFIG_KEY} is not the JSON of three configs ({error}).") from None


def _read_comfy_clip(tensors: dict[str, LazyTensor], taken: set[str]) -> dict[str, LazyTensor] | None:
    """ComfyUI saves CLIP in transformers' names behind the official prefix: those in official names, or None."""
    prefix = REQUIRED["image_encoder"]
    if prefix + "vision_model.embeddings.class_embedding" not in tensors:
        return None
    clip = {k.removeprefix(prefix): t for k, t in tensors.items()
            if k.startswith(prefix) and not k.endswith("position_ids")}  # fmt: skip
    taken |= {prefix + k for k in clip}
    return to_official(image_encoder_entries(clip), clip)


def _settle_vae(tensors: dict[str, LazyTensor], part: Part) -> set[str]:
    """Fills in or checks what only one of the two layouts has; returns the official keys dealt with."""
    settled = set()
    if part.class_name == "AutoencoderTiny":
        for key, value in TINY_SCALE.items():
            if key in tensors:
                if abs(float(tensors[key].read()) - value) > 1e-3:
                    raise GenPropError(f"Expected {key} to be {value} (SVD), got {float(tensors[key].read()):g}.")
                settled.add(key)
        return settled
    prefix = REQUIRED["vae"]
    if prefix + "quant_conv.weight" not in tensors:  # the official VAE ends at conv_out
        part.tensors.update(identity_tensors(part))
    elif not is_identity(part.tensors["quant_conv.weight"], part.tensors["quant_conv.bias"]):
        log.warning("The VAE's quant_conv is not the identity. It is used here; ComfyUI ignores it in a single file.")
    after = [prefix + "post_quant_conv." + leaf for leaf in ("weight", "bias")]
    if after[0] in tensors:
        if not is_identity(*(tensors[k] for k in after)):
            raise GenPropError(
                "The VAE has a post_quant_conv that is not the identity; SVD's has none. Use SVD's own VAE."
            )
        settled |= set(after)
    return settled
