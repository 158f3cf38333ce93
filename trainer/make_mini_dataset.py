"""Writes the mini's generated clips as a data folder for `trainer/train.py` (lossless mp4).

    python -m trainer.make_mini_dataset --out DIR --pairs 2000 [--first_seed 0]

Held-out clips for validation have seeds from 1000000000 on.
"""

import argparse
from pathlib import Path

from genprop_core.video_io import write_video

from .dataset import FOLDERS
from .logs import Live
from .mini.clips import FRAMES, make_clip
from .validation import to_bytes


def write_pair(folder, name: str, clip, fps=8):
    """One `trainer.mini.clips.Clip` as three videos; the source comes last, so that a listing shows whole triples."""
    for part in ("mask", "target", "source"):
        path = Path(folder) / FOLDERS[part] / f"{name}.mp4"
        if not path.exists():
            write_video(path, to_bytes(getattr(clip, part)), fps, lossless=True)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.make_mini_dataset", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="data folder to write; clips that are there are kept")
    parser.add_argument("--pairs", type=int, default=2000, help="how many clips (default: %(default)s)")
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first clip (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of each clip (default: %(default)s)")
    args = parser.parse_args(argv)
    progress = Live().counter("clips")
    for done, seed in enumerate(range(args.first_seed, args.first_seed + args.pairs), 1):
        write_pair(args.out, f"clip_{seed:010d}", make_clip(seed, args.frames))
        progress(done, args.pairs)


if __name__ == "__main__":
    main()
