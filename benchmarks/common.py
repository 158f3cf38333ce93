"""What the benchmarks share: the mini with its sample clip, counted FLOPs, facts about the machine, the report."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genprop_core import machine
from genprop_core.assets import SAMPLE
from genprop_core.device import accelerator
from genprop_core.files import write_json
from genprop_core.pipeline import GenProp, as_float
from genprop_core.video_io import read_image, read_video


def sample_clip() -> tuple[torch.Tensor, torch.Tensor]:
    """The bundled source [T,3,H,W] and keyframe [3,H,W], float in [0,1]."""
    source = as_float(read_video(SAMPLE / "source.mp4").frames.movedim(-1, 1))
    return source, as_float(read_image(SAMPLE / "keyframe.png").movedim(-1, 0))


def clock():
    """The processor's time where one thread does the work, which other programs do not disturb; else the wall's."""
    alone = torch.get_num_threads() == 1 and accelerator() is None
    return time.process_time if alone else time.perf_counter


def flops(function) -> int:
    """Floating-point operations of one call. Attention is taken apart, since the CPU's own kernel is not counted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        function()
    return counter.get_total_flops()


def flops_of_steps(run, steps: int) -> float:
    """FLOPs of run(steps), from those of 1 and 2 steps: every further step costs the same."""
    one, two = flops(lambda: run(1)), flops(lambda: run(2))
    return one + (steps - 1) * (two - one)


def facts(model: GenProp | None = None) -> dict:
    """Machine, versions, date and clock, with the checkpoint of the model's adapters, for every report."""
    out = machine.facts() | {"clock": "processor time" if clock() is time.process_time else "wall clock"}
    return out if model is None or model.file is None else out | {"checkpoint": model.file.digest}


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory() -> int:
    """The most memory this process has had, in bytes. Linux and macOS.

    Not by getrusage on Linux: there a process begins with the peak of the one that started it.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource  # not on Windows, where all but the memory can be measured

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def parser(name: str, doc: str, rounds: int = 5) -> argparse.ArgumentParser:
    """--rounds, --quick and --json, which every benchmark has."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help="counted rounds; medians are taken (default: "
                      "%(default)s)")  # fmt: skip
    made.add_argument("--quick", action="store_true", help="small and rough: to see that it runs")
    made.add_argument("--json", type=Path)
    return made


def show(report: dict, path: Path | None, quick: bool = False) -> int:
    """Prints seconds and ratios (with what counted FLOPs predict), writes the JSON; 0, the exit code."""
    report = report | ({"quick": True} if quick else {})
    for name, value in report.get("seconds", {}).items():
        print(f"{name:28} {value:9.4f} s")
    for name, value in report["ratios"].items():
        predicted = report.get("predicted", {}).get(name)
        beside = "" if predicted is None else f"   FLOPs predict {predicted:.3f}"
        print(f"{name:28} {value:9.3f}{beside}")
    if path:
        write_json(path, report)
    return 0
