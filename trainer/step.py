"""One training step's loss, from cached latents: what `trainer/train.py` and the mini share."""

from dataclasses import dataclass

import torch

from genprop_core import edm, losses
from genprop_core.conditioning import Condition
from genprop_core.unet import denoise


@dataclass(frozen=True)
class StepSettings:
    """Noise levels, dropout and loss of a step. delta: size of the perturbation of L_grad, in latent units."""

    loss: losses.LossSettings = losses.LossSettings()
    sigma_mean: float = 0.7
    sigma_std: float = 1.6
    cond_dropout: float = 0.1
    injection_weight: float = 1.0
    delta: float = 0.05


def draw(seed: int, shape, settings: StepSettings) -> dict[str, torch.Tensor]:
    """Everything random of one sample, from its own seed: one process and many see the same training.

    shape: [T,4,h,w]. Returns noise and perturbation (that shape), sigma [1] and drop [1].
    """
    g = torch.Generator().manual_seed(seed)
    return {
        "noise": torch.randn(shape, generator=g),
        "sigma": edm.training_sigmas(1, g, settings.sigma_mean, settings.sigma_std),
        "drop": torch.rand(1, generator=g) < settings.cond_dropout,
        "perturbation": torch.randn(shape, generator=g),
    }


def stack(draws: list[dict]) -> dict[str, torch.Tensor]:
    """The draws of a batch's samples: noise and perturbation [B,T,4,h,w], sigma and drop [B]."""
    return {
        k: torch.cat([d[k] for d in draws]) if draws[0][k].ndim == 1 else torch.stack([d[k] for d in draws])
        for k in draws[0]
    }


def loss_terms(unet, taps, adapters, condition: Condition, target, mask, random, settings: StepSettings):
    """The loss terms of a batch: {"total", "nonmask", "mask", "grad", "mpd"} tensors and "without_mask", a count.

    unet: frozen, with `attach` active (its `taps`). target: clean scaled latents [B,T,4,h,w]; mask [B,T,1,h,w] soft.
    random: from `stack`, on the target's device.
    """
    frames, sigma = target.shape[1], random["sigma"]
    noisy = target + edm.expand(sigma, target) * random["noise"]

    def encode(source):
        return adapters.encode(source, condition.keyframe, condition.clip, condition.micro, condition.task)

    static = adapters.config.sce == "static"
    injected = encode(condition.source) if static else None
    denoised = denoise(
        unet, noisy, sigma, condition, taps, adapters, injected, settings.injection_weight, random["drop"]
    )
    logits = adapters.mpd(taps.decoder_features, frames)
    nonmask, inside, without = losses.reconstruction_terms(denoised, target, mask, sigma)
    terms = {"nonmask": nonmask, "mask": inside, "mpd": losses.mask_term(logits, mask, settings.loss)}
    if settings.loss.beta_grad:
        # d lives inside the mask only; in the fused form f is taken without the UNet's features
        d = settings.delta * random["perturbation"] * mask
        terms["grad"] = losses.gradient_term(
            injected or encode(condition.source), encode(condition.source + d), mask, settings.delta
        )
    else:
        terms["grad"] = nonmask.new_zeros(())
    terms["total"] = losses.total(terms, settings.loss)
    return terms | {"without_mask": without}
