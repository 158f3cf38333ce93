"""The denoising loop: Karras sigmas with SVD's guidance, and the mask read on the way."""

import math
from dataclasses import dataclass, replace

import torch

from . import edm
from .adapters import with_region
from .attach import attach
from .conditioning import Condition, seeded
from .errors import GenPropError
from .unet import denoise

MASK_STEPS = 3  # the mask is averaged over this many last steps
SOLVERS = ("euler", "dpm++2m")
GUIDES = ("edit", "everywhere")


@dataclass(frozen=True)
class SamplerSettings:
    """steps: of the solver; min_cfg, max_cfg: guidance at the first and last frame; strength: of the injections.
    sigma_min: the lowest noise level that the UNet is asked at, above 0 and below SVD's highest, 700.

    None for steps, max_cfg or sigma_min is the base's own number, which `GenProp.resolved` fills in.

    sce_in_empty_branch: whether the guidance's empty branch gets the source's features too. solver: one of SOLVERS;
    dpm++2m is of second order, which pays where a few steps must do. guidance_range: noise levels that guidance is
    used at (Kynkäänniemi et al. 2024, arXiv 2404.07724); outside, the empty branch is not computed and the step takes
    half the time. docs/results.md has the measured effect of both. guide: "edit" guides where the adapters' selection
    says the picture is edited; elsewhere the source says what is to be seen, and guidance only enlarges errors.
    "everywhere" is SVD's own way, and what adapters without a selection do.
    """

    steps: int | None = 25
    min_cfg: float = 1.0
    max_cfg: float | None = 3.0
    strength: float = 1.0
    sce_in_empty_branch: bool = True
    solver: str = "euler"
    guidance_range: tuple[float, float] = (0.0, math.inf)
    guide: str = "edit"
    sigma_min: float | None = edm.SIGMA_MIN

    def __post_init__(self):
        if self.steps is not None and self.steps < 1:
            raise GenPropError(f"Expected at least 1 denoising step, got {self.steps}.")
        if self.solver not in SOLVERS:
            raise GenPropError(f"Expected a solver of {', '.join(SOLVERS)}, got {self.solver!r}.")
        if self.guide not in GUIDES:
            raise GenPropError(f"Expected guidance in one of {', '.join(GUIDES)}, got {self.guide!r}.")
        if self.sigma_min is not None and not 0 < self.sigma_min < edm.SIGMA_MAX:
            raise GenPropError(
                f"Expected a lowest noise level above 0 and below {edm.SIGMA_MAX:g}, got {self.sigma_min}."
            )
        low, high = self.guidance_range
        if not 0 <= low <= high:
            raise GenPropError(f"Expected a guidance range LOW <= HIGH of noise levels from 0 on, got {low} to {high}.")


    def unguided(self) -> "SamplerSettings":
        return replace(self, min_cfg=1.0, max_cfg=1.0)


@dataclass(frozen=True)
class Known:
    """What is known of the result, for blending (Avrahami et al. 2022, arXiv 2206.02779).

    latents: scaled [B,T,4,h,w]; mask: [B,T,1,h,w] in [0,1], 1 where the result is to be made.
    """

    latents: torch.Tensor
    mask: torch.Tensor

    def blend(self, x: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """x at this noise level with the known part, equally noisy, in its place."""
        return torch.lerp(self.latents + sigma * noise, x, self.mask)


def unit_noise(shape, seed: int) -> torch.Tensor:
    """Standard normal float32 noise from a CPU generator, the same on every device; the seed as in `seeded`."""
    return torch.randn(shape, generator=seeded(seed))


def double(condition: Condition) -> Condition:
    """The condition twice along the batch: for the empty and the full branch of the guidance."""
    return condition.each(lambda value: torch.cat([value, value]))


@dataclass(frozen=True)
class SourceFeatures:
    """What the SCE makes of a window's source. injected: what a static one adds at every tap before the gate, None for
    the fused form. edited: probability [B,T,1,h,w] that a place is edited, by the selection, at least what is known of
    it (`Condition.region`); None without a selection, and where nothing is injected (fresh adapters), so that the
    source says nothing about the result.
    """

    injected: list | None
    edited: torch.Tensor | None


@torch.no_grad()
def source_features(adapters, condition: Condition) -> SourceFeatures:
    """Runs the SCE once, without the UNet's features; in the fused form only the selection needs that."""
    static, c = adapters.config.sce == "static", condition
    if not static and not adapters.config.selection:
        return SourceFeatures(None, None)
    injected, logits = adapters.encode_and_select(c.source, c.keyframe, c.clip, c.micro, c.task, region=c.region)
    says_nothing = logits is None or not any(f is not None and f.any() for f in injected)
    edited = None if says_nothing else with_region(logits.float().sigmoid(), c.region)
    return SourceFeatures(injected if static else None, edited)


def guide_edit_only(denoised, full, edited, strength: float = 1.0):
    """Takes the guidance of a step back where the source is kept.

    denoised: with guidance; full: the branch with the image condition; edited: SourceFeatures.edited, at a shape that
    broadcasts with both, or None for guidance everywhere. strength: of the injections; at 0 `denoised` comes back as
    it is. With g the guidance, e the empty branch: full + m (e + g (full - e) - full) = e + (1 + (g - 1) m) (full - e).
    """
    if edited is None or strength == 0:
        return denoised
    return torch.lerp(full, denoised, 1 - min(1.0, strength) * (1 - edited.to(denoised)))


@torch.no_grad()
def sample(
    unet, adapters, condition: Condition, noise, settings: SamplerSettings, progress=None, features=None, known=None
):
    """Latents [B,T,4,h,w] float32 and the mask's probability [B,T,1,h,w] (None without adapters).

    noise: unit noise [B,T,4,h,w]. adapters: GenPropAdapters or None for plain SVD. progress(step, steps) is called
    after every step. One UNet batch per step; a static SCE runs once, here, unless `features` is its `source_features`
    already. known: a Known, kept outside its mask.
    """
    batch, frames = noise.shape[:2]
    device, dtype = noise.device, next(unet.parameters()).dtype
    scale = edm.linear_guidance(settings.min_cfg, settings.max_cfg, frames).to(device)
    sigmas = edm.karras_sigmas(settings.steps, settings.sigma_min).tolist()
    low, high = settings.guidance_range
    guided = [low <= s <= high and (settings.max_cfg > 1 or settings.min_cfg > 1) for s in sigmas]
    both = double(condition) if any(guided) else None
    drop = torch.arange(2 * batch, device=device) < batch
    if features is None:
        features = SourceFeatures(None, None) if adapters is None else source_features(adapters, condition)
    injected, edited = features.injected, features.edited if settings.guide == "edit" else None
    in_both = injected  # repeated over the branches where it is added
    if injected is not None and not settings.sce_in_empty_branch:
        in_both = [f if f is None else torch.cat([torch.zeros_like(f), f]) for f in injected]
    noise = noise.float()
    x = noise * edm.initial_noise_scale()
    mask, earlier = None, (None, None)
    with attach(unet, adapters.config.num_blocks if adapters is not None else 0) as taps:
        for step, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
            rows, inputs, added, dropped = x, condition, injected, None
            if guided[step]:
                rows, inputs, added, dropped = torch.cat([x, x]), both, in_both, drop
            levels = torch.full((len(rows),), sigma, device=device)
            taps.record = adapters is not None and step >= settings.steps - MASK_STEPS
            denoised = denoise(unet, rows, levels, inputs, taps, adapters, added, settings.strength, dropped, dtype)
            if guided[step]:
                empty, full = denoised.chunk(2)
                denoised = guide_edit_only(empty + scale * (full - empty), full, edited, settings.strength)
            if settings.solver == "euler":
                x = edm.euler_step(x, denoised, sigma, following)
            else:
                x = edm.multistep_step(x, denoised, sigma, following, *earlier)
                earlier = denoised, sigma
            if known is not None:
                x = known.blend(x, noise, following)
            if taps.record:
                features, taps.decoder_features = taps.decoder_features[-batch * frames :], None
                probability = adapters.mpd(features, frames).float().sigmoid()
                mask = probability if mask is None else mask + probability
            if progress is not None:
                progress(step + 1, settings.steps)
    if mask is not None:
        mask = mask / min(MASK_STEPS, settings.steps)
    return x, mask
