"""What the mini's base draws in the few steps it is sampled with, compared with the clip in pixels.

The error of latents says little about the picture that is decoded from them, and noise levels that sampling never asks
for teach little about those that it does. So a share of the base's steps takes a sample
as the sampler would: from pure noise at the first level, later from what the model itself made before.
"""

import torch

from genprop_core import edm
from genprop_core.base import MINI_SAMPLED
from genprop_core.unet import denoise

LEVELS = edm.karras_sigmas(MINI_SAMPLED["steps"], MINI_SAMPLED["sigma_min"]).tolist()[:-1]
PIXELS = 200.0  # weight of the squared error in pixels, which are in [0,1]
LATENTS = 0.3  # and of that in latents, beside it


def half_way(unet, condition, noise, reached: int) -> torch.Tensor:
    """What the Euler loop holds when it asks for level `reached` (an index of LEVELS): noise's shape [B,T,4,h,w]."""
    x = noise * edm.initial_noise_scale()
    with torch.no_grad():
        for level, following in zip(LEVELS[:reached], LEVELS[1 : reached + 1]):
            levels = torch.full((len(x),), level, device=x.device)
            x = edm.euler_step(x, denoise(unet, x, levels, condition).float(), level, following)
    return x


def drawn_loss(unet, vae, clean, condition, truth, at, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, squared error in pixels) of what is drawn at one of LEVELS, of one frame of every sample.

    clean: scaled latents [B,T,4,h,w]; truth: the frames [B,3,H,W] in [0,1] that are number `at` [B] of their clips.
    """
    count = len(clean)
    reached = int(torch.randint(len(LEVELS), (), generator=generator))
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    x = half_way(unet, condition, noise, reached)
    made = denoise(unet, x, torch.full((count,), LEVELS[reached], device=x.device), condition)
    one = made[torch.arange(count), at].to(memory_format=torch.channels_last)
    picture = vae.decode(one, return_dict=False)[0].float() / 2 + 0.5
    pixels = (picture - truth).square().mean()
    return PIXELS * pixels + LATENTS * (made.float() - clean).square().mean(), pixels
