"""Stage 2 of the mini: the image-to-video UNet, trained by SVD's objective on cached latents of generated clips.

Beside one keyframe for all frames, as SVD has it, a share of the samples has several, and every frame is shown the one
nearest to it. So the mini learns to draw exactly what a frame's own image condition holds; having seen nothing but one
frame repeated, a UNet of 6.7 M parameters cannot. `inner_keyframes` asks for the same. Another share has every frame
itself, with the keyframe in the place of a moving region: so the mini learns that a part of what it is shown stands
still while the rest moves, and to carry the one along with the other.

From the middle of a run on, most steps are of `drawing`: what it is all for is the picture.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

from genprop_core import edm
from genprop_core.conditioning import (
    NOISE_AUGMENTATION,
    SCALING,
    Condition,
    micro_conditions,
    nearest,
    repeat_over_frames,
)
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from genprop_core.unet import denoise
from trainer.encoder import weights_digest

from .cache import FPS, MOTION_BUCKET, Pairs, load_vae
from .drawing import drawn_loss
from .precision import autocast
from .shape import new_unet
from .stage import EMA, Stage

PEAK_RATE = 8e-4
CONTINUED_RATE = 5e-4  # peak, where trained weights go on
BATCH = 4
DROPOUT = 0.1
PARTS = 0.5  # share of the samples that are shown the keyframe in one region and each frame itself elsewhere
SEVERAL = 0.6  # of the others, share of the samples with two keyframes or more
DRAWN = 0.75  # share of the steps by `drawing`, once there is something to see
CHECK = 24  # the first pairs of the cache are kept for the curve


def wait_for_pairs(folder, needed=50):
    """The cached pairs of a work folder, as soon as there are `needed`.

    Raises GenPropError where there is no VAE that could encode what is missing.
    """
    pairs = Pairs(folder)
    while len(pairs) < needed:
        if not (Path(folder) / "vae.safetensors").exists():
            raise GenPropError(
                f"Expected {needed} encoded pairs in {folder}, got {len(pairs)} and no vae.safetensors to make more. "
                f"Run: python -m trainer.mini vae --work {folder} (or unpack), then: cache."
            )
        print(
            f"waiting for the cache: {len(pairs)} of {needed} pairs; it is filled by: "
            f"python -m trainer.mini cache --work {folder}",
            flush=True,
        )
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
        micro=micro_conditions(FPS, MOTION_BUCKET, NOISE_AUGMENTATION, count).to(keyframe.device),
        task=torch.zeros(count, dtype=torch.long, device=keyframe.device),
        source=batch["source"],
        keyframe=keyframe,
    )


def several_keyframes(condition: Condition, clean, generator, share: float) -> Condition:
    """The condition with two to T keyframes, at random frames of the clip, in `share` of the samples.

    clean: scaled latents [B,T,4,h,w] of the clip. Each frame gets the latents of the keyframe nearest to it.
    """
    count, frames = clean.shape[:2]
    image = condition.image_latents.clone()
    for row in range(count):
        if torch.rand((), generator=generator) < share:
            number = int(torch.randint(2, frames + 1, (), generator=generator))
            keys = sorted(torch.randperm(frames, generator=generator)[:number].tolist())
            image[row] = clean[row, nearest(frames, keys)] / SCALING
    return replace(condition, image_latents=image)


def keyframe_in_part(condition: Condition, clean, region, generator, share: float) -> Condition:
    """The condition with the keyframe in a region and each frame itself elsewhere, in `share` of the samples.

    clean: scaled latents [B,T,4,h,w] of the clip; region: [B,T,1,h,w] in [0,1].
    """
    chosen = edm.expand((torch.rand(len(clean), generator=generator) < share).to(clean.device), clean)
    shown = torch.lerp(clean / SCALING, condition.image_latents, region)
    return replace(condition, image_latents=torch.where(chosen, shown, condition.image_latents))


def shown_condition(batch, generator, several=SEVERAL, parts=PARTS) -> Condition:
    """What a batch's samples are shown: the keyframe, several, or the keyframe in a region."""
    condition = several_keyframes(make_condition(batch), batch["target"], generator, several)
    # the mask of another pair: where something moves, but not where this clip was edited
    return keyframe_in_part(condition, batch["target"], batch["mask"].roll(1, 0), generator, parts)


def _loss(unet, batch, generator, drop_rate=DROPOUT, several=SEVERAL, parts=PARTS):
    clean = batch["target"]
    count, device = len(clean), clean.device
    # drawn on the CPU, so that the samples are the same on every device
    sigma = edm.training_sigmas(count, generator).to(device)
    noisy = clean + edm.expand(sigma, clean) * torch.randn(clean.shape, generator=generator).to(device)
    drop = (torch.rand(count, generator=generator) < drop_rate).to(device)
    with autocast(device):
        condition = shown_condition(batch, generator, several, parts)
        denoised = denoise(unet, noisy, sigma, condition, drop=drop)
    return ((denoised - clean).square() * edm.expand(edm.loss_weight(sigma), clean)).mean()


@torch.no_grad()
def _check(unet, pairs):
    """Mean loss on the pairs kept for the curve: with one keyframe, with several, and with one in a region."""

    def mean(several, parts=0.0):
        g = torch.Generator().manual_seed(1)
        device, forwards = next(unet.parameters()).device, torch.zeros(8, dtype=torch.bool)
        batches = (pairs.batch(rows, forwards, device=device) for rows in torch.arange(CHECK).split(8))
        losses = [_loss(unet, batch, g, 0.0, several, parts).item() for batch in batches]
        return sum(losses) / len(losses)

    return {"check": mean(0.0), "check_several": mean(1.0), "check_parts": mean(0.0, 1.0)}


def train(folder, minutes, seed=0, start=None, steps=None, device="cpu", batch_size=BATCH):
    """Trains for `minutes` (or `steps`) in all and writes base.safetensors (EMA weights) into `folder`.

    start: a base.safetensors to go on from with a fresh optimiser, instead of from random weights. Its first layer
    stays as it is: adapters show the source by it, so those that were made for this base fit what it becomes. Raises
    GenPropError to go on with a run that began from other weights.
    """
    unet, device, started_from = new_unet(seed).to(device), torch.device(device), None
    if start is not None:
        unet.load_state_dict(load_tensors(Path(start))[0])
        started_from = weights_digest(unet)
        unet.conv_in.requires_grad_(False)
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, weight_decay=0.01)
    ema = EMA(trained, 0.999)
    pairs, vae = wait_for_pairs(folder), load_vae(folder, device)
    stage = Stage(folder, "base", minutes, {"unet": unet}, optimizer, ema, steps, started_from, start)
    saved, running, pixels = stage.elapsed, [], []
    while stage.progress < 1:
        g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        rows = torch.randint(CHECK, len(pairs), (batch_size,), generator=g)
        side = "target" if torch.rand((), generator=g) < 0.5 else "source"
        backwards = torch.rand(batch_size, generator=g) < 0.5
        batch = pairs.batch(rows, backwards, side, device)
        batch["target"] = batch[side]
        rate = stage.learning_rate(PEAK_RATE if start is None else CONTINUED_RATE)
        if (start is not None or stage.progress > 0.5) and torch.rand((), generator=g) < DRAWN:
            with autocast(device):
                condition = shown_condition(batch, g)
                at = torch.randint(batch[side].shape[1], (batch_size,), generator=g)
                truth = pairs.pictures(rows, backwards, at, side, device)
                loss, error = drawn_loss(unet, vae, batch[side], condition, truth, at, g)
            pixels.append(error.item())
        else:
            loss = _loss(unet, batch, g)
            running.append(loss.item())
        stage.descend(loss)
        if stage.step % 100 == 0:
            means = {k: sum(v) / len(v) for k, v in (("loss", running), ("pixels", pixels)) if v}
            stage.log(**means, lr=rate, pairs=len(pairs))
            running.clear(), pixels.clear()
            pairs.refresh()
        if stage.step % 1000 == 0:
            stage.log(**_check(unet, pairs))
        if stage.elapsed - saved > 180:
            stage.save()
            saved = stage.elapsed
    stage.save()
    ema.copy_to()
    facts = _check(unet, pairs)
    stage.log(**facts)
    save_tensors(stage.folder / "base.safetensors", unet.state_dict(), {"stage": "base"})
    return facts
