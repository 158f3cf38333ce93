"""Clips that are kept from training: which were moved away, and that none is trained on and validated on."""

import filecmp
from pathlib import Path

from genprop_core.errors import GenPropError
from genprop_core.files import atomic

from .dataset import Triple

LIST = "held_out.txt"  # in a training folder: the names of the clips that were moved out of it


def held_out(folder) -> set[str]:
    """The names of the clips that were moved from a data folder, and are not to be made again."""
    path = Path(folder) / LIST
    return set(path.read_text(encoding="utf-8").split("\n")) - {""} if path.is_file() else set()


def note_held_out(folder, names) -> None:
    """Adds names to those."""
    with atomic(Path(folder) / LIST) as temporary:
        temporary.write_text("\n".join(sorted(held_out(folder) | set(names))) + "\n", encoding="utf-8")


def check_held_out(train: list[Triple], val: list[Triple]) -> None:
    """Raises GenPropError for clips that both folders hold under one name: they would be no measure of anything."""
    there = {t.name: t.source for t in val}
    same = [t.name for t in train if t.name in there and _equal(t.source, there[t.name])]
    if same:
        raise GenPropError(
            f"Expected other clips to validate on than to train on, but {len(same)} are the same in both folders: "
            f"{', '.join(same[:5])}{', ...' if len(same) > 5 else ''}. Remove them from one of the folders, or leave "
            "validation out by --val_interval 0."
        )


def _equal(one: Path, other: Path) -> bool:
    """Whether two videos, or folders of pictures, are the same bytes."""
    if one.is_dir() and other.is_dir():
        names = [sorted(p.name for p in folder.iterdir()) for folder in (one, other)]
        return names[0] == names[1] and not any(filecmp.cmpfiles(one, other, names[0], shallow=False)[1:])
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
