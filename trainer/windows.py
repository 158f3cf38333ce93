"""What the data loader gives out: windows of cached latents, or of frames that are encoded in the step loop."""

import torch
from torch.utils.data import DataLoader, Dataset

from genprop_core.config import TASKS
from genprop_core.errors import GenPropError

from .dataset import read_window
from .encoder import Encoder
from .latent_cache import Entry
from .samples import GlobalBatch, Positions, WindowSettings, assemble, collate, plan_sample
from .step import StepSettings


class Windows(Dataset):
    """Samples by position. With an encoder, frames are read and encoded here; without, latents are in the cache."""

    def __init__(
        self, entries: list[Entry], windows: WindowSettings, step: StepSettings, encoder: Encoder | None = None
    ):
        self.entries, self.windows, self.step, self.encoder = entries, windows, step, encoder
        self.lengths = [e.frames for e in entries]

    def __getitem__(self, position: int) -> dict:
        plan = plan_sample(position, self.lengths, self.windows)
        entry, stop = self.entries[plan.clip], plan.start + self.windows.num_frames
        if self.encoder is None:
            window = entry.read(plan.start, stop, plan.corrupted)
        else:
            frames = read_window(entry.triple, entry.size, plan.start, stop)
            window = {k: v.cpu() for k, v in self.encoder.encode(frames, entry.triple.name).items()}
        return assemble(window, plan, self.step) | {"name": entry.triple.name, "task": TASKS.index(entry.triple.task)}


def check_sizes(entries: list[Entry], batch_size: int):
    """Raises GenPropError when clips of one batch could differ in size."""
    sizes = {}
    for entry in entries:
        sizes.setdefault(entry.size, entry.triple.name)
    if batch_size > 1 and len(sizes) > 1:
        shown = ", ".join(f"{name} is {w}x{h}" for (h, w), name in sizes.items())
        raise GenPropError(
            f"Expected clips of one size for --batch_size {batch_size}, but {shown}. "
            "Give --resolution as WIDTHxHEIGHT, or --batch_size 1."
        )


def loader(windows: Windows, batch: GlobalBatch, first: int, last: int, process: int, workers: int) -> DataLoader:
    """This process's batches of optimiser steps first..last; the loader takes nothing from the global generator."""
    workers = 0 if windows.encoder is not None else workers  # VAE and CLIP stay in this process
    return DataLoader(
        windows,
        batch.batch_size,
        sampler=Positions(batch, first, last, process),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


def to_device(batch: dict, device) -> dict:
    """A batch with its tensors on a device; names stay."""

    def move(value):
        if isinstance(value, dict):
            return {k: move(v) for k, v in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, non_blocking=value.is_pinned())  # other memory may be gone before it is copied

    return move(batch)
