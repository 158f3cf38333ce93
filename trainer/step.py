"""One training step's loss, from cached latents: what `trainer/train.py` and the mini share."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from genprop_core import edm, losses
from genprop_core.conditioning import SCALING, Condition
from genprop_core.unet import denoise

MOST_STAIN = 0.4  # of what was removed in a worn keyframe
HANDED_LEVELS = edm.karras_sigmas(2, 0.2).tolist()[:-1]  # noise levels that a handed-on keyframe is made at


@dataclass(frozen=True)
class StepSettings:
    """Noise levels, dropout and loss of a step. delta: size of the perturbation of L_grad, in latent units.

    worn_keyframes: share of the samples whose keyframe is `worn`. handed_on: whether all keyframes are `handed_on`.
    """

    loss: losses.LossSettings = losses.LossSettings()
    sigma_mean: float = 0.7
    sigma_std: float = 1.6
    cond_dropout: float = 0.1
    injection_weight: float = 1.0
    delta: float = 0.05
    worn_keyframes: float = 0.0
    handed_on: bool = False


def draw(seed: int, shape, settings: StepSettings) -> dict[str, torch.Tensor]:
    """Everything random of one sample, from its own seed: one process and many see the same training.

    shape: [T,4,h,w]. Returns noise and perturbation (that shape), sigma [1], drop [1] and wear [1,2].
    """
    g = torch.Generator().manual_seed(seed)
    drawn = {
        "noise": torch.randn(shape, generator=g),
        "sigma": edm.training_sigmas(1, g, settings.sigma_mean, settings.sigma_std),
        "drop": torch.rand(1, generator=g) < settings.cond_dropout,
        "perturbation": torch.randn(shape, generator=g),
    }
    wears = torch.rand(1, 1, generator=g) < settings.worn_keyframes
    return drawn | {"wear": wears * torch.rand(1, 2, generator=g) * torch.tensor([MOST_STAIN, 1.0])}


def stack(draws: list[dict]) -> dict[str, torch.Tensor]:
    """The draws of a batch's samples: noise and perturbation [B,T,4,h,w], sigma and drop [B], wear [B,1,2]."""
    return {
        k: torch.cat([d[k] for d in draws]) if draws[0][k].ndim == 1 else torch.stack([d[k] for d in draws])
        for k in draws[0]
    }


def selectivity(step: int, total: int, copy_share: float, ramp_share: float) -> float:
    """How much of L_mask, L_grad and the MPD's pull on the SCE counts at this step, 0 to 1.

    0 for the first `copy_share` of the run, then rising to 1 over `ramp_share`. With all of it from the first step,
    an SCE that cannot tell yet what was edited learns to inject next to nothing, and stays there for long.
    """
    if not copy_share + ramp_share:
        return 1.0
    return min(1.0, max(0.0, (step / total - copy_share) / max(ramp_share, 1e-9)))


def worn(condition: Condition, mask, wear) -> Condition:
    """The condition with its first keyframe as an earlier window would have made it, for clips of many windows.

    mask: [B,T,1,h,w] soft; wear: [B,1,2] in [0,1], how much of what was removed is in the keyframe's mask as a stain,
    and how far that part is blurred. The target stays as it is, so the adapters learn not to hand an error on.
    """
    key = condition.keyframe[:, :1]
    stain = condition.source[:, :1] / SCALING - key
    blur = F.avg_pool2d(key[:, 0], 3, 1, 1, count_include_pad=False)[:, None] - key
    share = wear[..., None, None, None]  # [B,1,2,1,1,1]
    return with_changed_keyframe(condition, mask[:, :1] * (share[:, :, 0] * stain + share[:, :, 1] * blur))


def with_changed_keyframe(condition: Condition, change) -> Condition:
    """The condition with `change` [B,1,4,h,w] added to its first keyframe, in every frame that is shown that one."""
    key = condition.keyframe[:, :1]
    of_first = (condition.keyframe == key).flatten(2).all(2)[..., None, None, None]
    change = (change * of_first).to(key.dtype)
    return replace(condition, image_latents=condition.image_latents + change, keyframe=condition.keyframe + change)


@torch.no_grad()
def handed_on(unet, taps, adapters, condition: Condition, target, mask, noise, strength: float = 1.0) -> Condition:
    """The condition with the keyframe as these adapters make it, at the end of a window.

    noise: unit noise of the target's shape. The clip is made backwards from its true last frame, in two steps, so that
    its first frame comes last. As in a clip of many windows, that frame starts the next one: near the mask as it was
    made, elsewhere as it was given. CLIP's embedding stays the first frame's. The target stays as it is too, so the
    adapters learn to put right what they did.
    """
    last = (target[:, -1:] / SCALING).to(condition.keyframe.dtype).expand_as(condition.keyframe)
    back = replace(condition, source=condition.source.flip(1), keyframe=last, image_latents=last)
    injected = None
    if adapters.config.sce == "static":
        injected = adapters.encode(back.source, back.keyframe, back.clip, back.micro, back.task)
    x = noise.flip(1) * edm.initial_noise_scale()
    for level, following in zip(HANDED_LEVELS, [*HANDED_LEVELS[1:], 0.0]):
        levels = torch.full((len(x),), level, device=x.device)
        made = denoise(unet, x, levels, back, taps, adapters, injected, strength)
        x = edm.euler_step(x, made.to(x.dtype), level, following)
    near = F.max_pool2d(mask[:, 0], 3, 1, 1)[:, None]
    return with_changed_keyframe(condition, near * (x.flip(1)[:, :1] / SCALING - condition.keyframe[:, :1]))


def loss_terms(
    unet, taps, adapters, condition: Condition, target, mask, random, settings: StepSettings, selective: float = 1.0
):
    """The loss terms of a batch: {"total", "nonmask", "mask", "grad", "mpd", "select"} and "without_mask", a count.

    unet: frozen, with `attach` active (its `taps`). target: clean scaled latents [B,T,4,h,w]; mask [B,T,1,h,w] soft.
    random: from `stack`, on the target's device. selective: from `selectivity`.
    """
    frames, sigma = target.shape[1], random["sigma"]
    noisy = target + edm.expand(sigma, target) * random["noise"]
    if settings.worn_keyframes:
        condition = worn(condition, mask, random["wear"])
    if settings.handed_on:
        noise = random["perturbation"]  # another than the step's own, and drawn already
        condition = handed_on(unet, taps, adapters, condition, target, mask, noise, settings.injection_weight)
        torch.clear_autocast_cache()  # up to torch 2.9 it keeps the weights cast without gradients for what follows

    def encode(source):
        return adapters.encode_and_select(source, condition.keyframe, condition.clip, condition.micro, condition.task)

    # the fused form is encoded by `denoise`, with the UNet's features; here only where a loss asks for it
    static, with_grad = adapters.config.sce == "static", bool(settings.loss.beta_grad * selective)
    asked = static or with_grad or adapters.config.selection
    injected, selection = encode(condition.source) if asked else (None, None)
    denoised = denoise(
        unet,
        noisy,
        sigma,
        condition,
        taps,
        adapters,
        injected if static else None,
        settings.injection_weight,
        random["drop"],
    )
    features = torch.lerp(taps.decoder_features.detach(), taps.decoder_features, selective)
    nonmask, inside, without = losses.reconstruction_terms(denoised, target, mask, sigma)
    nothing, loss = nonmask.new_zeros(()), settings.loss
    terms = {"nonmask": nonmask, "mask": inside, "grad": nothing, "select": nothing}
    terms["mpd"] = losses.mask_term(adapters.mpd(features, frames), mask, loss)
    if selection is not None:
        terms["select"] = losses.mask_term(selection, mask, loss)
    if with_grad:
        # d lives inside the mask only; in the fused form f is taken without the UNet's features
        d = settings.delta * random["perturbation"] * mask
        terms["grad"] = losses.gradient_term(injected, encode(condition.source + d)[0], mask, settings.delta)
    loss = replace(loss, lambda_mask=selective * loss.lambda_mask, beta_grad=selective * loss.beta_grad)
    return terms | {"total": losses.total(terms, loss), "without_mask": without}
