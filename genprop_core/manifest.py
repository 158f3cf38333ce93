"""`propagate --manifest FILE`: many clips, each row once, over as many processes as were started.

A row names a clip's source and keyframes and may set any other option of a clip by its name on the command line, as in

    source,keyframe,seed            {"source": "a.mp4", "keyframe": ["0:a0.png", "40:a40.png"], "seed": 3}
    a.mp4,0:a0.png;40:a40.png,3

Paths are relative to the manifest; `out` is relative to --out and by default the source's name, with -2, -3 and so on
where rows before have taken it: rows that are added at the end leave the others their folders. A row is finished when
the metrics.json in its folder was written for the same row: then it is skipped.
"""

import argparse
import copy
import csv
import hashlib
import io
import itertools
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import GenPropError, Parser

log = logging.getLogger(__name__)
PATHS = ("source", "mask", "truth", "truth_mask")  # options that name what a clip is made from, beside its keyframes
FILES = (*PATHS, "base", "adapters", "vae")
OF_THE_RUN = ("manifest", "base", "adapters", "vae", "dtype", "device", "offload", "command")  # the same for every row
NOT_THE_RESULT = ("out", "manifest", "device", "offload", "command")  # two runs that differ here make the same clip
ERROR = "error.txt"
NUMBERS = (  # where Accelerate itself looks, whatever started the processes: rank, number of them, rank on the machine
    ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)


@dataclass(frozen=True)
class Row:
    """number: counted from 1, as in the file; arguments: those of `propagate` for the clip; digest: of what it asks."""

    number: int
    arguments: argparse.Namespace
    digest: str

    @property
    def finished(self) -> bool:
        """Whether this very row has been done."""
        try:
            metrics = json.loads((self.arguments.out / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        whole = (self.arguments.out / "result.mp4").is_file()
        return whole and isinstance(metrics, dict) and metrics.get("row") == self.digest


def read_manifest(arguments) -> list[Row]:
    """All rows of arguments.manifest. Raises GenPropError for a file that is none, an option that is none, and two rows
    that would write to one folder; what is wrong with a clip's own files shows when it is its turn."""
    path = arguments.manifest
    if arguments.out is None or arguments.source is not None or arguments.keyframe:
        raise GenPropError("Expected --manifest with --out and without --source and --keyframe: those are in its rows.")
    given = _rows(path)
    if not given:
        raise GenPropError(f"Expected at least one row in {path}, got none.")
    rows, taken, counts = [], {}, {}
    for number, values in enumerate(given, 1):
        try:
            own = _arguments(values, arguments, path.parent)
        except GenPropError as error:
            raise GenPropError(f"Row {number} of {path}: {error}") from None
        name = values.get("out")
        if not name:
            name = stem = Path(str(values.get("source", ""))).stem
            count = counts.setdefault(stem.casefold(), itertools.count(2))
            while _folder(arguments.out / name) in taken:
                name = f"{stem}-{next(count)}"
        own.out = arguments.out / str(name)
        folder = _folder(own.out)
        if folder in taken:
            raise GenPropError(
                f"Expected a folder of its own for every row of {path}, but rows {taken[folder]} and {number} both "
                f"write to {own.out}. Give one of them another out."
            )
        taken[folder] = number
        rows.append(Row(number, own, _digest(own)))
    return rows


def _folder(path: Path) -> str:
    return os.path.normpath(path).casefold()  # to many a disk, Clip and clip are one


def _rows(path: Path) -> list[dict]:
    """The rows as dicts without empty values."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GenPropError(f"Expected a manifest at {path}, but it cannot be read ({error}).") from None
    kind = path.suffix.lower()
    if kind == ".csv":
        rows = list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True))
        if any(None in row for row in rows):
            number = next(n for n, row in enumerate(rows, 1) if None in row)
            raise GenPropError(f"Row {number} of {path} has more values than there are columns.")
    elif kind == ".jsonl":
        rows = []
        for number, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise GenPropError(f"Row {number} of {path} is no JSON ({error}).") from None
            if not isinstance(rows[-1], dict):
                raise GenPropError(f"Row {number} of {path}: expected an object of options, got {rows[-1]!r}.")
    else:
        raise GenPropError(f"Expected a manifest ending in .csv or .jsonl, got {path}.")
    return [{k.strip(): v for k, v in row.items() if v not in (None, "", [])} for row in rows]


def _arguments(values: dict, common, folder: Path):
    """The common arguments with a row's own values, checked as on the command line."""
    from .cli import clip_options

    parser = clip_options(Parser(prog="row", add_help=False))
    known = {action.dest for action in parser._actions} - set(OF_THE_RUN)
    own, argv = copy.copy(common), []
    own.keyframe = None
    for name, value in values.items():
        option = {"keyframes": "keyframe"}.get(name, name).replace("-", "_")
        if option not in known:
            raise GenPropError(f"{name} is no option of a clip. Use one of {', '.join(sorted(known))}.")
        if option == "out":
            continue
        if option == "keyframe":
            argv += [part for text in _keyframes(value, folder) for part in ("--keyframe", text)]
        else:
            value = folder / str(value) if option in PATHS else value
            argv.append(f"--{option.replace('_', '-')}={value}")
    return parser.parse_args(argv, namespace=own)


def _keyframes(value, folder: Path) -> list[str]:
    """["INDEX:PATH"] of "a.png", "0:a.png;40:b.png", ["0:a.png"] or {"0": "a.png"}."""
    from .clip_files import keyframe_paths

    if isinstance(value, dict):
        value = [f"{index}:{path}" for index, path in value.items()]
    texts = value if isinstance(value, list) else str(value).split(";")
    return [f"{index}:{folder / path}" for index, path in keyframe_paths([str(t).strip() for t in texts])]


def _digest(arguments) -> str:
    """Of a row's settings, and of the sizes and times of the files that they name, or that are in folders that they
    name: one that was changed is another. How a path is spelled makes no difference."""
    from .clip_files import keyframe_paths

    kept = {k: v for k, v in sorted(vars(arguments).items()) if k not in NOT_THE_RESULT}
    named = {name: Path(kept[name]) for name in FILES if kept.get(name)}
    keyframes = keyframe_paths(arguments.keyframe)
    kept |= {name: path.resolve() for name, path in named.items() if path.exists()}  # a base may be a mere name
    kept["keyframe"] = [f"{index}:{path.resolve()}" for index, path in keyframes]
    found = [(path, name in PATHS) for name, path in named.items()] + [(path, True) for _, path in keyframes]
    kept["files"] = [_state(path, "*" if of_the_clip else "**/*") for path, of_the_clip in found]
    return hashlib.sha256(json.dumps(kept, default=str).encode()).hexdigest()[:16]


def _state(path: Path, within: str):
    """What changes when a file, or one that is in a folder, does; None where there is neither. within: which files of a
    folder; those of a clip's own lie in it, and the results may lie deeper."""
    if path.is_dir():
        files = sorted(file for file in path.glob(within) if file.is_file())
        return [(file.relative_to(path).as_posix(), *_state(file, within)) for file in files]
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None


def this_process() -> tuple[int, int, object]:
    """(index, number of processes, device or None) as `accelerate launch`, torchrun or mpirun started us; alone,
    (0, 1, None). The rows need no word between processes, so none of them waits for another.

    Raises GenPropError where the environment names a number of processes but not which of them this is.
    """
    from accelerate.utils import get_int_from_env

    index, count, local = (get_int_from_env(names, default) for names, default in zip(NUMBERS, (-1, 1, 0)))
    if count <= 1:
        return 0, 1, None
    if not 0 <= index < count:
        raise GenPropError(
            f"Expected the number of this process, 0 to {count - 1}, in one of {', '.join(NUMBERS[0])}, got "
            f"{'none' if index < 0 else index}. Start it by accelerate launch, or unset {', '.join(NUMBERS[1])}."
        )
    from .device import own_accelerator

    return index, count, own_accelerator(local)


def run_manifest(arguments, say=print) -> int:
    """Does this process's rows; returns 0, or 1 when some failed. Their reasons are said, and in error.txt.

    Of several processes it is always 0: `accelerate launch` stops all of them as soon as one ends otherwise.
    """
    from .device import chosen_device
    from .propagate import check_writable, checked, load_model, propagate_files

    rows, (index, count, device) = read_manifest(arguments), this_process()
    check_writable(arguments.out)
    mine = rows[index::count]
    todo = []
    for row in mine:
        if row.finished:
            with suppress(OSError):
                (row.arguments.out / ERROR).unlink(missing_ok=True)  # of a run that asked for something else
        else:
            todo.append(row)
    model = load_model(arguments, chosen_device(arguments.device, device)) if todo else None
    failed = []
    for row in todo:
        label = f"row {row.number} ({row.arguments.source})"
        try:
            settings, files = checked(row.arguments)
            propagate_files(
                model, files, settings, row.arguments, label, lambda text, n=label: say(f"{n}: {text}"),
                {"row": row.digest},
            )  # fmt: skip
            (row.arguments.out / ERROR).unlink(missing_ok=True)
        except Exception as error:  # whatever it is, the other clips are not to suffer
            if not isinstance(error, GenPropError):
                log.exception("%s failed", label)
            failed.append((label, str(error).splitlines()[0] if str(error) else type(error).__name__))
            _note(row.arguments.out, failed[-1][1])
            say(f"{label}: failed: {failed[-1][1]}")
    part = f"process {index} of {count}: " if count > 1 else ""
    say(f"{part}{len(todo) - len(failed)} done, {len(mine) - len(todo)} were done already, {len(failed)} failed")
    for label, reason in failed:
        say(f"failed: {label}: {reason}")
    return 1 if failed and count == 1 else 0


def _note(folder: Path, reason: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text(reason + "\n", encoding="utf-8")
    except OSError:
        log.warning("cannot write to %s", folder)
