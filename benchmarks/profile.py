"""Where one run of `GenProp.propagate` spends its time, as shares that add up to 1."""

import sys
from collections import defaultdict

import torch

from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .common import clock, facts, parser, sample_clip, show


class Stopwatch:
    """Time spent within named functions, each without what runs inside it under another name."""

    def __init__(self, now):
        self.now, self.seconds, self.open, self.undo = now, defaultdict(float), [], []

    def _switch(self):
        at = self.now()
        if self.open:
            name, since = self.open[-1]
            self.seconds[name] += at - since
        return at

    def enter(self, name: str):
        self.open.append([name, self._switch()])

    def leave(self):
        at = self._switch()
        self.open.pop()
        if self.open:
            self.open[-1][1] = at

    def watch(self, owner, attribute: str, name: str):
        """Times every call of owner.attribute under this name, until `stop`."""
        inner = getattr(owner, attribute)

        def timed(*args, **kwargs):
            self.enter(name)
            try:
                return inner(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, attribute, timed)
        self.undo.append((owner, attribute))

    def stop(self):
        for owner, attribute in reversed(self.undo):
            vars(owner).pop(attribute, None)
        self.undo.clear()


def shares(model: GenProp, steps: int, now) -> dict[str, float]:
    """Share of the time by part; "rest" is everything that has no name here."""
    source, keyframe = sample_clip()
    settings = PropagateSettings(sampler=SamplerSettings(steps=steps))
    watch = Stopwatch(now)
    base, adapters = model.base, model.adapters
    watch.watch(base.unet, "forward", "UNet")
    watch.watch(adapters, "encode_and_select", "SCE and injection layers")  # the way the sampler goes, and `encode`
    watch.watch(adapters, "gated", "gates")
    watch.watch(adapters.mpd, "forward", "mask decoder")
    watch.watch(base.vae, "encode", "VAE, encode")
    watch.watch(base.vae, "decode", "VAE, decode")
    watch.watch(base.image_encoder, "forward", "CLIP")
    try:
        watch.enter("rest")
        model.propagate(source, keyframe, settings)
        watch.leave()
    finally:
        watch.stop()
    total = sum(watch.seconds.values())
    return {name: value / total for name, value in sorted(watch.seconds.items(), key=lambda v: -v[1])}


def measure(steps: int, rounds: int) -> dict:
    """Mean shares over the rounds, after one that is not counted; operators' shares by PyTorch's profiler."""
    model = GenProp.from_files("mini")
    shares(model, 1, clock())
    runs = [shares(model, steps, clock()) for _ in range(rounds)]
    mean = {name: sum(r.get(name, 0.0) for r in runs) / rounds for name in runs[0]}
    named = ("UNet", "SCE and injection layers", "VAE, encode", "VAE, decode", "CLIP")
    return facts(model) | {
        "steps": steps,
        "rounds": rounds,
        "shares": mean,
        "operators": operators(model, min(steps, 3)),
        "ratios": {"outside_the_models": sum(v for k, v in mean.items() if k not in named)},
    }


def operators(model: GenProp, steps: int, most: int = 10) -> dict[str, float]:
    """Share of the processor's time by PyTorch operator, the largest ones."""
    source, keyframe = sample_clip()
    settings = PropagateSettings(sampler=SamplerSettings(steps=steps))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model.propagate(source, keyframe, settings)
    rows = sorted(profile.key_averages(), key=lambda r: -r.self_cpu_time_total)
    total = sum(r.self_cpu_time_total for r in rows)
    return {r.key.removeprefix("aten::"): r.self_cpu_time_total / total for r in rows[:most]}


def main(argv=None) -> int:
    arguments = parser("profile", __doc__)
    arguments.add_argument("--steps", type=int, default=25)
    given = arguments.parse_args(argv)
    report = measure(*(2, 1) if given.quick else (given.steps, given.rounds))
    for name, value in report["shares"].items():
        print(f"{name:28} {value:9.1%}")
    return show(report, given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
