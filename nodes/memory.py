"""Adapters under ComfyUI's memory management, and the check that a MODEL is the SVD they were made for."""
from dataclasses import replace

import comfy.model_base
import comfy.model_management as mm
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ..genprop_core.checkpoint import Fingerprint, load_adapters
from ..genprop_core.errors import GenPropError
from .sockets import Adapters

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
CONV_IN = "diffusion_model.input_blocks.0.0.weight"


class WholePatcher(ModelPatcher):
    """Loads its model as a whole or not at all. Where memory is short, core leaves layers on the CPU and moves each to
    the device when it is called; the adapters' plain layers cannot be moved so."""

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        if self.model.model_loaded_weight_memory > 0 and self.model.device != device_to:
            self.unpatch_model(self.offload_device)  # of a clone for another device: core takes them for loaded
        return super().partially_load(device_to, 1e32, force_patch_weights)  # core's own word for all of it

    def partially_unload(self, *args, **kwargs):
        return 0  # then core unloads all of it


def compute_dtype(device) -> torch.dtype:
    """What ComfyUI would run a UNet in on this device."""
    stored = mm.unet_dtype(device=device, supported_dtypes=DTYPES)
    if stored not in DTYPES:  # the user asked for fp8 weights: our plain layers need a dtype that computes
        stored = torch.float16
    return mm.unet_manual_cast(stored, device, DTYPES) or stored


def open_adapters(path) -> Adapters:
    """Reads an adapter file into a ModelPatcher. Raises GenPropError when it is not one."""
    device = mm.get_torch_device()
    file = load_adapters(path, compute_dtype(device))
    file.adapters.requires_grad_(False)
    return Adapters(file, WholePatcher(file.adapters, load_device=device, offload_device=mm.unet_offload_device()))


def on_device_of(model, adapters: Adapters) -> Adapters:
    """The adapters for the device that a MODEL is loaded on, which Select Model Device may have changed. The weights
    are the same ones: they move when they are loaded."""
    patcher = adapters.patcher
    if patcher.load_device == model.load_device:
        return adapters
    patcher = patcher.clone()
    patcher.load_device = model.load_device
    return replace(adapters, patcher=patcher)


def check_model(model, adapters: Adapters) -> None:
    """Raises GenPropError unless `model` is an SVD that the adapters fit; warns when only its weights differ."""
    inner = model.model
    others = (comfy.model_base.SV3D_u, comfy.model_base.SV3D_p)
    if not isinstance(inner, comfy.model_base.SVD_img2vid) or isinstance(inner, others):
        raise GenPropError(
            f"Expected a Stable Video Diffusion MODEL, got {type(inner).__name__}. "
            "Load svd, svd_xt or svd_xt_1_1 with Load Checkpoint Image Only (in older ComfyUIs Image Only Checkpoint "
            "Loader), or use GenProp Load Mini."
        )
    config = inner.model_config.unet_config
    widths = tuple(config["model_channels"] * m for m in config["channel_mult"])
    first = _unpatched(model, CONV_IN)
    base = Fingerprint.of(widths, first)
    if first.dtype not in (torch.float16, torch.float32):  # bf16 or fp8, rounded: nobody can tell whose
        base = Fingerprint(widths, adapters.file.fingerprint.conv_in)
    adapters.file.check(base)
    layers = config["num_res_blocks"]
    if any(n != adapters.base.layers_per_block for n in ([layers] if isinstance(layers, int) else layers)):
        raise GenPropError(
            f"The adapters in {adapters.file.path} were made for a base with {adapters.base.layers_per_block} layers a "
            f"block, this MODEL has {layers}. Choose adapters trained on this base."
        )


def _unpatched(model, key):
    """A weight as it was before LoRAs: they are patched in while the model is loaded."""
    backup = model.backup.get(key)
    if backup is None:
        return comfy.utils.get_attr(model.model, key)
    return getattr(backup, "weight", backup)
