"""How time and memory of a run grow with the frames of a clip and with its size, with fitted exponents and a plot.

Every point is one `GenProp.propagate` on the mini, windows of 8 frames, few sampling steps: a run of more steps is
longer by a factor that is the same for all. Peak memory is a process of its own per point. A clip of one window has no
overlap to pay for, so the fit over the frames begins with the second point.
"""

import math
import subprocess
import sys
from pathlib import Path

import torch

from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .common import clock, facts, medians, parser, peak_memory, sample_clip, show
from .timing import interleave

FRAMES, SIZES = (8, 20, 50, 104, 200, 400), (96, 128, 192, 256, 384)
QUICK_FRAMES, QUICK_SIZES = (8, 20, 50), (96, 128, 192)
STEPS, WINDOW = 2, 8


def clip(frames: int, size: int) -> torch.Tensor:
    """The sample's source, played to and fro to `frames` frames at size x size, uint8 [T,3,size,size]."""
    source, _ = sample_clip()
    there = torch.nn.functional.interpolate(source, (size, size), mode="area")
    loop = torch.cat([there, there[1:-1].flip(0)])
    return (loop[torch.arange(frames) % len(loop)] * 255).round().to(torch.uint8)


def runner(model: GenProp, frames: int, size: int):
    """One run at this length and size, as a function."""
    source = clip(frames, size)
    sampler = SamplerSettings(steps=STEPS)
    settings = PropagateSettings(sampler=sampler, width=size, height=size, window=WINDOW)
    return lambda: model.propagate(source, source[0], settings)


def fit(points: dict[int, float]) -> float:
    """The exponent of a power law through the points, by least squares on logarithms."""
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in points.items()))
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / sum((x - mx) ** 2 for x in xs)


def peak_mib(frames: int, size: int) -> float:
    """Peak memory of a process that makes one such run."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", str(frames), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return float(done.stdout.split()[-1])


def measure(frames, sizes, rounds: int, memory: bool = True) -> dict:
    """Seconds and peak memory at every point, and the exponents."""
    model = GenProp.from_files("mini")
    runs = {("frames", n): runner(model, n, 128) for n in frames} | {
        ("pixels", s * s): runner(model, WINDOW, s) for s in sizes
    }
    seconds = medians(interleave(runs, rounds, clock()))
    by = {kind: {x: v for (k, x), v in seconds.items() if k == kind} for kind in ("frames", "pixels")}
    longer = dict(list(by["frames"].items())[1:])
    peaks = {}
    if memory:
        peaks = {"frames": {n: peak_mib(n, 128) for n in frames}, "pixels": {s * s: peak_mib(WINDOW, s) for s in sizes}}
    return facts(model) | {
        "steps": STEPS,
        "window": WINDOW,
        "rounds": rounds,
        "seconds_by": by,
        "peak_mib_by": peaks,
        "ratios": {"exponent_frames": fit(longer), "exponent_pixels": fit(by["pixels"])},
    }


def main(argv=None) -> int:
    arguments = parser("scaling", __doc__)
    arguments.add_argument("--one", type=int, nargs=2, metavar=("FRAMES", "SIZE"), help="one run, for its peak memory")
    given = arguments.parse_args(argv)
    if given.one:
        runner(GenProp.from_files("mini"), *given.one)()
        print(peak_memory() / 2**20)
        return 0
    frames, sizes = (QUICK_FRAMES, QUICK_SIZES) if given.quick else (FRAMES, SIZES)
    report = measure(frames, sizes, 1 if given.quick else given.rounds, not given.quick)
    for kind, points in report["seconds_by"].items():
        for x, value in points.items():
            peak = report["peak_mib_by"].get(kind, {}).get(x)
            print(f"{x:8} {kind:8} {value:9.3f} s" + ("" if peak is None else f" {peak:9.0f} MiB"))
    return show(report, given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
