"""What the latent cache is worth: the trainer's steps per second with it, and with the clips encoded in the loop.

    python -m benchmarks.latent_cache [--base mini] [--steps 4] [--json FILE]

Trains on generated clips twice in one process, with one thread, the same seeds and settings: once from cached latents
(filled before the clock starts), once with `--cache_dir none`.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from genprop_core.errors import GenPropError
from genprop_core.files import write_json
from trainer.logs import read_log
from trainer.make_mini_dataset import write_pair
from trainer.mini.clips import make_clip

from .common import facts

CLIPS, SIZE, FRAMES = 2, 128, 8


def train(folder: Path, base: str, steps: int, cache: str) -> list[dict]:
    """The log rows of a short run."""
    from trainer import arguments
    from trainer.train import run

    out = folder / f"run_{Path(cache).name}"
    settings = {
        "train_data_dir": folder / "clips", "val_data_dir": folder / "clips", "output_dir": out, "val_out_dir": out,
        "base": base, "num_frames": FRAMES, "resolution": SIZE, "gradient_accumulation_steps": 1, "max_steps": steps,
        "val_interval": 0, "num_workers": 0, "tracker": "none", "cache_dir": cache,
    }  # fmt: skip
    run(arguments.parse([f"--{name}={value}" for name, value in settings.items()]))
    return read_log(out / "log.jsonl")


def measure(base: str = "mini", steps: int = 4) -> dict:
    """Facts, median steps per second of both ways, their ratio, and the largest relative difference of L_total.

    The first step of a run warms up and is not timed. steps: at least 2.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="genprop_cache_") as made:
            folder = Path(made)
            for seed in range(CLIPS):
                write_pair(folder / "clips", f"clip{seed}", make_clip(seed, FRAMES))
            rows = {name: train(folder, base, steps, cache)
                    for name, cache in (("cached", str(folder / "cache")), ("encoded", "none"))}  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    rates = {name: statistics.median(r["clips_per_second"] for r in log[1:]) for name, log in rows.items()}
    losses = [(a["L_total"], b["L_total"]) for a, b in zip(rows["cached"], rows["encoded"], strict=True)]
    return facts() | {
        "threads": 1,
        "clock": "wall clock",  # of the trainer's log
        "base": base,
        "steps": steps,
        "steps_per_second": rates,
        "difference": max(abs(a / b - 1) for a, b in losses),
        "ratios": {"cached_over_encoded": rates["cached"] / rates["encoded"]},
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_cache", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini", help="mini, or another base's file or folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of each run, at least 2 (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args(argv)
    try:
        found = measure(arguments.base, max(2, arguments.steps))
    except GenPropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{FRAMES} frames of {SIZE}x{SIZE}, batch 1, one thread, {arguments.base}:")
    rates, ratio = found["steps_per_second"], found["ratios"]["cached_over_encoded"]
    print(f"cached {rates['cached']:.2f} steps/s, encoded in the loop {rates['encoded']:.2f} steps/s: "
          f"{ratio:.1f} times as many; losses differ by at most {found['difference']:.1e}")  # fmt: skip
    if arguments.json:
        write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
