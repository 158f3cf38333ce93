"""The mini's one file: UNet, VAE and image encoder in diffusers' names with a prefix each, configurations as metadata.

Stored once; ComfyUI's layout is made from it by the same key maps as for a full-size SVD.
"""

import json

import torch

from .components import Components
from .epsilon import set_groupnorm_eps
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
        config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
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


def load_mini(path, dtype: torch.dtype = torch.float32) -> Components:
    """The mini as diffusers and transformers modules, in evaluation mode, frozen."""
    from diffusers import AutoencoderTiny, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    states, configs = read_mini(path)
    unet = UNetSpatioTemporalConditionModel.from_config(configs["unet"])
    set_groupnorm_eps(unet)
    vae = AutoencoderTiny.from_config(configs["vae"])
    image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**configs["image_encoder"]))
    for part, module in zip(PARTS, (unet, vae, image_encoder)):
        wanted = {k for k, v in module.state_dict().items() if v.is_floating_point()}
        if wanted != set(states[part]):
            odd = sorted(wanted ^ set(states[part]))
            raise GenPropError(
                f"The mini's {part} in {path} does not match its configuration: {odd[0]}. Restore the file."
            )
        module.load_state_dict(states[part], strict=False)
        module.to(dtype).eval().requires_grad_(False)
    return Components(
        unet=unet, vae=vae, image_encoder=image_encoder, num_frames=configs["unet"]["num_frames"], version="mini"
    )
