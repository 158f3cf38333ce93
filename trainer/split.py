"""Moves clips from a training folder to a validation folder, whole triples only.

    python trainer/split.py --num_samples 20 --train_dir DIR --val_dir DIR [--seed 42] [--dry_run]

A file that notes what is being moved is written first, in both folders, and removed last: a run that was killed is
finished by the next one, and until then neither folder is trained on. Running it again with the same seed moves nothing
more.
"""

import argparse
import json
import os
import random
import shutil
import sys
import uuid
from pathlib import Path

if __name__ == "__main__":  # run by its path: the repository's root is not on sys.path then
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from genprop_core.errors import GenPropError, exit_code
from genprop_core.files import write_json
from trainer.dataset import FOLDERS, SPLIT_NOTE, find_triples, list_clips, name_of, read_rows, write_rows
from trainer.held_out import note_held_out


def choose(names: list[str], count: int, seed: int) -> list[str]:
    """`count` of the names, by seed; the same ones whatever the order they come in."""
    return sorted(random.Random(seed).sample(sorted(names), count))


def move_file(source: Path, target: Path):
    """Moves a file or folder, also to another disk; the target is whole or absent, and the source goes last."""
    if not source.exists() or target.exists():
        if source.exists():  # copied to another disk, then killed before the source was removed
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError:
        copy = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        os.replace(copy, target)
        shutil.rmtree(source) if source.is_dir() else source.unlink()


def finish(note: Path):
    """Does what the validation folder's note says, and removes both. Every step may be repeated."""
    plan = json.loads(note.read_text(encoding="utf-8"))
    for source, target in plan["files"]:
        move_file(Path(source), Path(target))
    _move_tasks(Path(plan["train"]), Path(plan["val"]), set(plan["names"]))
    note_held_out(plan["train"], plan["names"])
    (Path(plan["train"]) / SPLIT_NOTE).unlink(missing_ok=True)
    note.unlink()


def _move_tasks(train: Path, val: Path, names: set[str]):
    """The rows of tasks.csv follow their clips: first added there, then removed here."""
    rows, there = read_rows(train / "tasks.csv"), read_rows(val / "tasks.csv")
    moved = [r for r in rows if name_of(r) in names]
    known = {name_of(r) for r in there}
    if moved:
        write_rows(val / "tasks.csv", there + [r for r in moved if name_of(r) not in known])
        write_rows(train / "tasks.csv", [r for r in rows if r not in moved])


def split(train_dir, val_dir, num_samples: int, seed: int, dry_run=False) -> list[str]:
    """Moves clips until `num_samples` are in val_dir; returns the names (to be) moved.

    Raises GenPropError when the training folder has unequal file sets or too few clips, when clips of it are on the way
    to another folder, or when val_dir holds a file of theirs already: nothing is moved onto another.
    """
    train, val = Path(train_dir).resolve(), Path(val_dir).resolve()
    if train == val:
        raise GenPropError(f"Expected two folders, got {train} for both. Choose another --val_dir.")
    note = val / SPLIT_NOTE
    if note.exists() and not dry_run:
        finish(note)
    triples = {t.name: t for t in find_triples(train)}
    held = {sub: set(list_clips(val / sub)) if (val / sub).is_dir() else set() for sub in FOLDERS.values()}
    there = held[FOLDERS["source"]]
    twice = sorted(set().union(*held.values()) & triples.keys())
    if twice:
        raise GenPropError(f"{train} and {val} both hold {', '.join(twice)}. Rename or remove one of each.")
    wanted = num_samples - len(there)
    if wanted <= 0:
        return []
    if wanted >= len(triples):
        raise GenPropError(
            f"Expected fewer samples than clips: {train} has {len(triples)}, {wanted} are to be moved. "
            "Lower --num_samples; at least one clip must stay to train on."
        )
    names = choose(list(triples), wanted, seed)
    parts = [
        (path, val / folder / path.name) for n in names for folder, path in zip(FOLDERS.values(), triples[n].paths)
    ]
    if taken := [str(target) for _, target in parts if target.exists()]:  # also what is no clip, an empty folder say
        raise GenPropError(f"Expected nothing yet where clips are moved to, got {', '.join(taken)}. Remove it.")
    if dry_run:
        return names
    plan = {"train": str(train), "val": str(val), "names": names, "files": [[str(a), str(b)] for a, b in parts]}
    write_json(note, plan)
    write_json(train / SPLIT_NOTE, plan)
    finish(note)
    return names


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="trainer/split.py", description=__doc__.splitlines()[0])
    parser.add_argument("--num_samples", type=int, required=True, help="clips that --val_dir shall have in the end")
    parser.add_argument("--train_dir", required=True, help="folder with original_videos/, edited_videos/, masks/")
    parser.add_argument("--val_dir", required=True, help="folder to move to; made where it is missing")
    parser.add_argument("--seed", type=int, default=42, help="of the choice (default: %(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be moved")
    args = parser.parse_args(argv)

    def body():
        names = split(args.train_dir, args.val_dir, args.num_samples, args.seed, args.dry_run)
        print(f"{'would move' if args.dry_run else 'moved'} {len(names)} clips to {args.val_dir}", *names, sep="\n  ")

    return exit_code(body, "the same command finishes what it began")


if __name__ == "__main__":
    sys.exit(main())
