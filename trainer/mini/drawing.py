"""What the mini draws in the few steps it is sampled with, its base or its adapters, compared with the clip in pixels.

The error of latents says little about the picture that is decoded from them, and noise levels that sampling never asks
for teach little about those that it does. So a share of the steps takes a sample
as the sampler would: from pure noise at the first level, later from what the model itself made before.
"""

import torch

from genprop_core import edm, losses
from genprop_core.base import MINI_SAMPLED
from genprop_core.unet import denoise

LEVELS = edm.karras_sigmas(MINI_SAMPLED["steps"], MINI_SAMPLED["sigma_min"]).tolist()[:-1]
PIXELS = 200.0  # weight of the error in pixels, which are in [0,1]
USUAL = 5e-4  # squared error of a picture as the mini draws it, and
LITTLE = 1e-4  # one that is not worth more, however small it gets
LATENTS = 0.3  # and of that in latents, beside it
MASK = 1.0  # and of the mask decoder's and the selection's losses, where adapters draw


def half_way(unet, condition, noise, reached: int, *own) -> torch.Tensor:
    """What the Euler loop holds when it asks for level `reached` (an index of LEVELS): noise's shape [B,T,4,h,w].

    own: taps, adapters and what they inject, as `denoise` takes them.
    """
    x = noise * edm.initial_noise_scale()
    with torch.no_grad():
        for level, following in zip(LEVELS[:reached], LEVELS[1 : reached + 1]):
            levels = torch.full((len(x),), level, device=x.device)
            x = edm.euler_step(x, denoise(unet, x, levels, condition, *own).float(), level, following)
    torch.clear_autocast_cache()  # up to torch 2.9 it keeps the weights cast without gradients for what follows
    return x


def pixel_loss(errors: torch.Tensor) -> torch.Tensor:
    """Squared errors of pictures, of any shape -> half of them as they are, half by how many dB they are off.

    The former alone is a matter of the hardest pictures; of a smooth one, that the VAE keeps nearly as it is, most of
    what is lost would never count. 0 for 0, and of slope 1 at what is USUAL.
    """
    return (errors + (USUAL + LITTLE) * torch.log1p(errors / LITTLE)) / 2


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
    pixels = (picture - truth).square().mean((1, 2, 3))
    loss = PIXELS * pixel_loss(pixels).mean() + LATENTS * (made.float() - clean).square().mean()
    return loss, pixels.mean()


def drawn_terms(unet, vae, taps, adapters, condition, batch, generator, selective: float, settings) -> dict:
    """What adapters draw at one of LEVELS, compared in pixels in and outside the mask: {"pixels_in", "pixels_out",
    "latents_in", "latents_out", "mpd", "select", "total"}.

    batch: of `rollouts.Rollouts.batch`. selective: weight of what concerns the mask, as in `trainer.step.loss_terms`;
    settings: `losses.LossSettings`.
    """
    clean, mask, at = batch["target"], batch["mask"], batch["at"]
    count, frames = clean.shape[:2]
    inputs = (condition.source, condition.keyframe, condition.clip, condition.micro, condition.task)
    injected, selection = adapters.encode_and_select(*inputs)
    own = (taps, adapters, injected)
    reached = int(torch.randint(len(LEVELS), (), generator=generator))
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    x = half_way(unet, condition, noise, reached, *own)
    made = denoise(unet, x, torch.full((count,), LEVELS[reached], device=x.device), condition, *own)
    features = torch.lerp(taps.decoder_features.detach(), taps.decoder_features, selective)
    some = torch.cat([latents[frame] for latents, frame in zip(made, at)]).to(memory_format=torch.channels_last)
    pictures = vae.decode(some, return_dict=False)[0].float() / 2 + 0.5
    pixels = (pictures.view_as(batch["truth"]) - batch["truth"]).square()
    latents = (made.float() - clean).square()

    def mean(error, region):
        value, present = losses.region_mean(error, region)
        return torch.where(present, value, torch.zeros_like(value))

    outside = mean(pixels, 1 - batch["area"])
    terms = {
        "pixels_in": mean(pixels, batch["area"]).mean(),
        "pixels_out": outside.mean(),
        "latents_in": mean(latents, mask).mean(),
        "latents_out": mean(latents, 1 - mask).mean(),
        "mpd": losses.mask_term(adapters.mpd(features, frames), mask, settings),
        "select": losses.mask_term(selection, mask, settings),
    }
    inside = selective * settings.lambda_mask
    drawn = PIXELS * (pixel_loss(outside).mean() + inside * terms["pixels_in"])
    drawn = drawn + LATENTS * (terms["latents_out"] + inside * terms["latents_in"])
    return terms | {"total": drawn + MASK * (terms["mpd"] + terms["select"])}
