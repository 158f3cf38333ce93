"""Training windows: which clip, frames, keyframes and noise stand at which position of the run.

A position counts the samples since the start of the run. What it holds depends on the seed and on itself alone, so one
process and many, and a run that was stopped and resumed, see the same training.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.data import Sampler

from genprop_core.conditioning import nearest

from .step import StepSettings, draw, stack


def derive(*parts) -> int:
    """A seed below 2^63 from anything printable."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class WindowSettings:
    """How windows are drawn; see the trainer's arguments of these names."""

    seed: int
    num_frames: int
    keyframes_max: int = 1
    reverse: float = 0.0
    corrupt_probability: float = 0.0


@dataclass(frozen=True)
class Plan:
    """One sample. keyframes: indices in the window as it is played, the first always 0."""

    clip: int
    start: int
    keyframes: tuple[int, ...]
    backwards: bool
    corrupted: bool
    seed: int  # of noise, sigma and dropout


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "order", epoch))).tolist()


def plan_sample(position: int, lengths: list[int], settings: WindowSettings) -> Plan:
    """The sample at a position; lengths: frames of every clip. Every clip comes once per len(lengths) positions."""
    epoch, place = divmod(position, len(lengths))
    clip = _order(len(lengths), settings.seed, epoch)[place]
    g = torch.Generator().manual_seed(derive(settings.seed, "window", position))
    start = int(torch.randint(0, lengths[clip] - settings.num_frames + 1, (), generator=g))
    count = int(torch.randint(0, min(settings.keyframes_max, settings.num_frames), (), generator=g))
    others = (torch.randperm(settings.num_frames - 1, generator=g)[:count] + 1).tolist()
    chances = torch.rand(2, generator=g).tolist()
    return Plan(
        clip,
        start,
        (0, *sorted(others)),
        chances[0] < settings.reverse,
        chances[1] < settings.corrupt_probability,
        derive(settings.seed, "noise", position),
    )


def assemble(window: dict, plan: Plan, settings: StepSettings) -> dict:
    """One training sample from a window's latents.

    window: "source", "target", "key" [T,4,h,w] and "mask" [T,1,h,w], "clip" [T,D], "corrupt" [T,4,h,w] when plan says
    so. "key" and "clip" hold for every frame what it would give as a keyframe.
    """
    rows = {k: v.float().flip(0) if plan.backwards else v.float() for k, v in window.items()}
    frames = len(rows["target"])
    sample = {
        "source": rows["corrupt" if plan.corrupted else "source"],
        "target": rows["target"],
        "mask": rows["mask"],
        "image": rows["key"][nearest(frames, plan.keyframes).to(rows["key"].device)],
        "clip": rows["clip"][:1],
    }
    return sample | {"random": draw(plan.seed, sample["target"].shape, settings)}


def collate(samples: list[dict]) -> dict:
    """Samples of `assemble` with "task", "name" -> a batch of tensors [B,...]; names as a list."""
    tensors = ("source", "target", "mask", "image", "clip")
    return {k: torch.stack([s[k] for s in samples]) for k in tensors} | {
        "task": torch.tensor([s["task"] for s in samples]),
        "name": [s["name"] for s in samples],
        "random": stack([s["random"] for s in samples]),
    }


@dataclass(frozen=True)
class GlobalBatch:
    """How the samples of one optimiser step are dealt out."""

    batch_size: int
    accumulation: int
    processes: int

    @property
    def size(self) -> int:
        return self.batch_size * self.accumulation * self.processes


class Positions(Sampler):
    """The positions that one process takes, from optimiser step `first` to `last`, a batch after the other."""

    def __init__(self, batch: GlobalBatch, first: int, last: int, process: int):
        self.batch, self.first, self.last, self.process = batch, first, last, process

    def __len__(self):
        return (self.last - self.first) * self.batch.batch_size * self.batch.accumulation

    def __iter__(self):
        b = self.batch
        for forward in range(self.first * b.accumulation, self.last * b.accumulation):
            start = (forward * b.processes + self.process) * b.batch_size
            yield from range(start, start + b.batch_size)
