"""What a training step costs: from cached latents and not, with gradient checkpointing, static and fused.

One step is the trainer's own loss, backward pass and optimiser step on one window of the mini. The memory is what a
step keeps for its backward pass, counted on the tensors; weights and moments come on top (trainer/memory.py).
"""

import sys

import torch

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.conditioning import Condition, micro_conditions
from genprop_core.pipeline import GenProp
from trainer import gradient_checkpointing
from trainer.encoder import Encoder
from trainer.memory import saved_bytes
from trainer.mini.clips import make_clip
from trainer.step import StepSettings, draw, loss_terms, stack

from .common import clock, facts, medians, parser, show
from .timing import interleave, ratio


class Step:
    """One training step on one clip; `cached` False encodes the clip anew, as `--cache_dir none` does."""

    def __init__(self, model: GenProp, sce: str = "static", cached: bool = True, checkpointing: bool = False):
        self.unet, self.encoder, self.cached = model.base.unet, Encoder(model.base, "cpu"), cached
        clip = make_clip(0)
        self.frames = {"source": clip.source, "target": clip.target, "mask": clip.mask}
        self.adapters = GenPropAdapters.from_unet(model.base.unet, sce=sce)
        self.optimizer = torch.optim.AdamW(self.adapters.trainable(), 5e-5)
        self.checkpointing, self.window = checkpointing, self.encoder.encode(self.frames, "clip")

    def loss(self, taps):
        window = self.window if self.cached else self.encoder.encode(self.frames, "clip")
        source, target, mask = (window[k][None].float() for k in ("source", "target", "mask"))
        image = window["key"][:1].expand_as(window["key"])[None].float()
        condition = Condition(image, window["clip"][None, :1].float(), micro_conditions(7, 127, 0.02),
                              torch.tensor([0]), source, image)  # fmt: skip
        settings = StepSettings(cond_dropout=0.0)
        random = stack([draw(0, target.shape[1:], settings)])
        return loss_terms(self.unet, taps, self.adapters, condition, target, mask, random, settings)["total"]

    def __call__(self):
        parts = gradient_checkpointing.enable(self.unet, self.adapters.sce) if self.checkpointing else []
        try:
            with attach(self.unet, self.adapters.config.num_blocks) as taps:
                self.loss(taps).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        finally:
            gradient_checkpointing.disable(parts)

    def kept(self) -> int:
        """Bytes kept for the backward pass."""
        parts = gradient_checkpointing.enable(self.unet, self.adapters.sce) if self.checkpointing else []
        try:
            with (
                attach(self.unet, self.adapters.config.num_blocks) as taps,
                saved_bytes(self.unet, self.adapters) as counter,
            ):
                self.loss(taps)
        finally:
            gradient_checkpointing.disable(parts)
        return counter.bytes


def measure(rounds: int) -> dict:
    """Seconds and memory of one step of every variant, and the ratios of their steps per second."""
    model = GenProp.from_files("mini")
    model.base.unet.requires_grad_(False)
    steps = {
        "cached": Step(model),
        "uncached": Step(model, cached=False),
        "checkpointed": Step(model, checkpointing=True),
        "fused": Step(model, sce="fused"),
    }
    memory = {name: step.kept() / 2**20 for name, step in steps.items()}
    seconds = interleave(steps, rounds, clock())
    middle = medians(seconds)
    return facts(model) | {
        "rounds": rounds,
        "seconds": middle,
        "steps_per_second": {name: 1 / value for name, value in middle.items()},
        "activations_mib": memory,
        "ratios": {
            "cached_over_uncached": ratio(seconds, "uncached", "cached"),
            "checkpointed_over_cached": ratio(seconds, "cached", "checkpointed"),
            "static_over_fused_steps": ratio(seconds, "fused", "cached"),
            "memory_cached_over_checkpointed": memory["cached"] / memory["checkpointed"],
        },
    }


def main(argv=None) -> int:
    given = parser("training", __doc__).parse_args(argv)
    report = measure(1 if given.quick else given.rounds)
    for name, value in report["activations_mib"].items():
        print(f"{name:28} {value:9.1f} MiB kept, {report['steps_per_second'][name]:.2f} steps/s")
    return show(report, given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
