"""Trains GenProp's adapters on your own clips.

    python trainer/train.py --train_data_dir DIR --val_data_dir DIR --output_dir DIR --val_out_dir DIR [--base PATH]
    accelerate launch trainer/train.py ...        (several GPUs or machines; docs/training.md)

Read it from the top: settings, base, data, what is trained, then the loop. Latents come from a cache, so the loop
touches the frozen UNet and the adapters only. Whatever is random in a sample comes from its own seed: stopping and
resuming, or spreading a run over more processes, changes nothing.
"""

import logging
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run by its path: the repository's root is not on sys.path then
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from accelerate.utils import DistributedType, set_seed

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.base import load_base
from genprop_core.errors import exit_code
from genprop_core.losses import LossSettings
from trainer import arguments, checkpoint_state, gradient_checkpointing, state_tensors
from trainer.dataset import find_triples
from trainer.held_out import check_held_out
from trainer.logs import RunLog, mean_over_processes
from trainer.memory import DTYPES, enough_memory, svd_without_weights, table
from trainer.mini.stage import EMA
from trainer.optimisation import Step, check_finite, check_goes_on, learning_rate, parameter_groups
from trainer.run_identity import run_settings
from trainer.samples import GlobalBatch, WindowSettings
from trainer.setting_up import load_data, make_accelerator, make_encoder, new_adapters
from trainer.step import StepSettings, selectivity
from trainer.validation import Validator, enough_to_validate
from trainer.windows import Windows, loader, to_device

log = logging.getLogger("trainer")


def run(args):
    """One run from its settings (arguments.parse). Raises GenPropError for anything a user can put right."""
    base = svd_without_weights() if args.dry_run and args.base == "svd" else load_base(args.base)
    set_seed(args.seed)  # of the new weights; everything else has seeds of its own
    adapters, started_from = new_adapters(args, base)
    loss = LossSettings(args.lambda_mask, args.beta_grad, args.gamma_mpd, args.mask_loss)
    if args.dry_run:
        print(table(base, adapters, args, loss))
        return
    accelerator = make_accelerator(args)
    fingerprint, device = base.fingerprint(), accelerator.device

    # data
    with enough_memory(args, "loading", "VAE and CLIP"):
        encoder = make_encoder(args, base, device)
    validator = None
    if args.val_interval:
        held = find_triples(args.val_data_dir)
        check_held_out(find_triples(args.train_data_dir), held)
        validator = Validator(args, held, base, accelerator)
    with enough_memory(args, "encoding", "the clips"):
        entries = load_data(args, accelerator, base, encoder)
    settings = StepSettings(
        loss,
        args.sigma_mean,
        args.sigma_std,
        args.cond_dropout,
        args.injection_weight,
        worn_keyframes=args.worn_keyframes,
    )
    without_grad = replace(settings, loss=replace(loss, beta_grad=0.0))
    probability = args.corrupt_probability if args.corrupt_source != "none" else 0.0
    drawn = WindowSettings(args.seed, args.num_frames, args.keyframes_max, args.reverse, probability)
    windows = Windows(entries, drawn, settings, encoder if args.cache_dir is None else None)
    batch_plan = GlobalBatch(args.batch_size, args.gradient_accumulation_steps, accelerator.num_processes)
    total = args.max_steps or math.ceil(args.epochs * len(entries) / batch_plan.size)

    # what is trained: the adapters, in fp32; the base is frozen, in the precision of the run
    # nn.Module's own `to`: diffusers' warns of parts to keep in fp32 even where it names none
    with enough_memory(args, "loading", "the UNet"):
        torch.nn.Module.to(base.unet, device, DTYPES[args.mixed_precision])
    if args.gradient_checkpointing:
        gradient_checkpointing.enable(base.unet, adapters.sce)
    names = [name for name, p in adapters.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(adapters, args), args.lr, weight_decay=args.weight_decay)
    model, optimizer = accelerator.prepare(Step(adapters, base.unet, base.defaults), optimizer)
    live = dict(accelerator.unwrap_model(model).adapters.named_parameters())
    parameters = {name: live[name] for name in names}
    ema = EMA(parameters.values(), args.ema_decay)

    def epoch_of(step):
        return step * batch_plan.size // len(entries)

    def ended(step, interval=1) -> bool:
        """Whether with this step an epoch ends, of `interval` ones the last."""
        return epoch_of(step) // interval > epoch_of(step - 1) // interval

    def due(interval, step) -> bool:
        """Whether something is to be done after this step that is done every `interval` epochs and at the end."""
        return interval > 0 and step > 0 and (step == total or ended(step, interval))

    # state
    checkpoints = checkpoint_state.Checkpoints(args.output_dir, args.keep)
    identity = run_settings(args, batch_plan.size, total, entries, fingerprint)
    found, step = checkpoints.find(args.resume_from_checkpoint), 0
    # DeepSpeed spreads the moments in a way that only it can gather: they are left out there, and start anew
    moments = None if accelerator.distributed_type == DistributedType.DEEPSPEED else optimizer
    if found is not None:
        tensors, step = checkpoint_state.load(found, identity, args.reset_optimizer)
        state_tensors.restore(tensors, parameters, ema, moments, accelerator.scaler, args.reset_optimizer)
        if moments is None:
            state_tensors.refresh_masters(optimizer.optimizer)
        step = 0 if args.reset_optimizer else step
        del tensors
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if args.reset_optimizer and accelerator.is_main_process:
        checkpoints.set_aside()
    elif found is not None and accelerator.is_main_process:
        checkpoints.leave_behind(found, step)

    def averaged() -> GenPropAdapters:
        """The EMA weights as adapters of their own, for use at strength 1."""
        with torch.random.fork_rng(devices=[]):  # new modules draw weights; the run's random state stays as it is
            made = GenPropAdapters(adapters.config)
        frozen = {n: state_tensors.whole(p) for n, p in live.items() if n not in parameters}
        made.load_state_dict(frozen | {n: state_tensors.whole(v) for n, v in zip(names, ema.shadow)})
        made.scale(args.injection_weight)
        return made

    def save():
        state = state_tensors.collect(parameters, ema, moments, accelerator.scaler)
        weights = averaged()
        if accelerator.is_main_process:
            provenance = {
                "base": base.name,
                "trained_by": "trainer/train.py",
                "step": step,
                "clips": len(entries),
                "settings": identity,
                "started_from": started_from,
            }
            checkpoints.save(step, state, identity, weights, fingerprint, provenance)
        accelerator.wait_for_everyone()

    def validation():
        """The name of this step's: the end of a run within an epoch does not take that of the epoch before."""
        return f"epoch_{epoch_of(step)}" if ended(step) else f"step_{step}"

    def validate():
        name = validation()
        with enough_to_validate(), encoder:
            metrics = validator.run(averaged(), name, step, logs.live.counter(f"validating {name}, clip"))
        logs.validation(step, epoch_of(step), metrics, validator.folder(name))

    logs = RunLog(accelerator, args, identity, step, total)
    if found is None or args.reset_optimizer:
        save()  # from here on there is always a checkpoint, and a full disk is known at once
    if validator and due(args.val_interval, step) and not validator.is_done(validation(), step, averaged()):
        validate()  # it was killed while it was validating

    # the loop
    skipped = 0
    batches = iter(loader(windows, batch_plan, step, total, accelerator.process_index, args.num_workers))
    model.train()
    while step < total:
        clock, rate, terms, seen = time.perf_counter(), learning_rate(step, args, total), [], []
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        selective = args.selective * selectivity(step, total, args.copy_share, args.ramp_share)
        current = settings if step % args.grad_every == 0 else without_grad
        if args.handed_every:
            current = replace(current, handed_on=step % args.handed_every == args.handed_every - 1)
        what = f"on {args.batch_size} x {args.num_frames} frames"
        with enough_memory(args, "training", what), attach(base.unet, args.num_blocks) as taps:
            for _ in range(args.gradient_accumulation_steps):
                batch = to_device(next(batches), device)
                with accelerator.accumulate(model):
                    terms.append(model(taps, batch, current, selective))
                    seen += batch["name"]
                    check_finite("loss", terms[-1]["total"].detach(), batch["name"], step)
                    accelerator.backward(terms[-1]["total"])
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(parameters.values(), args.max_grad_norm)
                        norm = state_tensors.whole(torch.as_tensor(norm))  # FSDP gives a process's share of it
                        if args.mixed_precision != "fp16":  # there the loss scaler skips such a step
                            check_finite("gradient norm", norm, seen, step)
                    optimizer.step()
                    optimizer.zero_grad()
        skipped = skipped + 1 if accelerator.optimizer_step_was_skipped else 0
        check_goes_on(skipped, seen)
        values = mean_over_processes(accelerator, terms)
        step += 1
        ema.update(step)
        seconds = time.perf_counter() - clock
        values |= {"grad_norm": float(norm), "lr": rate, "clips_per_second": batch_plan.size / seconds}
        logs.train(step, epoch_of(step), values, seconds)
        if due(args.save_interval, step) or (args.save_steps and step % args.save_steps == 0):
            save()
        if validator and due(args.val_interval, step):
            validate()
    logs.close()
    if accelerator.is_main_process:
        log.info("Done: %s", Path(args.output_dir) / "adapters.safetensors")


def main(argv=None) -> int:
    """Runs the command line; returns the exit code. An error that a user can act on is one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code(lambda: run(arguments.parse(argv)), "continue with --resume_from_checkpoint latest")


if __name__ == "__main__":
    sys.exit(main())
