"""What makes two training runs the same run: the settings that change what a step does, the clips and the base."""

import hashlib
import json
import logging

from genprop_core.errors import GenPropError

log = logging.getLogger(__name__)
# Settings that may differ between the saved run and the one that continues it. They do not change what a step does, but
# for epochs and max_steps: learning rate and weights of the losses follow the length of the run (`tell_length`).
FREE = {
    "config",
    "train_data_dir",
    "val_data_dir",
    "output_dir",
    "init_adapters",
    "val_out_dir",
    "cache_dir",
    "num_workers",
    "epochs",
    "max_steps",
    "val_interval",
    "num_inference_steps",
    "guidance_scale",
    "val_num_frames",
    "val_decode_chunk",
    "fast_validation",
    "save_interval",
    "save_steps",
    "keep",
    "resume_from_checkpoint",
    "reset_optimizer",
    "tracker",
    "wandb_project",
    "wandb_entity",
    "dry_run",
    "gradient_checkpointing",
    "batch_size",
    "gradient_accumulation_steps",
    "base",
}
# must agree even when only the weights are taken
MODEL = {"sce", "num_blocks", "injection_norm", "selection", "show_source", "base_fingerprint"}
LENGTH = "total_steps"
# digests, and what it means that they differ; a run without a cache has none of the contents
CLIPS = {
    "clip_names": "the clips of --train_data_dir were others, by their names or tasks",
    "clip_contents": "the clips of --train_data_dir, or the VAE that encodes them, had other contents",
}


def run_settings(args, global_batch: int, total: int, entries: list, fingerprint) -> dict:
    """What makes two runs the same run, as JSON values, and their length, `total` steps, which may change.

    entries: `latent_cache.Entry` of the clips, in their order.
    """
    values = {k: v for k, v in vars(args).items() if k not in FREE}
    cached = all(e.path is not None for e in entries)
    values |= {
        "global_batch": global_batch,
        LENGTH: total,
        "clips": len(entries),
        "clip_names": _digest(f"{e.triple.name}: {e.triple.task}" for e in entries),
        "clip_contents": _digest(e.path.name for e in entries) if cached else None,  # named by what it was made from
        "base_fingerprint": f"{fingerprint.widths} {fingerprint.conv_in}",
    }
    return json.loads(json.dumps(values))


def _digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_same(path, saved: dict, settings: dict, only_weights: bool):
    """Raises GenPropError, listing what differs, when the checkpoint at `path` with `saved` settings is of another run.

    only_weights: nothing but the form of the adapters must agree. A checkpoint that does not say which clips it saw,
    from before that was noted, is taken with a warning.
    """
    keys = MODEL if only_weights else saved.keys() | settings.keys()
    keys = keys - {LENGTH} - {k for k in CLIPS if saved.get(k) is None or settings.get(k) is None}
    differs = [
        CLIPS.get(k, f"{k} was {saved.get(k)}, now {settings.get(k)}")
        for k in sorted(keys)
        if saved.get(k) != settings.get(k)
    ]
    if not only_weights and "clip_names" not in saved:
        log.warning("%s does not say which clips it was trained on: make sure that they are the same.", path)
    if differs:
        remedy = (
            "Choose another checkpoint."
            if only_weights
            else ("Give the same settings, or --reset_optimizer to start a new run from its weights.")
        )
        raise GenPropError(f"The checkpoint {path} belongs to another configuration: {'; '.join(differs)}. {remedy}")


def tell_length(path, step: int, saved: dict, settings: dict) -> None:
    """Warns when the checkpoint at `path`, of `step`, is from a run of another length, or beyond this one."""
    before, now = saved.get(LENGTH, settings[LENGTH]), settings[LENGTH]  # older checkpoints do not say
    if step > now:
        log.warning(
            "%s is at step %d, beyond the %d steps of this run: nothing is trained. Raise --epochs or --max_steps.",
            path, step, now,
        )  # fmt: skip
    elif before != now:
        log.warning(
            "%s is from a run of %d steps, this one has %d: learning rate and weights of the losses follow the length, "
            "so they change at once. Give the same --epochs and --max_steps to continue as it began.",
            path, before, now,
        )  # fmt: skip
