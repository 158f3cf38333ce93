"""What each speed-up brings and costs: seconds before and after in one run, and PSNR against the truth.

`long_way` is the model as diffusers computes it. `short_attention` is attention over one token; `short_ways` adds flat
convolutions over time and TAESD's memory layout, and `parts` feed-forward layers in parts: these are exact and always
on. The others are choices of a run: guidance only at the noise levels where it acts, a second-order solver with fewer
steps, both, the mini's own steps and noise levels, and half the precision where the processor is faster with it.
"""

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import torch

from genprop_core import attach, conditioning, sce
from genprop_core.metrics import psnr
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings
from trainer.evaluation_clips import HeldOut
from trainer.mini.precision import bfloat16_pays

from .common import clock, facts, medians, parser, show
from .timing import interleave, ratio

RANGE, STEPS, FEWER = (0.1, 100.0), 25, 14
OWN = SamplerSettings(steps=None, max_cfg=None, sigma_min=None)  # filled in by the base


@contextmanager
def nothing(*args):
    yield


SHORT_WAYS = {  # name of the short way -> (the modules that take it, the long way)
    "one_token_attention": ((attach,), nothing),
    "flat_temporal_convolutions": ((attach,), nothing),
    "laid_out": ((conditioning,), lambda vae, pixels: pixels),
    "feed_forward_in_parts": ((attach, sce), nothing),
}


@contextmanager
def without(*names):
    """Within, these short ways are left out."""
    with ExitStack() as stack:
        for name in names:
            owners, long_way = SHORT_WAYS[name]
            for owner in owners:
                stack.enter_context(mock.patch.object(owner, name, long_way))
        yield


def variants(steps: int, fewer: int) -> dict[str, tuple]:
    """name -> (short ways left out, SamplerSettings, dtype)."""
    euler, float32 = SamplerSettings(steps=steps), torch.float32
    solver = replace(euler, solver="dpm++2m", steps=fewer)
    every = tuple(SHORT_WAYS)
    return {
        "long_way": (every, euler, float32),
        "short_attention": (every[1:], euler, float32),
        "short_ways": (every[3:], euler, float32),
        "parts": ((), euler, float32),
        "guidance_range": ((), replace(euler, guidance_range=RANGE), float32),
        "fewer_steps": ((), solver, float32),
        "both": ((), replace(solver, guidance_range=RANGE), float32),
        "own_settings": ((), OWN, float32),
        **({"bfloat16": ((), euler, torch.bfloat16)} if bfloat16_pays() else {}),
    }


def measure(rounds: int, clips: int, steps: int = STEPS, fewer: int = FEWER) -> dict:
    """Median seconds of a whole run, mean PSNR over held-out clips, and both against `long_way`."""
    models = {d: GenProp.from_files("mini", dtype=d) for d in (torch.float32, torch.bfloat16)}
    held_out = HeldOut(clips)
    drawn = [held_out[i] for i in range(clips)]

    def run(name, clip):
        left_out, sampler, dtype = chosen[name]
        height, width = clip.source.shape[-2:]
        settings = PropagateSettings(sampler=sampler, width=width, height=height, seed=clip.seed)
        with without(*left_out):
            return models[dtype].propagate(clip.source, clip.keyframe, settings)

    chosen = variants(steps, fewer)
    quality = {n: sum(psnr(run(n, c).frames, c.target) for c in drawn) / clips for n in chosen}
    seconds = interleave({n: (lambda n=n: run(n, drawn[0])) for n in chosen}, rounds, clock())
    return facts(models[torch.float32]) | {
        "steps": steps,
        "fewer_steps": fewer,
        "guidance_range": list(RANGE),
        "rounds": rounds,
        "clips": clips,
        "seconds": medians(seconds),
        "psnr": quality,
        "psnr_change": {n: v - quality["long_way"] for n, v in quality.items()},
        "ratios": {f"{n}_over_long_way": ratio(seconds, n, "long_way") for n in chosen if n != "long_way"},
    }


def main(argv=None) -> int:
    arguments = parser("speedups", __doc__)
    arguments.add_argument("--clips", type=int, default=8, help="that PSNR is measured on (default: %(default)s)")
    given = arguments.parse_args(argv)
    report = measure(1, 1, 4, 3) if given.quick else measure(given.rounds, given.clips)
    for name, value in report["psnr_change"].items():
        print(f"{name:28} {report['psnr'][name]:9.3f} dB ({value:+.3f})")
    return show(report, given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
