"""The mini's one file: UNet, VAE and image encoder in diffusers' names with a prefix each, configurations as metadata.

Stored once; ComfyUI's layout is made from it by the same key maps as for a full-size SVD.
"""

import inspect
import json

import torch

from .errors import GenPropError
from .files import load_tensors, save_tensors

FORMAT = "genprop-mini-base"
PARTS = ("unet", "vae", "image_encoder")


def save_mini(path, components: dict, provenance: dict, dtype=torch.float16):
    """components: {"unet", "vae", "image_encoder"} modules; written as one file of `dtype`."""
    tensors, metadata = {}, {"format": FORMAT, "version": "1", "provenance": json.dumps(provenance, sort_keys=True)}
    for part in PARTS:
        module = components[part]
        tensors |= {f"{part}.{k}": v.to(dtype) for k, v in module.state_dict().items() if v.is_floating_point()}
        if hasattr(module.config, "to_dict"):
            config = module.config.to_dict()
            config.pop("transformers_version", None)  # the same parts give the same file, whatever wrote it
        else:  # diffusers registers values that its own constructor does not take
            taken = inspect.signature(type(module).__init__).parameters
            config = {k: v for k, v in module.config.items() if k in taken}
        metadata[part] = json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, sort_keys=True)
    save_tensors(path, tensors, metadata)


def read_mini(path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, dict]]:
    """State dicts and configurations of the mini's parts, as stored."""
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise GenPropError(f"Expected the mini's base, but {path} has format {metadata.get('format', 'none')!r}.")
    states = {part: {} for part in PARTS}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        states[part][name] = value
    return states, {part: json.loads(metadata[part]) for part in PARTS}
