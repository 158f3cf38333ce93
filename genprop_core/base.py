"""Loading a base: the mini, a diffusers folder, or a single-file SVD checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .assets import MINI_ADAPTERS, MINI_BASE
from .checkpoint import Fingerprint
from .config import BaseShape
from .errors import GenPropError


@dataclass(frozen=True)
class Defaults:
    """What a base is used with when the user does not say: window length, size in pixels and micro-conditions."""

    num_frames: int = 14
    width: int = 1024
    height: int = 576
    fps: int = 7
    motion_bucket: int = 127


@dataclass(frozen=True)
class Base:
    """The frozen parts of a Stable Video Diffusion model, as diffusers and transformers modules."""

    name: str
    unet: torch.nn.Module
    vae: torch.nn.Module
    image_encoder: torch.nn.Module
    defaults: Defaults

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: 8 for the VAE, 2 for every downsampling of the UNet."""
        return 8 * 2 ** (len(BaseShape.from_unet(self.unet).block_out_channels) - 1)

    def fingerprint(self) -> Fingerprint:
        return Fingerprint.of_unet(self.unet)

    def to(self, device) -> "Base":
        return replace(self, **{p: getattr(self, p).to(device) for p in ("unet", "vae", "image_encoder")})


_MINI = Defaults(num_frames=8, width=128, height=128)


def load_base(spec="mini", dtype: torch.dtype = torch.float32, vae=None) -> Base:
    """spec: "mini", a diffusers SVD folder, or a .safetensors file. vae: another VAE file (TAESD) to use instead.

    Raises GenPropError when the path is missing or is not an SVD base.
    """
    path = MINI_BASE if str(spec) == "mini" else Path(spec)
    if path.is_dir():
        from .diffusers_folder import load_diffusers_folder

        parts = load_diffusers_folder(path, dtype)
    elif path.is_file():
        from .files import open_tensors
        from .mini import FORMAT, load_mini

        with open_tensors(path) as file:
            is_mini = (file.metadata() or {}).get("format") == FORMAT
        if is_mini:
            parts = load_mini(path, dtype)
        else:
            from .single_file import load_single_file

            parts = load_single_file(path, dtype)
    else:
        raise GenPropError(
            f"Expected a base at {path}: mini, a diffusers SVD folder or a .safetensors file. There is none."
        )
    if vae is not None:
        from .vae_file import load_vae

        parts = replace(parts, vae=load_vae(vae, dtype))
    BaseShape.from_unet(parts.unet)
    defaults = _MINI if parts.version == "mini" else Defaults(num_frames=parts.num_frames or 14)
    if parts.version == "svd_xt_1_1":
        defaults = replace(defaults, fps=6)  # SVD 1.1 was fine-tuned at 6 fps, bucket 127
    return Base(str(spec), parts.unet.eval(), parts.vae.eval(), parts.image_encoder.eval(), defaults)


def default_adapters(spec) -> Path | None:
    """The adapters that ship for a base: the mini's. None for any other."""
    return MINI_ADAPTERS if str(spec) == "mini" else None
