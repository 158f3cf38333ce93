"""The region-aware loss (GenProp section 3.3) in latent space. Knows no files, no devices and no models."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import edm


@dataclass(frozen=True)
class LossSettings:
    """Weights of the terms: L = L_nonmask + lambda_mask L_mask + beta_grad L_grad + gamma_mpd (L_mpd + L_select).

    L_select is L_mpd's formula on the selection's logits. mask_loss: "bce_dice", "bce" or "mse" (the paper's).
    positive_weight: of edited pixels in the BCE.
    """

    lambda_mask: float = 2.0
    beta_grad: float = 1.0
    gamma_mpd: float = 1.0
    mask_loss: str = "bce_dice"
    positive_weight: float = 3.0


def region_mean(error: torch.Tensor, region: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of error [B,T,C,h,w] over a soft region [B,T,1,h,w], per sample [B], and which samples have the region."""
    area = region.sum(dim=(1, 2, 3, 4)) * error.shape[2]
    present = area > 0
    return (error * region).sum(dim=(1, 2, 3, 4)) / area.clamp(min=1e-8), present


def reconstruction_terms(denoised, target, mask, sigma):
    """L_nonmask, L_mask and the number of samples without a mask.

    The squared error, weighted (s^2+1)/s^2 by its sample's noise level, is averaged over each region per sample, then
    over the batch, so that a small object counts as much as a large one. A region without pixels contributes 0.
    """
    error = (denoised.float() - target.float()).square() * edm.expand(edm.loss_weight(sigma), target)
    inside, has_mask = region_mean(error, mask)
    outside, has_rest = region_mean(error, 1 - mask)
    zero = torch.zeros_like(inside)
    return torch.where(has_rest, outside, zero).mean(), torch.where(has_mask, inside, zero).mean(), (~has_mask).sum()


def gradient_term(injected, perturbed, mask, delta: float) -> torch.Tensor:
    """L_grad = mean(m ||f(x+d) - f(x)||^2) / |d|^2, averaged over the taps.

    injected, perturbed: lists of [B*T,C,h',w'] (None where a tap is unused); mask: [B,T,1,h,w]; delta: the standard
    deviation of d. Small where what is injected does not depend on the source inside the mask.
    """
    flat, terms = mask.flatten(0, 1), []
    for a, b in zip(injected, perturbed, strict=True):
        if a is not None:
            m = F.interpolate(flat, size=a.shape[-2:], mode="area")
            terms.append((m * (b.float() - a.float()).square()).mean())
    return torch.stack(terms).mean() / delta**2


def mask_term(logits, mask, settings: LossSettings) -> torch.Tensor:
    """L_mpd of logits [B,T,1,h,w] against a soft mask of that shape.

    The logits are shifted by ln(positive_weight) inside the BCE, so that sigmoid(logit) stays a calibrated
    probability and 0.5 the right threshold whatever the weight.
    """
    logits = logits.float()
    probability = logits.sigmoid()
    if settings.mask_loss == "mse":
        return F.mse_loss(probability, mask)
    weight = torch.tensor(settings.positive_weight, device=logits.device)
    shifted = logits + math.log(settings.positive_weight)
    bce = F.binary_cross_entropy_with_logits(shifted, mask, pos_weight=weight)
    if settings.mask_loss == "bce":
        return bce
    if settings.mask_loss != "bce_dice":
        raise ValueError(f"mask_loss must be bce_dice, bce or mse, got {settings.mask_loss!r}.")
    dims = (1, 2, 3, 4)
    overlap = 2 * (probability * mask).sum(dims) + 1e-3
    size = probability.square().sum(dims) + mask.square().sum(dims) + 1e-3
    return bce + (1 - overlap / size).mean()


def total(terms: dict[str, torch.Tensor], settings: LossSettings) -> torch.Tensor:
    """The weighted sum of {"nonmask", "mask", "grad", "mpd", "select"}."""
    return (
        terms["nonmask"]
        + settings.lambda_mask * terms["mask"]
        + settings.beta_grad * terms["grad"]
        + settings.gamma_mpd * (terms["mpd"] + terms["select"])
    )
