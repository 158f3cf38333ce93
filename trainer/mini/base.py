"""Stage 2 of the mini: the image-to-video UNet, trained by SVD's objective on cached latents of generated clips."""

import time

import torch

from genprop_core import edm
from genprop_core.conditioning import NOISE_AUGMENTATION, Condition, micro_conditions, repeat_over_frames
from genprop_core.files import save_tensors
from genprop_core.unet import denoise

from .cache import FPS, MOTION_BUCKET, Pairs
from .precision import autocast
from .shape import new_unet
from .stage import EMA, Stage

PEAK_RATE = 8e-4
BATCH = 4
DROPOUT = 0.1
CHECK = 24  # the first pairs of the cache are kept for the curve


def wait_for_pairs(folder, needed=50):
    pairs = Pairs(folder)
    while len(pairs) < needed:
        print(f"waiting for the cache: {len(pairs)} of {needed} pairs", flush=True)
        time.sleep(10)
        pairs.refresh()
    return pairs


def make_condition(batch) -> Condition:
    """Condition of a cached batch: the keyframe is the first frame of what is to be made."""
    count, frames = batch["target"].shape[:2]
    keyframe = repeat_over_frames(batch["image"], frames)
    return Condition(
        image_latents=keyframe,
        clip=batch["clip"],
        micro=micro_conditions(FPS, MOTION_BUCKET, NOISE_AUGMENTATION, count),
        task=torch.zeros(count, dtype=torch.long),
        source=batch["source"],
        keyframe=keyframe,
    )


def _loss(unet, batch, generator, drop_rate=DROPOUT):
    clean = batch["target"]
    count = len(clean)
    sigma = edm.training_sigmas(count, generator)
    noisy = clean + edm.expand(sigma, clean) * torch.randn(clean.shape, generator=generator)
    drop = torch.rand(count, generator=generator) < drop_rate
    with autocast():
        denoised = denoise(unet, noisy, sigma, make_condition(batch), drop=drop)
    return ((denoised - clean).square() * edm.expand(edm.loss_weight(sigma), clean)).mean()


@torch.no_grad()
def _check(unet, pairs):
    g = torch.Generator().manual_seed(1)
    losses = []
    for start in range(0, CHECK, 8):
        rows = torch.arange(start, start + 8)
        losses.append(_loss(unet, pairs.batch(rows, torch.zeros(8, dtype=torch.bool)), g, 0.0).item())
    return sum(losses) / len(losses)


def train(folder, minutes, seed=0):
    """Trains for `minutes` in all and writes base.safetensors (EMA weights) into `folder`."""
    unet = new_unet(seed)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    ema = EMA(unet.parameters(), 0.999)
    pairs = wait_for_pairs(folder)
    stage = Stage(folder, "base", minutes, {"unet": unet}, optimizer, ema)
    saved, running = stage.elapsed, []
    while stage.progress < 1:
        g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        rows = torch.randint(CHECK, len(pairs), (BATCH,), generator=g)
        side = "target" if torch.rand((), generator=g) < 0.5 else "source"
        batch = pairs.batch(rows, torch.rand(BATCH, generator=g) < 0.5, side)
        batch["target"] = batch[side]
        rate = stage.learning_rate(PEAK_RATE)
        loss = _loss(unet, batch, g)
        stage.descend(loss)
        running.append(loss.item())
        if stage.step % 100 == 0:
            stage.log(loss=sum(running) / len(running), lr=rate, pairs=len(pairs))
            running.clear()
            pairs.refresh()
        if stage.step % 1000 == 0:
            stage.log(check=_check(unet, pairs))
        if stage.elapsed - saved > 180:
            stage.save()
            saved = stage.elapsed
    stage.save()
    ema.copy_to()
    facts = {"check": _check(unet, pairs)}
    stage.log(**facts)
    save_tensors(stage.folder / "base.safetensors", unet.state_dict(), {"stage": "base"})
    return facts
