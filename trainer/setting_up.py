"""What a run starts with: Accelerate as its settings ask for it, the encoder, its clips and the adapters."""

import logging
import os
from dataclasses import replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, gather_object

from genprop_core.adapters import GenPropAdapters
from genprop_core.checkpoint import load_adapters
from genprop_core.config import BaseShape
from genprop_core.errors import GenPropError

from . import arguments
from .dataset import find_triples
from .encoder import Encoder
from .latent_cache import LatentCache, without_cache
from .logs import Live, check_tracker
from .windows import check_sizes

log = logging.getLogger(__name__)
PATIENCE = timedelta(hours=12)  # that one process waits for another, which may have longer clips to encode


def make_accelerator(args) -> Accelerator:
    """Accelerate with the run's own precision and accumulation, whatever `accelerate launch` says of them.

    Raises GenPropError for a precision that the device cannot do, and for FSDP of the first version.
    """
    check_tracker(args.tracker)
    try:
        accelerator = Accelerator(
            mixed_precision=args.mixed_precision,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            log_with=None if args.tracker == "none" else args.tracker,
            project_dir=args.output_dir,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:  # a precision that the device cannot do
        raise GenPropError(f"{error} Choose another --mixed_precision.") from None
    if (
        accelerator.distributed_type == DistributedType.FSDP
        and getattr(accelerator.state.fsdp_plugin, "fsdp_version", 1) < 2
    ):
        raise GenPropError("Expected FSDP version 2. Set fsdp_version: 2 in the Accelerate config.")
    # its constructor prefers ACCELERATE_GRADIENT_ACCUMULATION_STEPS, which `accelerate launch` may set
    accelerator.gradient_accumulation_steps = args.gradient_accumulation_steps
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # `accelerate launch` says no unless it is told
    if configured not in ("no", args.mixed_precision) and accelerator.is_main_process:
        log.warning(
            "Accelerate is configured for %s, but the run is in --mixed_precision %s: its own setting counts.",
            configured,
            args.mixed_precision,
        )
    tell_deepspeed(accelerator, args)
    return accelerator


def tell_deepspeed(accelerator, args):
    """Gives DeepSpeed, where it is used, the run's own settings. It clips gradients by itself, looks for the batch size
    in a data loader, which Accelerate is not given here, and counts accumulation as `accelerate launch` was told."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    plugin.deepspeed_config.update(
        train_micro_batch_size_per_gpu=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        gradient_clipping=args.max_grad_norm,
    )


def new_adapters(args, base) -> tuple[GenPropAdapters, str | None]:
    """Fresh adapters, or those of --init_adapters with their file's digest. Sets the settings of their form that
    were not given."""
    file = None if args.init_adapters is None else load_adapters(args.init_adapters)
    form = dict(arguments.FORM)
    if file is not None:
        # a base as sizes alone (--dry_run --base svd) has no weights to compare
        sizes = replace(file.fingerprint, widths=BaseShape.from_unet(base.unet).block_out_channels)
        file.check(sizes if base.unet.conv_in.weight.is_meta else base.fingerprint())
        config = file.adapters.config
        form = {"sce": config.sce, "num_blocks": config.num_blocks}
        form |= {name: "on" if getattr(config, name) else "off" for name in arguments.SWITCHES}
    given = {name: getattr(args, name) for name in form if getattr(args, name) is not None}
    other = [f"--{name} {form[name]}, not {value}" for name, value in given.items() if value != form[name]]
    if file is not None and other:
        raise GenPropError(
            f"Expected the form of the adapters in {args.init_adapters}: {', '.join(other)}. Leave these settings out."
        )
    vars(args).update(form | given)
    if file is not None:
        return file.adapters, file.digest
    switches = {name: getattr(args, name) == "on" for name in arguments.SWITCHES}
    made = GenPropAdapters.from_unet(base.unet, num_blocks=args.num_blocks, sce=args.sce, **switches)
    return made, None


def make_encoder(args, base, device) -> Encoder:
    """The base's VAE and CLIP as the run asks for them: in a bf16 run the VAE computes in it too."""
    kept = torch.float32 if args.mixed_precision == "no" else torch.float16
    bfloat16 = args.mixed_precision == "bf16"
    return Encoder(base, device, args.corrupt_source, kept, resident=args.cache_dir is None, bfloat16=bfloat16)


def load_data(args, accelerator, base, encoder):
    """The checked training clips, their latents encoded; every process does its share of the work."""
    triples = find_triples(args.train_data_dir)
    share = triples[accelerator.process_index :: accelerator.num_processes]
    if args.cache_dir is None:
        entries = without_cache(share, args.num_frames, args.resolution, base.size_multiple)
    else:
        cache = LatentCache(args.cache_dir, encoder, base.name, args.resolution, base.size_multiple)
        progress = Live(accelerator.is_main_process).counter("encoding clips")
        entries = cache.fill(share, args.num_frames, progress)
    entries = sorted(gather_object(entries), key=lambda e: e.triple.name)
    check_sizes(entries, args.batch_size)
    return entries
