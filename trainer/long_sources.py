"""The long clips that are measured: the mini's held-out ones, or those of a data folder, film with a known truth."""

from dataclasses import dataclass, field

import torch

from genprop_core.config import TASKS
from genprop_core.errors import GenPropError
from genprop_core.frames import as_bytes
from genprop_core.shots import find_shots

from .evaluation_clips import DataFolder
from .mini.clips import FIRST_HELD_OUT_SEED, SIZE, make_clip

LARGE = 2 * SIZE  # of the frames in which the same shapes are a small edit
FIRST, ENDS, EVERY = "first frame", "both ends", "every window"  # which frames of a shot have a keyframe


@dataclass
class LongClip:
    """source, target: uint8 [T,3,H,W]; mask: 0 to 1 [T,1,H,W]; shots: [(start, stop)]; number: added to the noise's
    seed. notes: what was done to make the parts fit."""

    source: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    shots: list
    number: int
    task: str = TASKS[0]
    notes: list[str] = field(default_factory=list)

    def keyframes(self, window: int, overlap: int, which: str) -> dict[int, torch.Tensor]:
        """{index: true picture} of every shot; which: FIRST, ENDS or EVERY."""
        found = set()
        for start, stop in self.shots:
            own = {FIRST: [start], ENDS: [start, stop - 1], EVERY: range(start, stop, window - overlap)}
            found |= set(own[which])
        return {index: self.target[index] for index in sorted(found)}


class Generated:
    """Of the mini's generator, of seeds that no training has seen."""

    name = "held-out clips"

    def __init__(self, count: int, frames: int):
        self.frames, self.names = frames, [str(FIRST_HELD_OUT_SEED + i) for i in range(count)]

    def digest(self) -> list[str]:
        """Of what is not told by the names."""
        return []

    def draw(self, name: str, large: bool = False) -> LongClip:
        """large: in frames of twice the size."""
        clip = make_clip(int(name), self.frames, LARGE if large else SIZE)
        source, target = as_bytes(clip.source), as_bytes(clip.target)
        return LongClip(source, target, clip.mask, [(0, self.frames)], int(name))


class Filmed:
    """Of a data folder as for training; each needs its edited video and its masks. task: of the clips; None for any.

    Raises GenPropError for a folder without such clips, and on drawing one that lacks a part or is too short.
    """

    def __init__(self, folder, multiple: int, count: int, frames: int, least: int, task: str | None = None):
        self.clips, self.least = DataFolder(folder, None, multiple, frames), least
        tasks = {name: self.clips.tasks.get(name, TASKS[0]) for name in self.clips.names}
        self.names = [name for name, its in tasks.items() if task in (None, its)][:count]
        self.name = f"clips of {self.clips.folder.name}"
        if not self.names:
            raise GenPropError(
                f"Expected clips of the task {task} in {folder}, got {', '.join(sorted(set(tasks.values())))}. Give "
                "another --task, or leave it out."
            )

    def digest(self) -> list[str]:
        """Of the files and tasks: a clip that was mended under its name is another one."""
        return [self.clips.identity(self.clips.names.index(name)) for name in self.names]

    def draw(self, name: str, large: bool = False) -> LongClip:
        clip = self.clips[self.clips.names.index(name)]
        if clip.target is None or clip.mask is None or len(clip.source) < self.least:
            raise GenPropError(
                f"Expected an edited video and masks of {name} with at least {self.least} frames, got "
                f"{len(clip.source)} frames with {'no' if clip.target is None else 'an'} edited video and "
                f"{'no ' if clip.mask is None else ''}masks. Add them, or take the clip out of the folder."
            )
        source, number = as_bytes(clip.source), self.names.index(name)
        return LongClip(source, as_bytes(clip.target), clip.mask, find_shots(source), number, clip.task, clip.notes)
