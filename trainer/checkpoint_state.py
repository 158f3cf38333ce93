"""Checkpoints: everything needed to continue, in safetensors and JSON, whole or absent whenever the run is killed.

A checkpoint is a folder `step_00001234` that is made under a hidden name and renamed when all its files are on disk:
    state.safetensors    weights, EMA weights, optimiser moments, random state
    state.json           step and settings
    adapters.safetensors the EMA weights as an adapter file for the nodes and `propagate`

A new run in a folder that holds one (--reset_optimizer) first sets the earlier one aside, as `checkpoints.before-1`.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from pathlib import Path

import torch

from genprop_core.checkpoint import save_adapters
from genprop_core.errors import GenPropError
from genprop_core.files import atomic, load_tensors, open_tensors, save_tensors, write_json

log = logging.getLogger(__name__)
FORMAT = "genprop-training-state"
# Settings that may differ between the saved run and the one that continues it: they do not change what a step does.
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
MODEL = {"sce", "num_blocks", "injection_norm", "selection", "base_fingerprint"}
# digests, and what it means that they differ; a run without a cache has none of the contents
CLIPS = {
    "clip_names": "the clips of --train_data_dir were others, by their names or tasks",
    "clip_contents": "the clips of --train_data_dir, or the VAE that encodes them, had other contents",
}


def run_settings(args, global_batch: int, entries: list, fingerprint) -> dict:
    """What makes two runs the same run, as JSON values. entries: `latent_cache.Entry` of the clips, in their order."""
    values = {k: v for k, v in vars(args).items() if k not in FREE}
    cached = all(e.path is not None for e in entries)
    values |= {
        "global_batch": global_batch,
        "clips": len(entries),
        "clip_names": _digest(f"{e.triple.name}: {e.triple.task}" for e in entries),
        "clip_contents": _digest(e.path.name for e in entries) if cached else None,  # named by what it was made from
        "base_fingerprint": f"{fingerprint.widths} {fingerprint.conv_in}",
    }
    return json.loads(json.dumps(values))


def _digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one output folder."""

    def __init__(self, output_dir, keep: int):
        self.output, self.folder, self.keep = Path(output_dir), Path(output_dir) / "checkpoints", keep

    def all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return _steps(self.folder)

    def _set_aside(self) -> list[Path]:
        """The folders that `set_aside` has made, oldest first."""
        made = {p: re.fullmatch(r"checkpoints\.before-(\d+)", p.name) for p in self.output.glob("checkpoints.before-*")}
        return sorted((p for p in made if made[p]), key=lambda p: int(made[p][1]))

    def set_aside(self):
        """Renames the folder of an earlier run's checkpoints, with its log in it: a new run, whose steps are lower,
        would have its own removed as the older ones. Does nothing where there are none.

        Raises GenPropError when it cannot be renamed.
        """
        if not self.all():
            return
        earlier, rows = self._set_aside(), self.output / "log.jsonl"
        number = 1 + (int(earlier[-1].name.rsplit("-", 1)[1]) if earlier else 0)
        target = self.output / f"checkpoints.before-{number}"
        try:
            if rows.exists():
                os.replace(rows, self.folder / rows.name)
            os.replace(self.folder, target)
        except OSError as error:
            raise GenPropError(
                f"Expected to set the earlier run aside as {target}, but it cannot be renamed ({error.strerror}). "
                "Close what has its files open, or choose another --output_dir."
            ) from None
        log.info("The earlier run's checkpoints and log.jsonl are now in %s.", target)

    def find(self, resume: str | None) -> Path | None:
        """The folder to resume from; None for a new run. Raises GenPropError when it is missing or damaged."""
        existing = self.all()
        if resume is None:
            if existing:
                raise GenPropError(
                    f"{self.output} already holds a run ({existing[-1].name}). Continue it by "
                    "--resume_from_checkpoint latest, or choose another --output_dir."
                )
            return None
        if resume != "latest":
            path = Path(resume)
            _check(path)
            return path
        if not existing and self._set_aside():  # killed after it had set a run aside and before its first checkpoint
            existing = _steps(self._set_aside()[-1])
        for path in reversed(existing):
            try:
                _check(path)
                return path
            except GenPropError as error:
                log.warning("%s The one before it is tried.", error)
        if existing:
            raise GenPropError(f"Expected a whole checkpoint in {self.folder}, but all {len(existing)} are damaged.")
        log.warning("There is no checkpoint in %s yet: starting at step 0.", self.folder)
        return None

    def save(self, step: int, tensors: dict, settings: dict, adapters, fingerprint, provenance: dict) -> Path:
        """Writes the checkpoint of a step, then removes all but the newest `keep`.

        Raises GenPropError when it cannot be written (disk full, say); earlier checkpoints are untouched then.
        """
        final = self.folder / f"step_{step:08d}"
        making = self.folder / f".making-{uuid.uuid4().hex[:8]}"
        try:
            self._clear()
            making.mkdir(parents=True)
            save_tensors(making / "state.safetensors", tensors, {"format": FORMAT})
            save_adapters(making / "adapters.safetensors", adapters, fingerprint, provenance)
            write_json(making / "state.json", {"format": FORMAT, "step": step, "settings": settings})
            _sync(making / "state.json"), _sync(making)
            if final.exists():  # a run resumed from an older step arrives again at one that was saved
                os.replace(
                    final, final.with_name(f"{final.name}-old")
                )  # still found by `all`, until the new one is there
            os.replace(making, final)
            _sync(self.folder)
            with atomic(self.output / "adapters.safetensors") as temporary:
                shutil.copyfile(final / "adapters.safetensors", temporary)
        except (OSError, RuntimeError) as error:
            raise GenPropError(
                f"The checkpoint of step {step} cannot be written to {self.folder} ({error}). Earlier ones are "
                "whole. Make space, then --resume_from_checkpoint latest."
            ) from None
        finally:
            shutil.rmtree(making, ignore_errors=True)
        replaced = [p for p in self.all() if p.name.endswith("-old") and p.with_name(p.name[: -len("-old")]).exists()]
        kept = [p for p in self.all() if p not in replaced]
        for path in replaced + kept[: -self.keep]:
            os.replace(path, self.folder / f".old-{uuid.uuid4().hex[:8]}")
        self._clear()
        return final

    def _clear(self):
        """Removes what a killed run left half made or half removed."""
        for pattern in (".making-*", ".old-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.is_dir())


def _sync(path: Path):
    """Has the operating system write a file's or folder's content to the disk now; folders only where it can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(path: Path):
    """Raises GenPropError when a folder is not a whole checkpoint."""
    if not (path / "state.json").is_file():
        raise GenPropError(
            f"Expected a checkpoint folder (with state.json) at {path}, but there is none. "
            "Give a folder named step_..., or latest."
        )
    with open_tensors(path / "state.safetensors") as file:
        if (file.metadata() or {}).get("format") != FORMAT:
            raise GenPropError(f"Expected a training state in {path}, but state.safetensors is none.")


def load(path: Path, settings: dict, only_weights: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Tensors and step of a checkpoint. Raises GenPropError, listing what differs, when it is of another run.

    One that does not say which clips it saw, from before that was noted, is taken with a warning.
    """
    note = json.loads((path / "state.json").read_text(encoding="utf-8"))
    saved = note["settings"]
    keys = MODEL if only_weights else saved.keys() | settings.keys()
    keys = keys - {k for k in CLIPS if saved.get(k) is None or settings.get(k) is None}
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
    return load_tensors(path / "state.safetensors")[0], int(note["step"])


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; of one that is spread over processes (FSDP) all of it, so every process must call this."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().to("cpu", copy=True)


def _like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`value` placed like `tensor` (device, and spread over processes where that is)."""
    if not hasattr(tensor, "full_tensor"):
        return value.to(tensor.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)


def collect(parameters: dict[str, torch.Tensor], ema, optimizer, scaler=None) -> dict[str, torch.Tensor]:
    """All tensors of a run's state. parameters: the trainable ones by name, in the EMA's order.

    optimizer: None leaves its moments out. Where tensors are spread over processes, every process must call this.
    """
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for (name, parameter), shadow in zip(parameters.items(), ema.shadow, strict=True):
        tensors[f"model.{name}"], tensors[f"ema.{name}"] = whole(parameter), whole(shadow)
        for key, value in (optimizer.state.get(parameter, {}) if optimizer is not None else {}).items():
            tensors[f"optimizer.{name}.{key}"] = whole(torch.as_tensor(value))
    for key, value in (scaler.state_dict() if scaler is not None else {}).items():
        tensors[f"scaler.{key}"] = torch.tensor(value, dtype=torch.float64)
    return tensors


@torch.no_grad()
def restore(tensors: dict[str, torch.Tensor], parameters: dict, ema, optimizer, scaler=None, only_weights=False):
    """The inverse of `collect`, in place. only_weights starts a new run from the EMA weights: nothing else is taken."""
    for (name, parameter), shadow in zip(parameters.items(), ema.shadow, strict=True):
        shadow.copy_(_like(tensors[f"ema.{name}"], shadow))
        parameter.copy_(_like(tensors[f"{'ema' if only_weights else 'model'}.{name}"], parameter))
    if only_weights:
        return
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    for name, parameter in parameters.items() if optimizer is not None else ():
        prefix = f"optimizer.{name}."
        moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if moments:  # AdamW keeps its step count as a float tensor on the CPU
            optimizer.state[parameter] = {k: v if v.ndim == 0 else _like(v, parameter) for k, v in moments.items()}
    scaling = {k.removeprefix("scaler."): v.item() for k, v in tensors.items() if k.startswith("scaler.")}
    if scaler is not None and scaling:
        scaler.load_state_dict(
            {k: int(v) if k.startswith(("growth_interval", "_growth")) else v for k, v in scaling.items()}
        )
