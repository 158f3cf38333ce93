"""Last stage of the mini: the adapters go on for clips of many windows, on long clips of their own making (`rollouts`).

Every other step takes pairs of the cache instead: a long clip has one scene only, and there are few of them. Most steps
draw as the mini is sampled and are compared in pixels, as in the base's stage (`drawing`); the others are the
trainer's own, at every noise level.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from genprop_core.attach import attach
from genprop_core.base import load_base
from genprop_core.checkpoint import load_adapters
from genprop_core.errors import GenPropError

from .adapters import CONTINUED_RATE, GRAD_EVERY, SETTINGS, export, optimised, terms_of
from .base import CHECK as FIRST_PAIR
from .base import make_condition, wait_for_pairs
from .drawing import drawn_terms
from .export import pack
from .precision import autocast
from .rollouts import Rollouts
from .stage import Stage

NAME = "long"
BATCH = 2
PAIRS = 0.5  # share of the steps that take pairs
OWN = 0.6  # share of a long clip's windows that start from a keyframe of the adapters' own making
DRAWN = 0.75  # share of the steps that draw
SELECTIVE = 0.4
AT = 2  # frames of a window that are compared in pixels
WITHOUT = replace(SETTINGS, worn_keyframes=0.0)  # these keyframes are worn already
CHECK, CHECK_FROM = 6, 12  # batches of 8 windows for the curve, of the first clips, which are not trained on


def train(folder, minutes, seed=0, start=None, steps=None, device="cpu", batch_size=BATCH, selective=SELECTIVE):
    """Trains for `minutes` (or `steps`) in all and writes long.safetensors (EMA weights, fp16) into `folder`.

    start: the adapter file to go on from, by default adapters.safetensors of the folder. The clips are those of the
    stage rollouts. Raises GenPropError where either is missing.
    """
    folder, device = Path(folder), torch.device(device)
    start = folder / "adapters.safetensors" if start is None else Path(start)
    if not start.exists():
        raise GenPropError(f"Expected adapters to go on from in {start}, but there are none. Run the stage adapters.")
    clips, pairs = Rollouts(folder), wait_for_pairs(folder)
    if len(clips) <= CHECK_FROM:
        raise GenPropError(
            f"Expected more than {CHECK_FROM} long clips, got {len(clips)}. Run the stage rollouts with --long_clips."
        )
    base, found = load_base(str(pack(folder))), load_adapters(start)
    unet, vae, adapters = base.unet.eval().requires_grad_(False), base.vae.requires_grad_(False), found.adapters
    unet.to(device), vae.to(device, memory_format=torch.channels_last), adapters.to(device)
    trainable, optimizer, ema = optimised(adapters)
    stage = Stage(folder, NAME, minutes, {"adapters": adapters}, optimizer, ema, steps, found.digest, start)
    provenance = {"base": "mini", "trained_by": "python -m trainer.mini long", "seed": seed, "selective": selective}
    provenance |= {"started_from": found.digest, "clips": len(clips)}
    saved, running = stage.elapsed, {}
    with attach(unet, adapters.config.num_blocks) as taps:

        def draw(batch, g, share):
            with autocast(device):
                return drawn_terms(unet, vae, taps, adapters, make_condition(batch), batch, g, share, SETTINGS.loss)

        def save():
            check = partial(_check, draw, clips, device)
            return export(stage, adapters, unet, trainable, ema, provenance, check)

        while stage.progress < 1:
            g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
            of_pairs = float(torch.rand((), generator=g)) < PAIRS
            if of_pairs:
                batch = _from_pairs(pairs, batch_size, g, device)
            else:
                batch = clips.batch(batch_size, OWN, AT, g, device, first=CHECK_FROM)
            rate = stage.learning_rate(CONTINUED_RATE)
            if float(torch.rand((), generator=g)) < DRAWN:
                terms = draw(batch, g, selective)
            else:
                seeds = range(stage.step * batch_size, (stage.step + 1) * batch_size)
                current = SETTINGS if of_pairs else WITHOUT
                if stage.step % GRAD_EVERY:
                    current = replace(current, loss=replace(current.loss, beta_grad=0.0))
                terms = terms_of(unet, taps, adapters, batch, seeds, current, selective)
            norm = stage.descend(terms["total"])
            for key, value in (terms | {"norm": norm}).items():
                running.setdefault(key, []).append(value.item())
            if stage.step % 100 == 0:
                stage.log(**{k: sum(v) / len(v) for k, v in running.items()}, lr=rate)
                running.clear()
            if stage.step % 1000 == 0:
                save()
            if stage.elapsed - saved > 180:
                stage.save()
                saved = stage.elapsed
        stage.save()
        return save()


def _from_pairs(pairs, count: int, g, device) -> dict:
    """A batch of cached pairs, as `Rollouts.batch` has it of long clips; the region is that of the latents' mask."""
    rows = torch.randint(FIRST_PAIR, len(pairs), (count,), generator=g)
    backwards = torch.rand(count, generator=g) < 0.5
    batch = pairs.batch(rows, backwards, device=device)
    frames = batch["target"].shape[1]
    at = torch.stack([torch.randperm(frames, generator=g)[:AT] for _ in range(count)])
    truth = [pairs.pictures(rows, backwards, column, device=device) for column in at.unbind(1)]
    region = torch.stack([mask[frames] for mask, frames in zip(batch["mask"], at)])
    batch |= {"at": at.to(device), "truth": torch.stack(truth, 1)}
    area = F.interpolate(region.flatten(0, 1), batch["truth"].shape[-2:], mode="bilinear")
    return batch | {"area": area.view(count, AT, 1, *area.shape[-2:])}


@torch.no_grad()
def _check(draw, clips: Rollouts, device) -> dict:
    """Of windows from the truth and from own keyframes: PSNR in and outside the mask at one level or another, and the
    mask decoder's loss."""
    facts = {}
    for kind, share in (("true", 0.0), ("own", 1.0)):
        g = torch.Generator().manual_seed(1)
        rows = [draw(clips.batch(8, share, AT, g, device, last=CHECK_FROM), g, 1.0) for _ in range(CHECK)]
        means = {k: sum(row[k].item() for row in rows) / CHECK for k in ("pixels_in", "pixels_out", "mpd")}
        for part in ("in", "out"):
            facts[f"{kind}_psnr_{part}"] = -10 * math.log10(max(means[f"pixels_{part}"], 1e-10))
        facts[f"{kind}_mpd"] = means["mpd"]
    return facts
