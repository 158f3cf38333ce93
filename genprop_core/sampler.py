"""The denoising loop: Euler over Karras sigmas with SVD's guidance, and the mask read on the way."""

from dataclasses import dataclass

import torch

from . import edm
from .attach import attach
from .conditioning import Condition
from .unet import denoise

MASK_STEPS = 3  # the mask is averaged over this many last steps


@dataclass(frozen=True)
class SamplerSettings:
    """steps: Euler steps; min_cfg, max_cfg: guidance at the first and last frame; strength: of the injections.

    sce_in_empty_branch: whether the guidance's empty branch gets the source's features too.
    """

    steps: int = 25
    min_cfg: float = 1.0
    max_cfg: float = 3.0
    strength: float = 1.0
    sce_in_empty_branch: bool = True


def unit_noise(shape, seed: int) -> torch.Tensor:
    """Standard normal float32 noise from a CPU generator, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def double(condition: Condition) -> Condition:
    """The condition twice along the batch: for the empty and the full branch of the guidance."""
    return Condition(**{k: torch.cat([v, v]) for k, v in vars(condition).items()})


@torch.no_grad()
def source_features(adapters, condition: Condition) -> list | None:
    """What a static SCE injects at every tap before the gate; None for the fused form, and without adapters."""
    if adapters is None or adapters.config.sce != "static":
        return None
    c = condition
    return adapters.encode(c.source, c.keyframe, c.clip, c.micro, c.task)


@torch.no_grad()
def sample(unet, adapters, condition: Condition, noise, settings: SamplerSettings, progress=None, injected=None):
    """Latents [B,T,4,h,w] float32 and the mask's probability [B,T,1,h,w] (None without adapters).

    noise: unit noise [B,T,4,h,w]. adapters: GenPropAdapters or None for plain SVD. progress(step, steps) is called
    after every step. One UNet batch per step; a static SCE runs once, here, unless `injected` is its `source_features`
    already.
    """
    batch, frames = noise.shape[:2]
    device, dtype = noise.device, next(unet.parameters()).dtype
    guided = settings.max_cfg > 1 or settings.min_cfg > 1
    scale = edm.linear_guidance(settings.min_cfg, settings.max_cfg, frames).to(device)
    sigmas = edm.karras_sigmas(settings.steps)
    both = double(condition) if guided else condition
    drop = torch.arange(2 * batch, device=device) < batch if guided else None
    injected = source_features(adapters, condition) if injected is None else injected
    if injected is not None and guided and not settings.sce_in_empty_branch:
        injected = [f if f is None else torch.cat([torch.zeros_like(f), f]) for f in injected]
    x = noise.float() * edm.initial_noise_scale()
    mask = None
    with attach(unet, adapters.config.num_blocks if adapters is not None else 0) as taps:
        for step, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
            rows = torch.cat([x, x]) if guided else x
            levels = sigma.to(device).expand(len(rows))
            denoised = denoise(unet, rows, levels, both, taps, adapters, injected, settings.strength, drop, dtype)
            if guided:
                empty, full = denoised.chunk(2)
                denoised = empty + scale * (full - empty)
            x = edm.euler_step(x, denoised, sigma.item(), following.item())
            if adapters is not None and step >= settings.steps - MASK_STEPS:
                features = taps.decoder_features[-batch * frames :]
                probability = adapters.mpd(features, frames).float().sigmoid()
                mask = probability if mask is None else mask + probability
            if progress is not None:
                progress(step + 1, settings.steps)
    if mask is not None:
        mask = mask / min(MASK_STEPS, settings.steps)
    return x, mask
