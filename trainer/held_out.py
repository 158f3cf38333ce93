"""Clips that are kept from training: which were moved away, and that none is trained on and validated on."""

from pathlib import Path

from genprop_core.errors import GenPropError
from genprop_core.files import atomic
from genprop_core.images import image_files

from .dataset import Triple
from .latent_cache import content_digest

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
    """Raises GenPropError for clips whose source both folders hold, under whatever name: they would be no measure of
    anything."""
    sizes = {_bytes(t.source) for t in train} & {_bytes(t.source) for t in val}  # most need not be read for that
    there = {content_digest(t.source): t.name for t in val if _bytes(t.source) in sizes}
    both = [(t.name, there.get(content_digest(t.source))) for t in train if _bytes(t.source) in sizes]
    same = [name if name == other else f"{name} ({other} there)" for name, other in both if other is not None]
    if same:
        raise GenPropError(
            f"Expected other clips to validate on than to train on, but {len(same)} are the same in both folders: "
            f"{', '.join(same[:5])}{', ...' if len(same) > 5 else ''}. Remove them from one of the folders, or leave "
            "validation out by --val_interval 0."
        )


def _bytes(path: Path) -> int:
    """The size of a video, or of a folder's pictures."""
    return sum(p.stat().st_size for p in (image_files(path) if path.is_dir() else [path]))
