"""Makes training pairs from videos with instance masks, by the paper's synthetic recipes.

    python trainer/make_pairs.py --videos DIR --out DIR --num_pairs 1000
    accelerate launch trainer/make_pairs.py ...      (many machines on one shared folder)

Copy-and-paste 0.5, mask-and-fill 0.375, color-fill 0.125. A pair depends on the seed, its number and the videos alone,
so the number of workers changes nothing, and a run that was stopped goes on where it was.
"""

import argparse
import json
import random
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

if __name__ == "__main__":  # run by its path: the repository's root is not on sys.path then
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

from genprop_core.errors import GenPropError, exit_code
from genprop_core.files import write_json
from genprop_core.video_io import write_video
from trainer.dataset import FOLDERS, name_of, read_column, read_rows, write_rows
from trainer.held_out import held_out
from trainer.instances import Clip, find_clips
from trainer.logs import Live
from trainer.recipes import COLOURS, Edit, Placement, color_fill, copy_and_paste, mask_and_fill
from trainer.samples import derive

SHARES = {"paste": 0.5, "fill": 0.375, "color": 0.125}
TASK = {"paste": "remove", "fill": "edit", "color": "track"}  # the task an edit stands for
TELEA_SHARE = 1 / 3  # of the fills; the rest take the mean colour
LIST_EVERY = 50  # pairs, so that little is unlisted after a kill
LEAST_AREA = 0.005  # of the picture, for an object to be worth an edit
ATTEMPTS = 30
NOTE = "make_pairs.json"  # in the folder of the pairs: the seed that they are of


@dataclass(frozen=True)
class PairSettings:
    """num_frames: of every pair; short_side: pixels, None keeps the clips' size; shadow: share of pasted objects."""

    seed: int
    num_frames: int
    short_side: int | None
    shadow: float


def recipe_of(index: int, seed: int) -> str:
    return random.Random(derive(seed, "recipe", index)).choices(list(SHARES), list(SHARES.values()))[0]


def pair_name(index: int, seed: int) -> str:
    return f"pair_{index:06d}_{recipe_of(index, seed)}"


def draw_object(clips: list[Clip], rng: random.Random, settings: PairSettings):
    """A clip with masks, its first frame, and one object's mask there: bool [T,H,W], large enough in every frame."""
    masked = [c for c in clips if c.mask is not None and c.frames >= settings.num_frames]
    for clip, start in _places(masked, rng, settings.num_frames):
        labels = clip.read_instances(start, start + settings.num_frames, settings.short_side)
        found = [int(v) for v in np.unique(labels[0]) if v]
        if not found:
            continue
        mask = labels == rng.choice(found)
        if mask.mean((1, 2)).min() >= LEAST_AREA and mask.mean((1, 2)).max() < 0.6:
            return clip, start, mask
    raise GenPropError(
        f"Found no object that covers {LEAST_AREA:.1%} of {settings.num_frames} frames in a row in any clip. "
        "Lower --num_frames, or give clips with larger objects."
    )


def _places(clips: list[Clip], rng: random.Random, frames: int):
    """(clip, first frame) to look for an object in: a few at random, then all clips from end to end, so that where
    objects are rare no pair is left without one."""
    for _ in range(ATTEMPTS):
        clip = rng.choice(clips)
        yield clip, rng.randint(0, clip.frames - frames)
    for clip in rng.sample(clips, len(clips)):
        yield from ((clip, start) for start in range(0, clip.frames - frames + 1, max(1, frames // 2)))


def make_pair(index: int, clips: list[Clip], settings: PairSettings) -> tuple[Edit, Clip]:
    """The pair of this number, and the clip that its target shows."""
    rng = random.Random(derive(settings.seed, "pair", index))
    recipe, count = recipe_of(index, settings.seed), settings.num_frames
    clip, start, mask = draw_object(clips, rng, settings)
    frames = clip.read(start, start + count, settings.short_side)
    if recipe == "fill":
        return mask_and_fill(frames, mask, "telea" if rng.random() < TELEA_SHARE else "mean"), clip
    if recipe == "color":
        colour = "red" if rng.random() < 0.5 else rng.choice(list(COLOURS))
        return color_fill(frames, mask, COLOURS[colour]), clip
    others = [c for c in clips if c.name != clip.name and c.frames >= count] or [clip]
    under = rng.choice(others)
    first = rng.randint(0, under.frames - count)
    place = Placement(
        rng.uniform(0.2, 0.6), (rng.uniform(0.25, 0.75), rng.uniform(0.35, 0.75)), rng.random() < 0.5,
        rng.uniform(0.3, 0.6) if rng.random() < settings.shadow else 0.0,
        (rng.uniform(-0.4, 0.4), rng.uniform(0.0, 0.2)),
    )  # fmt: skip
    return copy_and_paste(under.read(first, first + count, settings.short_side), frames, mask, place), under


def write_pair(index: int, clips: list[Clip], settings: PairSettings, out: Path):
    """Writes a pair's three videos, over those that a stopped run may have left: they may be of another drawing."""
    name = pair_name(index, settings.seed)
    edit, clip = make_pair(index, clips, settings)
    mask = np.repeat(edit.mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
    for part, frames in (("mask", mask), ("target", edit.target), ("source", edit.source)):
        write_video(out / FOLDERS[part] / f"{name}.mp4", frames, clip.fps, crf=8)


def is_done(index: int, seed: int, out: Path) -> bool:
    return all((out / folder / f"{pair_name(index, seed)}.mp4").exists() for folder in FOLDERS.values())


def finished(out: Path) -> list[str]:
    """The names of the pairs that are whole, whichever process or run made them."""
    parts = [{p.stem for recipe in TASK for p in (out / f).glob(f"pair_*_{recipe}.mp4")} for f in FOLDERS.values()]
    return sorted(set.intersection(*parts))


def write_tasks(out: Path):
    """Lists the finished pairs in tasks.csv, after the rows of other clips; without any nothing is written."""
    written, names, a_pair = [], finished(out), rf"pair_\d+_({'|'.join(TASK)})"
    while names != written:  # while this wrote, another process may have finished, and listed, more
        others = [row for row in read_rows(out / "tasks.csv") if not re.fullmatch(a_pair, name_of(row))]
        write_rows(out / "tasks.csv", others + [{"name": n, "task": TASK[n.rsplit("_", 1)[1]]} for n in names])
        written, names = names, finished(out)


def check_seed(out: Path, seed: int):
    """Notes the seed in the folder. Raises GenPropError where another is noted: a number has one pair in a folder."""
    if (out / NOTE).exists():
        found = json.loads((out / NOTE).read_text(encoding="utf-8"))["seed"]
        if found != seed:
            raise GenPropError(
                f"Expected a folder with pairs of --seed {seed} or none, but those in {out} are of {found}. "
                f"Give --seed {found}, or choose another --out."
            )
    else:
        write_json(out / NOTE, {"seed": seed})


def _make(missing: list[int], clips: list[Clip], settings: PairSettings, out: Path, workers: int):
    """Makes the pairs of these numbers, in this process or in `workers` others; yields after each."""
    if not workers:
        for index in missing:
            yield write_pair(index, clips, settings, out)
        return
    # spawn: OpenCV's and PyAV's threads do not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = [pool.submit(write_pair, i, clips, settings, out) for i in missing]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def make_pairs(videos, out, num_pairs: int, settings: PairSettings, workers=0, share=(0, 1), progress=None):
    """Makes the pairs 0..num_pairs that are not there yet, and were not moved away to be held out. share: (process,
    processes) of a distributed run.

    tasks.csv lists what is there, now and then and whatever ends the run. Raises GenPropError when the videos do not
    serve, when `out` has pairs of another seed, and when its tasks.csv cannot be read.
    """
    out, clips = Path(out), find_clips(videos)
    if not any(c.mask is not None and c.frames >= settings.num_frames for c in clips):
        longest = max(c.frames for c in clips if c.mask is not None)
        raise GenPropError(
            f"Expected clips with masks of at least {settings.num_frames} frames (--num_frames) in {videos}, "
            f"the longest has {longest}. Lower --num_frames."
        )
    check_seed(out, settings.seed)
    read_column(out / "tasks.csv", "task")  # before the first pair is made
    away = held_out(out)
    missing = [i for i in range(num_pairs)[share[0] :: share[1]] if not is_done(i, settings.seed, out)]
    missing = [i for i in missing if pair_name(i, settings.seed) not in away]
    try:
        with closing(_make(missing, clips, settings, out, workers)) as made:
            for done, _ in enumerate(made, 1):
                if progress is not None:
                    progress(done, len(missing))
                if done % LIST_EVERY == 0:
                    write_tasks(out)
    finally:
        write_tasks(out)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="trainer/make_pairs.py", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", required=True, help="JPEGImages/ + Annotations/, or NAME.mp4 + NAME_mask.mp4")
    parser.add_argument("--out", required=True, help="data folder to write, of one --seed; pairs and "
                        "other clips that are there are kept")  # fmt: skip
    parser.add_argument("--num_pairs", type=int, default=1000, help="pairs in all (default: %(default)s)")
    parser.add_argument("--num_frames", type=int, default=16, help="frames of every pair (default: %(default)s)")
    parser.add_argument("--short_side", type=int, default=576, help="pixels; 0 keeps the size (default: %(default)s)")
    parser.add_argument("--shadow", type=float, default=0.5, help="share of pasted objects with a soft shadow, 0 to 1")
    parser.add_argument("--num_workers", type=int, default=0, help="processes beside this one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the pairs; one for all in a folder (default: "
                        "%(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    settings = PairSettings(args.seed, args.num_frames, args.short_side or None, args.shadow)

    def body():
        from accelerate import PartialState

        state = PartialState()
        progress = Live(state.is_main_process).counter("pairs")
        share = (state.process_index, state.num_processes)
        make_pairs(args.videos, args.out, args.num_pairs, settings, args.num_workers, share, progress)

    return exit_code(body, "the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
