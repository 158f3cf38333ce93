"""Checkpoints: everything needed to continue, in safetensors and JSON, whole or absent whenever the run is killed.

A checkpoint is a folder `step_00001234` that is made under a hidden name and renamed when all its files are on disk:
    state.safetensors    weights, EMA weights, optimiser moments, random state
    state.json           step and settings
    adapters.safetensors the EMA weights as an adapter file for the nodes and `propagate`

A new run in a folder that holds one (--reset_optimizer) first sets the earlier one aside, as `checkpoints.before-1`.
A run that goes on from an older checkpoint sets the later ones aside, as `checkpoints.beyond-1`; one that goes on from
a checkpoint of another folder (such as that) copies it in and sets all the others aside.
"""

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

from .run_identity import check_same, tell_length

log = logging.getLogger(__name__)
FORMAT = "genprop-training-state"


class Checkpoints:
    """The checkpoints of one output folder."""

    def __init__(self, output_dir, keep: int):
        self.output, self.folder, self.keep = Path(output_dir), Path(output_dir) / "checkpoints", keep

    def all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        return _steps(self.folder)

    def _set_aside(self, kind: str) -> list[Path]:
        """The folders that `set_aside` ("before") or `leave_behind` ("beyond") has made, oldest first."""
        made = {p: re.fullmatch(rf"checkpoints\.{kind}-(\d+)", p.name) for p in self.output.glob("checkpoints.*")}
        return sorted((p for p in made if made[p]), key=lambda p: int(made[p][1]))

    def _next_aside(self, kind: str) -> Path:
        earlier = self._set_aside(kind)
        number = 1 + (int(earlier[-1].name.rsplit("-", 1)[1]) if earlier else 0)
        return self.output / f"checkpoints.{kind}-{number}"

    def leave_behind(self, found: Path, step: int):
        """Has the folder end with `found`, of `step`, from which a run goes on: what `latest` would take up instead is
        set aside, and so that `save` removes none of another branch, all is where `found` lies elsewhere. It is copied
        in then, and is the newest from the start.

        Raises GenPropError when they cannot be renamed, or the copy cannot be written.
        """
        here, elsewhere = self.folder / f"step_{step:08d}", found.parent.resolve() != self.folder.resolve()
        aside = [p for p in self.all() if elsewhere or int(re.match(r"step_(\d+)", p.name)[1]) > step]
        rows, target, making = self.output / "log.jsonl", self._next_aside("beyond"), self.folder / ".making-copy"
        try:
            self._clear()
            if elsewhere:
                shutil.copytree(found, making)
            if aside:
                target.mkdir()
                if rows.exists():
                    shutil.copyfile(rows, target / rows.name)
            if elsewhere:
                if here in aside:
                    os.replace(here, target / here.name)
                os.replace(making, here)
                self._publish(here)
            for path in aside:
                if path != here:
                    os.replace(path, target / path.name)
        except OSError as error:
            raise GenPropError(
                f"Expected to go on from {found} in {self.folder}, with the other checkpoints there set aside in "
                f"{target}, but that cannot be done ({error.strerror or error}). Make space, close what has files of "
                "them open, or choose another --output_dir."
            ) from None
        if aside:
            names = ", ".join(p.name for p in aside)
            log.info("The checkpoints %s are now in %s, with log.jsonl as it was.", names, target)

    def set_aside(self):
        """Renames the folder of an earlier run's checkpoints, with its log in it: a new run, whose steps are lower,
        would have its own removed as the older ones. Does nothing where there are none.

        Raises GenPropError when it cannot be renamed.
        """
        if not self.all():
            return
        rows, target = self.output / "log.jsonl", self._next_aside("before")
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
        if not existing and self._set_aside("before"):  # killed before a new run's first checkpoint
            existing = _steps(self._set_aside("before")[-1])
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

        Raises GenPropError when it cannot be written (disk full, say); earlier checkpoints are untouched then. One that
        cannot be removed stays, with a warning, until the next save.
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
            self._publish(final)
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
            try:
                os.replace(path, self.folder / f".old-{uuid.uuid4().hex[:8]}")
            except OSError as error:  # on Windows, while another program has a file of it open
                log.warning(
                    "%s cannot be removed (%s). The run goes on, and tries it again at the next save. "
                    "Close what has its files open.",
                    path,
                    error.strerror,
                )
        self._clear()
        return final

    def _publish(self, checkpoint: Path):
        """Its adapters are those of the run."""
        with atomic(self.output / "adapters.safetensors") as temporary:
            shutil.copyfile(checkpoint / "adapters.safetensors", temporary)

    def _clear(self):
        """Removes what a killed run left half made or half removed."""
        for pattern in (".making-*", ".old-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first; of two of one step, the one that was replaced first."""
    found = [p for p in folder.glob("step_*") if p.is_dir()]
    return sorted(found, key=lambda p: (p.name.removesuffix("-old"), not p.name.endswith("-old")))


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
    """Tensors and step of a checkpoint. Raises GenPropError, listing what differs, when it is of another run."""
    note = json.loads((path / "state.json").read_text(encoding="utf-8"))
    check_same(path, note["settings"], settings, only_weights)
    if not only_weights:
        tell_length(path, int(note["step"]), note["settings"], settings)
    return load_tensors(path / "state.safetensors")[0], int(note["step"])
