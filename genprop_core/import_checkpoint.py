"""Reads checkpoints of the earlier public implementation (a .pt with three state dicts) into an adapter file.

Its SCE is the same copy of the UNet's first blocks as ours. It injected block outputs only, so the imported adapters
use those taps (`taps="blocks"`). What has no place here, or another shape, stays as in fresh adapters and is reported.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from .adapters import GenPropAdapters, Injection
from .base import load_base
from .checkpoint import save_adapters
from .errors import GenPropError

PARTS = ("sce_state_dict", "injections_state_dict", "mpd_state_dict")


@dataclass
class ImportReport:
    """carried: tensors that were taken over. left: {tensor of the old file: why it was not}. warnings: plain lines."""

    carried: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people to read: counts first, then what could not be carried."""
        return [
            f"{len(self.carried)} tensors carried, {len(self.left)} left",
            *(f"left: {name} ({why})" for name, why in sorted(self.left.items())),
            *(f"note: {text}" for text in self.warnings),
        ]


def read_old(path) -> dict:
    """The three state dicts of an old checkpoint, read without running any code that the file may hold."""
    path = Path(path)
    if not path.is_file():
        raise GenPropError(f"Expected a checkpoint (.pt) at {path}, but there is none. Check the path.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: damaged archive, forbidden type, no archive at all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GenPropError(
            f"Expected a checkpoint of tensors, but {path} cannot be read as one ({reason}). "
            "It may be truncated, or hold more than weights, which is not read for safety."
        ) from None
    missing = [p for p in PARTS if not isinstance(saved, dict) or p not in saved]
    if missing:
        raise GenPropError(
            f"Expected a checkpoint with {', '.join(PARTS)}, but {path} lacks {', '.join(missing)}. "
            "Only checkpoints of the earlier GenProp implementation can be imported."
        )
    return {p: saved[p] for p in PARTS}


def new_name(old: Path) -> Path:
    """Where the adapters of OLD.pt go by default: OLD.safetensors. Raises GenPropError when that is there already."""
    out = old.with_suffix(".safetensors")
    if out.exists():
        raise GenPropError(f"Expected to write {out}, but there is such a file. Give another name with --out.")
    return out


def import_checkpoint(old: Path, out: Path, base="mini") -> ImportReport:
    """Writes the adapters of an old checkpoint as one .safetensors for `base` (a Base, or what `load_base` takes).

    Raises GenPropError when the file is not such a checkpoint, or nothing of it fits the base.
    """
    parts = read_old(old)
    base = load_base(base) if isinstance(base, (str, Path)) else base
    blocks = {int(m[1]) for k in parts["sce_state_dict"] if (m := re.match(r"blocks\.(\d+)\.", k))}
    if not blocks:
        raise GenPropError(f"Expected an SCE with blocks in {old}, got none. The checkpoint is damaged.")
    form = {"taps": "blocks", "injection_norm": True, "show_source": False}
    adapters = GenPropAdapters.from_unet(base.unet, num_blocks=max(blocks) + 1, **form)
    state, report = adapters.state_dict(), ImportReport()

    def carry(old_name: str, name: str, value: torch.Tensor):
        if value.ndim == 5 and value.shape[2:] == (1, 1, 1):
            value = value[..., 0]  # a 1x1x1 convolution; frames are the batch here, so it is a 1x1
        if name not in state:
            report.left[old_name] = "no such part here"
        elif value.shape != state[name].shape:
            report.left[old_name] = f"shape {list(value.shape)}, this base needs {list(state[name].shape)}"
        elif not value.isfinite().all():
            report.left[old_name] = "not finite"
        else:
            state[name] = value.to(state[name].dtype)
            report.carried.append(old_name)

    for key, value in parts["sce_state_dict"].items():
        carry(f"sce.{key}", f"sce.{re.sub(r'^blocks', 'down_blocks', key)}", value)
    targets = [i for i, layer in enumerate(adapters.injections) if isinstance(layer, Injection)]
    injections = parts["injections_state_dict"]
    for number, layer in enumerate(injections if isinstance(injections, list) else []):
        for key, value in layer.items():
            name = f"injections.{targets[number]}.{key}" if number < len(targets) else "beyond the copied blocks"
            carry(f"injections.{number}.{key}", name, value)
    for key in parts["mpd_state_dict"]:
        report.left[f"mpd.{key}"] = "the mask decoder is built differently; train it anew"
    if not report.carried:
        raise GenPropError(
            f"Nothing of {old} fits the base {base.name}: {next(iter(report.left.items()))}. "
            "Give the base that it was trained on with --base."
        )
    adapters.load_state_dict(state)
    dead = [i for i in targets if not adapters.injections[i].conv.weight.any()]
    if dead:
        report.warnings.append(
            f"{len(dead)} of {len(targets)} injection convolutions are all zero: these adapters do nothing there. "
            "Fine-tune them before use."
        )
    provenance = {"imported_from": Path(old).name, "carried": len(report.carried), "left": len(report.left)}
    try:
        save_adapters(out, adapters, base.fingerprint(), provenance)
    except (OSError, SafetensorError) as error:
        raise GenPropError(
            f"Expected a place to write {out} to, but it cannot be written ({error}). "
            "Choose another --out, or make space."
        ) from None
    return report
