"""The mini as ComfyUI's own MODEL, CLIP_VISION and VAE, made from its one file by SVD's key maps.

ComfyUI recognises SVD by its full widths only, so its loader cannot be asked; the classes are the same ones.
"""
import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.model_detection
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from ..genprop_core.base import MINI_SAMPLED
from ..genprop_core.conditioning import SCALING
from ..genprop_core.lazy_tensors import LazyTensor
from ..genprop_core.mini import read_mini
from ..genprop_core.svd_keys import REQUIRED, tiny_vae_entries, unet_entries
from ..genprop_core.svd_parts import to_official


def load_mini_parts(path):
    """(MODEL, CLIP_VISION, VAE). Raises GenPropError when the file is missing or is not the mini's."""
    states, configs = read_mini(path)
    unet = _official(unet_entries(states["unet"], configs["unet"]), states["unet"], "unet")
    vae = _official(tiny_vae_entries(states["vae"]), states["vae"], "vae")
    return _model(unet), _clip_vision(states["image_encoder"], configs["image_encoder"]), _vae(vae)


def _official(entries, state, part):
    lazy = to_official(entries, {k: LazyTensor.of(v) for k, v in state.items()})
    return {k.removeprefix(REQUIRED[part]): v.read() for k, v in lazy.items()}


def _model(state) -> ModelPatcher:
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    config = comfy.supported_models.SVD_img2vid(comfy.model_detection.detect_unet_config(state, ""))
    config.sampling_settings = {**config.sampling_settings, "sigma_min": MINI_SAMPLED["sigma_min"]}
    dtype = mm.unet_dtype(device=device, supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    model = config.get_model(state, "", device=offload)
    # with dynamic VRAM ComfyUI's layers keep the numbers they are given, in the precision that they have in the file
    model.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in state.items()}, strict=True)
    return ModelPatcher(model, load_device=device, offload_device=offload)


def _clip_vision(state, settings):
    settings = {**settings, "model_type": "clip_vision_model"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"  # ComfyUI 0.3 takes a path and nothing else
        path.write_text(json.dumps(settings), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    vision.model.load_state_dict(state, strict=True)
    return vision


def _vae(state):
    # without these two, ComfyUI's TAESD takes its latents for unscaled ones
    state = {**state, "vae_scale": torch.tensor(SCALING), "vae_shift": torch.tensor(0.0)}
    return comfy.sd.VAE(sd={k: v.float() for k, v in state.items()})
