"""Loading a base: the mini, a diffusers folder, or a single-file SVD checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .assets import MINI_ADAPTERS, MINI_BASE
from .checkpoint import Fingerprint
from .components import Components
from .config import BaseShape
from .edm import SIGMA_MIN
from .errors import GenPropError

SAMPLED = ("steps", "max_cfg", "sigma_min")  # of Defaults, what the sampler wants to know
MINI_SAMPLED = {"steps": 2, "max_cfg": 1.0, "sigma_min": 0.2}


@dataclass(frozen=True)
class Defaults:
    """What a base is used with when the user does not say: window length, size in pixels, micro-conditions, denoising
    steps, guidance at the last frame, and the lowest noise level."""

    num_frames: int = 14
    width: int = 1024
    height: int = 576
    fps: int = 7
    motion_bucket: int = 127
    steps: int = 25
    max_cfg: float = 3.0
    sigma_min: float = SIGMA_MIN

    @classmethod
    def of(cls, parts: Components) -> "Defaults":
        """What the base's file or folder says about itself: how many frames, and the picture size it was trained at.

        SVD 1.1 was fine-tuned at 6 frames per second and motion bucket 127 alone. SVD's own sample_size, 96 latent
        pixels, is the area of 1024x576; another one is taken for a square. The mini's scores fall with more than a few
        steps, with guidance, and with steps at low noise, as docs/mini.md shows.
        """
        side = 8 * (parts.unet.config.sample_size or 96)
        size = {} if side**2 == cls.width * cls.height else {"width": side, "height": side}
        fps = 6 if parts.version == "svd_xt_1_1" else cls.fps
        sampled = MINI_SAMPLED if parts.version == "mini" else {}
        return cls(num_frames=parts.num_frames or cls.num_frames, fps=fps, **size, **sampled)


@dataclass(frozen=True)
class Base:
    """The frozen parts of a Stable Video Diffusion model, as diffusers and transformers modules.

    conv_in: of `Components`; None takes the UNet's own, which says the same as long as the UNet is not in bf16.
    """

    name: str
    unet: torch.nn.Module
    vae: torch.nn.Module
    image_encoder: torch.nn.Module
    defaults: Defaults
    conv_in: torch.Tensor | None = None

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: 8 for the VAE, 2 for every downsampling of the UNet."""
        return 8 * 2 ** (len(BaseShape.from_unet(self.unet).block_out_channels) - 1)

    def fingerprint(self) -> Fingerprint:
        weight = self.unet.conv_in.weight if self.conv_in is None else self.conv_in
        return Fingerprint.of(BaseShape.from_unet(self.unet).block_out_channels, weight)

    def parts(self) -> tuple[torch.nn.Module, ...]:
        return self.unet, self.vae, self.image_encoder


def load_base(spec="mini", dtype: torch.dtype = torch.float32, vae=None) -> Base:
    """spec: "mini", a diffusers SVD folder, or a .safetensors file. vae: another VAE file (TAESD) to use instead.

    dtype: float32, bfloat16 or float16; with float16 the encoder of SVD's VAE stays in float32, as its config asks.
    Raises GenPropError when the path is missing or is not an SVD base.
    """
    path = MINI_BASE if str(spec) == "mini" else Path(spec)
    if path.is_dir():
        from .diffusers_folder import load_diffusers_folder

        parts = load_diffusers_folder(path, dtype)
    elif path.is_file():
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
    if dtype == torch.float16 and parts.vae.config.get("force_upcast"):
        parts.vae.encoder.float(), parts.vae.quant_conv.float()  # SVD's encoder overflows in fp16, its decoder does not
    unet, vae, image_encoder = parts.unet.eval(), parts.vae.eval(), parts.image_encoder.eval()
    return Base(str(spec), unet, vae, image_encoder, Defaults.of(parts), parts.conv_in)


def default_adapters(spec) -> Path | None:
    """The adapters that ship for a base: the mini's. None for any other."""
    return MINI_ADAPTERS if str(spec) == "mini" else None
