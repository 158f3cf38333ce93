"""Time and memory of clips of 200 and 400 frames on the mini: `python -m benchmarks.long_clips --json FILE`.

Each length is a process of its own, in every round. Memory is the highest the process had, without the bytes of the
frames themselves (source, what was made, result and mask), against a clip of three windows; time is the processor's, so
that other programs do not count. Linux and macOS.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from genprop_core.long_clip import ClipSettings
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .common import facts, medians, parser, peak_memory, show
from .timing import ratio

LENGTHS = (20, 200, 400)  # three windows of 8 frames that share 2, and the two that are to be compared
QUICK_LENGTHS = (20, 26, 32)
SIZE = 128


def scene(frames: int) -> torch.Tensor:
    """uint8 [T,3,H,W]: a disc that goes round on a plain ground."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    out = torch.empty(frames, 3, SIZE, SIZE, dtype=torch.uint8)
    for t, frame in enumerate(out):
        angle = torch.tensor(t / 20)
        disc = (x - 64 - 30 * angle.cos()) ** 2 + (y - 64 - 30 * angle.sin()) ** 2 < 16**2
        frame.copy_(torch.where(disc, torch.tensor([220, 60, 40]).view(3, 1, 1), 110))
    return out


def one(frames: int, steps: int) -> dict:
    """Makes a clip of this length in this process; {"seconds", "peak", "frames_bytes"}."""
    model = GenProp.from_files("mini")
    source = scene(frames)
    as_the_command = ClipSettings(composite=True, clean_plate=True)
    settings = PropagateSettings(sampler=SamplerSettings(steps=steps), clip=as_the_command)
    started = time.process_time()
    result = model.propagate_clip(source, {0: torch.full((3, SIZE, SIZE), 110, dtype=torch.uint8)}, settings)
    seconds = time.process_time() - started
    held = [source, result.generated, result.frames, result.mask]
    return {
        "frames": frames,
        "windows": len(result.windows),
        "seconds": seconds,
        "peak": peak_memory(),
        "frames_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
    }


def apart(frames: int, steps: int) -> dict:
    """`one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.long_clips", "--one", str(frames), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(lengths: tuple[int, int, int], steps: int, rounds: int) -> dict:
    """Medians over the rounds for every length, and the ratios, round by round: seconds a frame of the longest clip
    over the middle one's, and memory beside the frames of both over the shortest's."""
    made = {frames: [] for frames in lengths}
    for _ in range(rounds):
        for frames, rows in made.items():
            rows.append(apart(frames, steps))
    shortest, middle, longest = lengths
    a_frame = {frames: [row["seconds"] / frames for row in rows] for frames, rows in made.items()}
    beside = {frames: [row["peak"] - row["frames_bytes"] for row in rows] for frames, rows in made.items()}
    return facts() | {
        "clock": "processor time",
        "steps": steps,
        "rounds": rounds,
        "rows": [
            {
                "frames": frames,
                "windows": rows[0]["windows"],
                "peak_mib": statistics.median(row["peak"] for row in rows) / 2**20,
                "frames_mib": rows[0]["frames_bytes"] / 2**20,
            }
            for frames, rows in made.items()
        ],
        "seconds": medians({f"{frames} frames": [row["seconds"] for row in rows] for frames, rows in made.items()}),
        "ratios": {
            "seconds_per_frame_longest_over_middle": ratio(a_frame, longest, middle),
            "memory_middle_over_shortest": ratio(beside, middle, shortest),
            "memory_longest_over_shortest": ratio(beside, longest, shortest),
        },
    }


def main(argv=None) -> int:
    arguments = parser("long_clips", __doc__, rounds=3)
    arguments.add_argument("--steps", type=int, default=4, help="denoising steps (default: %(default)s)")
    arguments.add_argument("--one", type=int, metavar="FRAMES", help="one run, for its peak memory")
    given = arguments.parse_args(argv)
    if given.one:
        print(json.dumps(one(given.one, given.steps)))
        return 0
    report = measure(QUICK_LENGTHS, 1, 1) if given.quick else measure(LENGTHS, given.steps, given.rounds)
    for row in report["rows"]:
        print(f"{row['frames']:4} frames, {row['windows']:3} windows {row['peak_mib']:9.0f} MiB, of them "
              f"{row['frames_mib']:.0f} MiB frames")  # fmt: skip
    return show(report, given.json, given.quick)


if __name__ == "__main__":
    sys.exit(main())
