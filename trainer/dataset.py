"""Clips on disk: triples of source, edited video and mask, checked before anything is trained on them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from genprop_core.config import TASKS
from genprop_core.errors import GenPropError
from genprop_core.files import atomic
from genprop_core.images import image_files
from genprop_core.video_io import iter_video, probe

FOLDERS = {"source": "original_videos", "target": "edited_videos", "mask": "masks"}
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")
TOLERANCE = 64  # how far from 0 or 255 compression may move a mask's grey value
SPLIT_NOTE = ".split-in-progress.json"  # lies in both folders while trainer/split.py moves clips
GREY_SHARE = 0.15  # of a mask's pixels may lie farther away (its edges, blurred by compression)


@dataclass(frozen=True)
class Triple:
    """One clip: the source video, the edited video, the mask video, and the task its edit stands for."""

    name: str
    source: Path
    target: Path
    mask: Path
    task: str = TASKS[0]

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.source, self.target, self.mask


def list_clips(folder: Path) -> dict[str, Path]:
    """The clips of one folder by name: video files, and subfolders of images. Hidden files are left out."""
    if not folder.is_dir():
        raise GenPropError(
            f"Expected a folder {folder}, but there is none. A data folder holds {', '.join(FOLDERS.values())}."
        )
    clips = {}
    for path in sorted(folder.iterdir()):
        video = path.suffix.lower() in SUFFIXES and path.is_file()
        if path.name.startswith(".") or not (video or (path.is_dir() and image_files(path))):
            continue
        name = path.stem if video else path.name
        if name in clips:
            raise GenPropError(
                f"Expected one clip named {name} in {folder}, got {clips[name].name} and {path.name}. "
                "Remove or rename one."
            )
        clips[name] = path
    return clips


def find_triples(folder) -> list[Triple]:
    """The clips of a data folder in the order of their names.

    Raises GenPropError, listing every difference, when the three folders do not hold the same clips; and while clips
    are being moved out of the folder, or into it.
    """
    folder = Path(folder)
    if (folder / SPLIT_NOTE).exists():
        plan = json.loads((folder / SPLIT_NOTE).read_text(encoding="utf-8"))
        raise GenPropError(
            f"Expected the clips of {folder} at rest, but trainer/split.py is moving some of them or was stopped. "
            f"Run it again with --train_dir {plan['train']} --val_dir {plan['val']}: it finishes what it began."
        )
    found = {part: list_clips(folder / sub) for part, sub in FOLDERS.items()}
    names = sorted(set().union(*found.values()))
    lacking = [
        f"{FOLDERS[part]} lacks {', '.join(missing)}"
        for part, clips in found.items()
        if (missing := [n for n in names if n not in clips])
    ]
    if lacking:
        raise GenPropError(
            f"Expected the same clips in the three folders of {folder}, but {'; '.join(lacking)}. "
            "Add what is missing, or remove the rest of these clips."
        )
    if not names:
        raise GenPropError(
            f"Expected clips ({', '.join(SUFFIXES)}) in {folder / FOLDERS['source']}, but there are none."
        )
    tasks = read_tasks(folder / "tasks.csv", names)
    return [Triple(n, *(found[part][n] for part in FOLDERS), tasks.get(n, TASKS[0])) for n in names]


def read_column(path: Path, column: str) -> dict[str, str]:
    """{clip: text} of a table with the columns name and `column`; empty where there is no such file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"name", column} <= set(rows.fieldnames or ()):
            raise GenPropError(f"Expected the columns name and {column} in {path}, got {rows.fieldnames}.")
        return {name_of(row): (row[column] or "").strip() for row in rows}


def clip_name(text: str) -> str:
    """A clip's name, given as such or as its file's; a name may have dots of its own."""
    path = Path(text)
    return path.stem if path.suffix.lower() in SUFFIXES else text


def name_of(row: dict) -> str:
    """The clip of a row of such a table."""
    return clip_name(row["name"].strip())


def read_rows(path: Path) -> list[dict]:
    """The rows of tasks.csv with all their columns; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict]):
    """Writes tasks.csv anew, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        columns = dict.fromkeys(["name", "task"]) | dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_tasks(path: Path, names) -> dict[str, str]:
    """The tasks of tasks.csv (columns name, task); empty where there is no such file."""
    tasks = read_column(path, "task")
    unknown = sorted(set(tasks) - set(names))
    if unknown:
        raise GenPropError(f"{path} names clips that are not in the folders: {', '.join(unknown)}. Remove these rows.")
    wrong = sorted(f"{n}: {t or 'none'}" for n, t in tasks.items() if t not in TASKS)
    if wrong:
        raise GenPropError(f"Expected the tasks {', '.join(TASKS)} in {path}, got {', '.join(wrong)}.")
    return tasks


@dataclass(frozen=True)
class Facts:
    """What is known of a checked clip: frames, and the size in pixels that it is filmed in."""

    frames: int
    width: int
    height: int


def check_triple(triple: Triple, num_frames: int, setting: str = "--num_frames") -> Facts:
    """Decodes a clip once. Raises GenPropError when it is damaged, unequal in itself, too short, or has no mask."""
    info = {part: probe(path) for part, path in zip(FOLDERS, triple.paths)}
    source = info["source"]
    for part, path in zip(FOLDERS, triple.paths):
        if info[part].frames != source.frames:
            raise GenPropError(
                f"Expected {source.frames} frames in {path} like {triple.source}, got {info[part].frames}. "
                "Cut them to the same frames."
            )
        if (info[part].width, info[part].height) != (source.width, source.height):
            raise GenPropError(
                f"Expected {path} at {source.width}x{source.height} like {triple.source}, got "
                f"{info[part].width}x{info[part].height}. Export them at one size."
            )
    check_length(triple, source.frames, num_frames, setting)
    check_mask(triple.mask)
    return Facts(source.frames, source.width, source.height)


def check_length(triple: Triple, frames: int, num_frames: int, setting: str = "--num_frames"):
    if frames < num_frames:
        raise GenPropError(
            f"Expected at least {num_frames} frames ({setting}), but {triple.source} has {frames}. "
            f"Lower {setting}, or remove the clip."
        )


def check_mask(path: Path):
    """Raises GenPropError when a mask video is empty throughout, or is not black and white."""
    edited = grey = pixels = 0
    for frame in iter_video(path):
        value = frame.max(dim=-1).values  # [H,W,3] -> [H,W]
        edited += int((value >= 128).sum())
        grey += int(((value > TOLERANCE) & (value < 255 - TOLERANCE)).sum())
        pixels += value.numel()
    if not edited:
        raise GenPropError(
            f"Expected a mask of 0 and 255, but {path} is empty throughout (no pixel above 127). "
            "Mark the edited region with 255, or remove the clip."
        )
    if grey > GREY_SHARE * pixels:
        raise GenPropError(
            f"Expected a mask of 0 and 255, but {100 * grey / pixels:.0f}% of {path} is grey. "
            "Export it as black and white."
        )


def working_size(width: int, height: int, resolution: tuple[int, ...], multiple: int) -> tuple[int, int]:
    """(height, width) in pixels that a clip is trained at: --resolution's size, or its shorter side with the clip's
    aspect, the longer side rounded to `multiple`. Raises GenPropError when the base cannot take the size.
    """
    if any(v % multiple for v in resolution):
        given, near = (
            "x".join(str(v) for v in sides)
            for sides in (resolution, [max(1, round(v / multiple)) * multiple for v in resolution])
        )
        raise GenPropError(
            f"Expected a --resolution in multiples of {multiple} for this base, got {given}. Try {near}."
        )
    if len(resolution) == 2:
        return resolution[1], resolution[0]
    short = resolution[0]
    long = max(short, round(max(width, height) / min(width, height) * short / multiple) * multiple)
    return (short, long) if width >= height else (long, short)


def resize(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[N,C,H,W] -> [N,C,*size], the mean over each new pixel's area."""
    return frames if tuple(frames.shape[-2:]) == tuple(size) else F.interpolate(frames, size, mode="area")


def read_frames(path, size, start=0, stop=None, mask=False, least=2) -> Iterator[torch.Tensor]:
    """Yields frames start..stop of a clip as float32 [C,h,w] in [0,1] at `size` (height, width); a mask has C = 1.
    least: as in `iter_video`."""
    for frame in islice(iter_video(path, least), start, stop):
        image = frame.movedim(-1, 0)[None]  # [H,W,3] -> [1,3,H,W]
        # the mask is cut at half before it is made smaller: compression leaves no trace, edges become soft
        image = (image.amax(1, keepdim=True) >= 128).float() if mask else image.float() / 255
        yield resize(image, size)[0]


def read_window(triple: Triple, size, start=0, stop=None) -> dict[str, torch.Tensor]:
    """{"source", "target", "mask"}: [T,C,h,w] in [0,1], the same frames of all three."""
    return {
        part: torch.stack(list(read_frames(path, size, start, stop, part == "mask")))
        for part, path in zip(FOLDERS, triple.paths)
    }


def read_chunks(triple: Triple, size, chunk: int) -> Iterator[dict[str, torch.Tensor]]:
    """The whole clip in pieces of `chunk` frames, like `read_window`; memory does not grow with its length."""
    readers = [read_frames(path, size, mask=part == "mask") for part, path in zip(FOLDERS, triple.paths)]
    frames = zip(*readers, strict=True)
    while piece := list(islice(frames, chunk)):
        yield {part: torch.stack(column) for part, column in zip(FOLDERS, zip(*piece))}
