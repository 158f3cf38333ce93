"""SVD as a diffusers folder: unet/, vae/ and image_encoder/, each with config.json and safetensors."""
import json
import logging
from pathlib import Path

import torch

from .components import VERSION_FRAMES, Components, version_from_name
from .errors import GenPropError
from .lazy_tensors import LazyTensor, read_lazy
from .svd_parts import CLASSES, Part, Parts, is_full_size, load_parts, meta_model, refuse_quantised

log = logging.getLogger(__name__)
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


def load_diffusers_folder(path, dtype: torch.dtype = torch.float32) -> Components:
    """Loads SVD from a diffusers folder (StableVideoDiffusionPipeline's), one component at a time, never from the hub.

    Whole, sharded and variant files (`*.fp16.safetensors`) load; links and read-only folders are fine. dtype and memory
    as in `load_single_file`. Raises GenPropError, one line, for folders of other models and for missing parts.
    """
    return load_parts(open_diffusers_folder(path), dtype, path)


def open_diffusers_folder(path) -> Parts:
    """The parts of a diffusers folder, unread. Raises GenPropError as `load_diffusers_folder` does."""
    path = Path(path)
    if not path.is_dir():
        raise GenPropError(f"Expected a diffusers folder at {path}, but there is none. Check the path.")
    absent = [name for name in CLASSES if not (path / name).is_dir()]
    if absent:
        kind = _json(path / "model_index.json").get("_class_name") if (path / "model_index.json").is_file() else None
        hint = "Give the folder that holds all three"
        if (path / "snapshots").is_dir():
            hint = "This is a hub cache: give the folder inside snapshots"
        elif kind not in (None, "StableVideoDiffusionPipeline"):
            hint = f"The folder is a {kind}; use a Stable Video Diffusion one"
        lost = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'}"
        raise GenPropError(f"Expected unet, vae and image_encoder in {path}, but {lost} missing. {hint}.")
    parts = {name: open_part(path / name, name) for name in CLASSES}
    unet = parts["unet"].config
    version = version_from_name(path) if is_full_size(unet) else None
    frames = unet.get("num_frames") or VERSION_FRAMES.get(version)
    return Parts(**parts, unused=[], num_frames=frames, version=version)


def open_part(folder: Path, name: str) -> Part:
    """One component's config and unread tensors. name: unet, vae or image_encoder."""
    if not (folder / "config.json").is_file():
        raise GenPropError(f"Expected {folder / 'config.json'}, but there is none. Get the whole folder.")
    part = Part(_json(folder / "config.json"), _tensors(folder, STEMS[name]))
    try:
        expected = meta_model(name, part.config).state_dict()
    except GenPropError as error:
        raise GenPropError(f"{folder}: {error}") from None
    if name == "unet" and part.config.get("in_channels", 8) != 8:
        raise GenPropError(f"{folder}: expected a UNet with 8 input channels (SVD), got {part.config['in_channels']}.")
    refuse_quantised(folder, part.tensors)
    part.tensors = {k: t for k, t in part.tensors.items() if k in expected or not k.endswith("position_ids")}
    return part


def _tensors(folder: Path, stem: str) -> dict[str, LazyTensor]:
    """The tensors of the one set of weights to use: whole before sharded before a variant."""
    whole = folder / f"{stem}.safetensors"
    if whole.is_file():
        return read_lazy(whole)[0]
    plain = f"{stem}.safetensors.index.json"
    indices = [p for p in folder.glob(f"{stem}*.index*.json") if "safetensors" in p.name]
    indices = sorted(indices, key=lambda p: (p.name != plain, p.name))
    if indices:
        return _shards(indices[0])
    variants = [p for p in sorted(folder.glob(f"{stem}.*.safetensors")) if "-of-" not in p.name]
    if len(variants) == 1 or f"{stem}.fp16.safetensors" in [p.name for p in variants]:
        chosen = variants[0] if len(variants) == 1 else folder / f"{stem}.fp16.safetensors"
        log.info("%s has only the variant %s", folder, chosen.name)
        return read_lazy(chosen)[0]
    if variants:
        names = ", ".join(p.name for p in variants)
        raise GenPropError(f"Expected one set of weights in {folder}, got {names}. Keep one.")
    if list(folder.glob(f"{stem}*-of-*.safetensors")):
        raise GenPropError(f"Expected {stem}.safetensors.index.json beside the shards in {folder}. Get it too.")
    if list(folder.glob("*.bin")):
        raise GenPropError(
            f"Expected {stem}.safetensors in {folder}, got only pickled .bin weights, which are not read. "
            "Get the safetensors files of the same model."
        )
    raise GenPropError(f"Expected {stem}.safetensors in {folder}, but there is none. Get the whole folder.")


def _shards(index: Path) -> dict[str, LazyTensor]:
    weight_map = _json(index).get("weight_map", {})
    out, opened = {}, {}
    for key, name in weight_map.items():
        if Path(name).name != name:
            raise GenPropError(f"Expected plain file names in {index}, got {name}. The index is not one of diffusers.")
        if name not in opened:
            opened[name] = read_lazy(index.parent / name)[0]
        if key not in opened[name]:
            raise GenPropError(f"Expected {key} in {index.parent / name}, as {index.name} says. Get the shards again.")
        out[key] = opened[name][key]
    return out


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenPropError(f"Expected JSON in {path}, but it cannot be read ({error}). Get the file again.") from None
    if not isinstance(value, dict):
        raise GenPropError(f"Expected a JSON object in {path}, got {type(value).__name__}. Get the file again.")
    return value
