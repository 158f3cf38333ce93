"""The decoder of the mini's VAE again, once all else is trained, on latents as the mini draws them.

The encoder stays as it is, so what latents mean does not change: the base, the adapters and every cache fit as before.
Half of a step's frames are the truth's own latents with a little noise, as in the stage vae; the other half are drawn
by base and adapters, as the mini is sampled, and compared with what they should have been.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from genprop_core.attach import attach
from genprop_core.base import load_base
from genprop_core.checkpoint import load_adapters
from genprop_core.errors import GenPropError
from genprop_core.files import save_tensors
from genprop_core.unet import denoise
from trainer.encoder import weights_digest

from .base import CHECK, make_condition, wait_for_pairs
from .cache import load_vae
from .drawing import LEVELS, half_way
from .export import DECODER, latest_adapters, pack
from .precision import autocast
from .stage import EMA, Stage
from .vae import LATENT_NOISE

PEAK_RATE = 5e-4
BATCH = 4  # frames of the truth, and as many that were drawn
POOL = 256  # pairs that are drawn before training
AT_ONCE = 4  # of them


def train(folder, minutes, seed=0, start=None, steps=None, device="cpu", batch_size=BATCH, pool=POOL):
    """Trains for `minutes` (or `steps`) in all and writes decoder.safetensors (EMA weights) into `folder`.

    start: the adapter file to draw with, by default the latest of the folder. Drawing the pool, anew at every start,
    is a part of the minutes. Raises GenPropError where there are no adapters, or to go on with a run of another VAE.
    """
    folder, device = Path(folder), torch.device(device)
    start = latest_adapters(folder) if start is None else Path(start)
    if not start.exists():
        raise GenPropError(f"Expected adapters to draw with in {start}, but there are none. Run the stage adapters.")
    pairs, vae = wait_for_pairs(folder), load_vae(folder, device)
    made_for = weights_digest(vae)
    trained = list(vae.decoder.requires_grad_(True).parameters())
    ema = EMA(trained, 0.998)
    modules, optimizer = {DECODER: vae.decoder}, torch.optim.Adam(trained, lr=PEAK_RATE)
    stage = Stage(folder, DECODER, minutes, modules, optimizer, ema, steps, made_for, folder / "vae.safetensors")
    drawn = Drawn(folder, start, pairs, min(pool, len(pairs) - CHECK), seed, device)
    saved, running = stage.elapsed, {}
    while stage.progress < 1:
        g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        rate = stage.learning_rate(PEAK_RATE)
        clean, truth = from_truth(pairs, batch_size, g, device)
        made, wanted = drawn.batch(batch_size, g)
        noisy = clean + LATENT_NOISE * torch.randn(clean.shape, generator=g).to(device)
        errors = (decoded(vae, torch.cat([noisy, made])) - torch.cat([truth, wanted])).square().flatten(1).mean(1)
        stage.descend(errors.mean())
        for key, part in zip(("psnr", "drawn_psnr"), errors.detach().split(batch_size)):
            running.setdefault(key, []).append(part.mean().item())
        if stage.step % 50 == 0:
            stage.log(**{k: _db(sum(v) / len(v)) for k, v in running.items()}, lr=rate)
            running.clear()
        if stage.elapsed - saved > 120:
            stage.save()
            saved = stage.elapsed
    stage.save()
    ema.copy_to()
    facts = _check(vae, pairs, device)
    stage.log(**facts)
    save_tensors(folder / f"{DECODER}.safetensors", vae.decoder.state_dict(), {"stage": DECODER, "vae": made_for})
    return facts


def decoded(vae, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents [N,4,h,w] -> frames float32 [N,3,8h,8w] in [0,1], not clamped, so that all have a gradient."""
    with autocast(latents.device):
        frames = vae.decode(latents.to(memory_format=torch.channels_last), return_dict=False)[0]
    return frames.float() / 2 + 0.5


def from_truth(pairs, count: int, g, device):
    """Latents [B,4,h,w] of frames of the pairs, edited or not, and these frames [B,3,H,W] in [0,1]."""
    rows = torch.randint(CHECK, len(pairs), (count,), generator=g)
    side = "target" if torch.rand((), generator=g) < 0.5 else "source"
    forwards = torch.zeros(count, dtype=torch.bool)
    latents = pairs.batch(rows, forwards)[side]
    at = torch.randint(latents.shape[1], (count,), generator=g)
    return latents[torch.arange(count), at].to(device), pairs.pictures(rows, forwards, at, side, device)


class Drawn:
    """Clips of the pairs as base and adapters draw them in the mini's steps, each from noise of its own."""

    @torch.no_grad()
    def __init__(self, folder, adapters, pairs, count: int, seed: int, device):
        """The first `count` pairs behind those for the curve, half of them played backwards."""
        print(f"drawing {count} clips", flush=True)
        unet, own = load_base(str(pack(folder))).unet.eval().to(device), load_adapters(adapters).adapters.to(device)
        g = torch.Generator().manual_seed(seed)
        self.pairs, self.rows, self.device = pairs, torch.arange(CHECK, CHECK + count), device
        self.backwards, self.latents = torch.rand(count, generator=g) < 0.5, []
        with attach(unet, own.config.num_blocks) as taps, autocast(device):
            for part in torch.arange(count).split(AT_ONCE):
                batch = pairs.batch(self.rows[part], self.backwards[part], device=device)
                noise = torch.randn(batch["target"].shape, generator=g).to(device)
                self.latents.append(_drawn(unet, taps, own, make_condition(batch), noise))
        self.latents = torch.cat(self.latents)

    def batch(self, count: int, g):
        """Latents [B,4,h,w] of frames, and what they should have been [B,3,H,W] in [0,1]."""
        chosen = torch.randint(len(self.rows), (count,), generator=g)
        at = torch.randint(self.latents.shape[1], (count,), generator=g)
        truth = self.pairs.pictures(self.rows[chosen], self.backwards[chosen], at, device=self.device)
        return self.latents[chosen, at], truth


def _drawn(unet, taps, adapters, condition, noise) -> torch.Tensor:
    inputs = (condition.source, condition.keyframe, condition.clip, condition.micro, condition.task)
    own = (taps, adapters, adapters.encode(*inputs))
    x = half_way(unet, condition, noise, len(LEVELS) - 1, *own)
    return denoise(unet, x, torch.full((len(x),), LEVELS[-1], device=x.device), condition, *own).float()


@torch.no_grad()
def _check(vae, pairs, device) -> dict:
    """Mean PSNR of the decoded frames of the pairs that are kept for curves."""
    values, forwards = [], torch.zeros(1, dtype=torch.bool)
    for row in torch.arange(CHECK).split(1):
        latents = pairs.batch(row, forwards, device=device)["target"][0]
        frames = range(len(latents))
        truth = torch.cat([pairs.pictures(row, forwards, torch.tensor([at]), device=device) for at in frames])
        values.append(_db(F.mse_loss(decoded(vae, latents).clamp(0, 1), truth).item()))
    return {"check_psnr": sum(values) / len(values)}


def _db(error: float) -> float:
    return -10 * math.log10(max(error, 1e-10))
