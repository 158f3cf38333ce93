"""Stage 3 of the mini: the adapters, by the trainer's own step, on cached latents of generated pairs."""

from dataclasses import replace
from functools import partial

import torch

from genprop_core.adapters import GAIN_SPEED, GenPropAdapters
from genprop_core.attach import attach
from genprop_core.checkpoint import Fingerprint, load_adapters, save_adapters
from genprop_core.files import load_tensors
from trainer.step import StepSettings, draw, loss_terms, selectivity, stack
from trainer.windows import to_device

from .base import CHECK, make_condition, wait_for_pairs
from .precision import autocast
from .shape import new_unet
from .stage import EMA, Stage

PEAK_RATE = 1e-3
CONTINUED_RATE = 4e-4  # peak, where trained injections go on
NEW_LAYERS = 3.0  # what starts from nothing (all but the SCE) learns faster than the copied weights
BATCH = 2  # every pixel of every frame is an example: more steps beat larger batches
COPY_SHARE, RAMP_SHARE = 0.08, 0.25
SELECTIVE = 0.06  # of L_mask, L_grad and the MPD's pull: with all of them the background of the mini stays worse
# most of what the mini draws is decided at high noise; worn keyframes are for clips of many windows
SETTINGS = StepSettings(sigma_mean=1.5, sigma_std=2.0, cond_dropout=0.05, worn_keyframes=0.3)
GRAD_EVERY = 4  # L_grad costs two more passes of the SCE, so only every fourth step takes it
HANDED_EVERY = 3  # steps from keyframes of the adapters' own making, once they can make some


def terms_of(unet, taps, adapters, batch, seeds, settings, selective=1.0):
    device = batch["target"].device
    random = to_device(stack([draw(seed, batch["target"].shape[1:], settings) for seed in seeds]), device)
    with autocast(device):
        condition = make_condition(batch)
        return loss_terms(unet, taps, adapters, condition, batch["target"], batch["mask"], random, settings, selective)


@torch.no_grad()
def _check(unet, taps, adapters, pairs):
    """Mean loss terms on the pairs kept for the curve, with fixed noise."""
    rows, sums, device = torch.arange(CHECK), {}, next(unet.parameters()).device
    for part in rows.split(8):
        batch = pairs.batch(part, torch.zeros(len(part), dtype=torch.bool), device=device)
        terms = terms_of(unet, taps, adapters, batch, part.tolist(), SETTINGS)
        for key, value in terms.items():
            sums[key] = sums.get(key, 0.0) + value.item() * len(part) / CHECK
    return sums


def take_over(adapters, earlier):
    """Gives `adapters` the weights of `earlier` ones.

    Injections are no start in another form and stay fresh there: with a norm they are given another scale, and without
    the shown source they had to do what that does now. It starts at its full gain then, since the selection knows
    already what is to be kept. Returns whether the injections were taken over too.
    """
    own, state = adapters.state_dict(), earlier.state_dict()
    forms = [(a.config.injection_norm, a.config.show_source) for a in (adapters, earlier)]
    same = forms[0] == forms[1]
    state = {k: v for k, v in state.items() if k in own and (same or not k.startswith(("injections.", "shown.")))}
    adapters.load_state_dict(own | state)
    if adapters.shown is not None and earlier.shown is None and earlier.selection is not None:
        torch.nn.init.constant_(adapters.shown.gain, 1 / GAIN_SPEED)
    return same


def optimised(adapters):
    """Their trainable parameters, AdamW for them, in which what was copied from the base is slower, and their EMA."""
    trainable = adapters.trainable()
    copied = [p for p in adapters.sce.parameters() if p.requires_grad]
    groups = [{"params": copied, "scale": 1.0}, {"params": trainable[len(copied) :], "scale": NEW_LAYERS}]
    return trainable, torch.optim.AdamW(groups, lr=PEAK_RATE, weight_decay=0.01), EMA(trainable, 0.999)


def export(stage, adapters, unet, trainable, ema, provenance, check) -> dict:
    """Writes the averaged weights as adapters in half precision, named like the stage; logs and returns check()."""
    kept = [p.detach().clone() for p in trainable]
    ema.copy_to()
    facts = check()
    save_adapters(
        stage.folder / f"{stage.name}.safetensors",
        adapters,
        Fingerprint.of_unet(unet),
        provenance | {"steps": stage.step, "minutes": round(stage.elapsed / 60, 1)},
    )
    with torch.no_grad():
        for parameter, value in zip(trainable, kept):
            parameter.copy_(value)
    stage.log(check=facts)
    return facts


def state_name(config: dict) -> str:
    return "-".join(["adapters", *(f"{k}_{v}" for k, v in sorted(config.items()))])


def train(
    folder,
    minutes,
    seed=0,
    start=None,
    selective=SELECTIVE,
    base_folder=None,
    steps=None,
    shares=(COPY_SHARE, RAMP_SHARE),
    device="cpu",
    batch_size=BATCH,
    settings=SETTINGS,
    handed_every=HANDED_EVERY,
    **config,
):
    """Trains for `minutes` (or `steps`) in all and writes adapters.safetensors (EMA weights, fp16) into `folder`.

    start: an adapter file to go on from with a fresh optimiser; without one they start fresh. Injections that went on
    can copy already, so `shares`, of `selectivity`, are 0 then and the rate is lower. selective: what the losses of the
    mask rise to. base_folder: where base.safetensors and the cache are, `folder` by default. settings: of every step;
    `_check` keeps its own, so that curves compare. handed_every: every so many steps of the second half start from
    keyframes that are `trainer.step.handed_on`; 0 for none. config: of AdapterConfig (num_blocks, sce, taps, selection,
    show_source), for ablations; the state's name carries it.
    """
    base_folder = base_folder or folder
    unet = new_unet()
    unet.load_state_dict(load_tensors(f"{base_folder}/base.safetensors")[0])
    unet.eval().requires_grad_(False)
    adapters = GenPropAdapters.from_unet(unet, **config)
    unet.to(device), adapters.to(device)
    found = None if start is None else load_adapters(start)
    peak = PEAK_RATE
    if found is not None and take_over(adapters, found.adapters):
        peak, shares = CONTINUED_RATE, (0.0, 0.0)
    trainable, optimizer, ema = optimised(adapters)
    pairs = wait_for_pairs(base_folder)
    name = state_name(config)
    started_from = None if found is None else found.digest
    stage = Stage(folder, name, minutes, {"adapters": adapters}, optimizer, ema, steps, started_from, start)
    provenance = {"base": "mini", "trained_by": "python -m trainer.mini adapters", "seed": seed, "selective": selective}
    provenance |= config
    if found is not None:
        provenance["started_from"] = started_from
    without_grad = replace(settings, loss=replace(settings.loss, beta_grad=0.0))
    saved, running, counted = stage.elapsed, {}, 0
    with attach(unet, adapters.config.num_blocks) as taps:

        def save():
            check = partial(_check, unet, taps, adapters, pairs)
            return export(stage, adapters, unet, trainable, ema, provenance, check)

        while stage.progress < 1:
            g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
            rows = torch.randint(CHECK, len(pairs), (batch_size,), generator=g)
            batch = pairs.batch(rows, torch.rand(batch_size, generator=g) < 0.5, device=device)
            rate = stage.learning_rate(peak)
            current = settings if stage.step % GRAD_EVERY == 0 else without_grad
            if handed_every and stage.progress > 0.5:
                current = replace(current, handed_on=stage.step % handed_every == handed_every - 1)
            seeds = range(stage.step * batch_size, (stage.step + 1) * batch_size)
            share = selective * selectivity(stage.progress, 1, *shares)
            terms = terms_of(unet, taps, adapters, batch, seeds, current, share)
            norm = stage.descend(terms["total"])
            for key, value in (terms | {"norm": norm}).items():
                running[key] = running.get(key, 0.0) + value.item()
            counted += 1
            if stage.step % 100 == 0:
                stage.log(**{k: v / counted for k, v in running.items()}, lr=rate, pairs=len(pairs))
                running, counted = {}, 0
                pairs.refresh()
            if stage.step % 1000 == 0:
                save()
            if stage.elapsed - saved > 180:
                stage.save()
                saved = stage.elapsed
        stage.save()
        return save()
