"""Time and memory of clips of 200 and 400 frames on the mini: `python -m benchmarks.long_clips --json FILE`.

Each length is a process of its own. Memory is the highest the process had, without the bytes of the frames themselves
(source, what was made, result and mask), against a clip of three windows; time is the processor's, so that other
programs do not count. Linux and macOS.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from genprop_core.files import write_json
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

LENGTHS = (20, 200, 400)  # three windows of 8 frames that share 2, and the two that are to be compared
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
    import resource

    model = GenProp.from_files("mini")
    source = scene(frames)
    settings = PropagateSettings(sampler=SamplerSettings(steps=steps))
    started = time.process_time()
    result = model.propagate_clip(source, {0: torch.full((3, SIZE, SIZE), 110, dtype=torch.uint8)}, settings)
    seconds = time.process_time() - started
    unit = 1 if sys.platform == "darwin" else 1024
    held = [source, result.generated, result.frames, result.mask]
    return {
        "frames": frames,
        "windows": len(result.windows),
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "frames_bytes": sum(tensor.numel() * tensor.element_size() for tensor in held),
    }


def run(steps: int) -> dict:
    """The rows of all lengths, and the two ratios: seconds per frame, and memory beside the frames."""
    rows = []
    for frames in LENGTHS:
        command = [sys.executable, "-m", "benchmarks.long_clips", "--one", str(frames), "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    three, short, long = rows
    beside = [row["peak"] - row["frames_bytes"] for row in rows]
    return {
        "steps": steps,
        "rows": rows,
        "seconds_per_frame_400_over_200": (long["seconds"] / long["frames"]) / (short["seconds"] / short["frames"]),
        "memory_beside_frames_200_over_three_windows": beside[1] / beside[0],
        "memory_beside_frames_400_over_three_windows": beside[2] / beside[0],
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_clips", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="denoising steps (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.steps)))
        return 0
    report = run(arguments.steps)
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
