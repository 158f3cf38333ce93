"""The clips that adapters are scored on: the mini's held-out ones, or those of a data folder as far as it goes."""

import hashlib
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from genprop_core.clip_input import MASK_TOLERANCE, check_aspect
from genprop_core.config import TASKS
from genprop_core.errors import GenPropError
from genprop_core.images import SUFFIXES, read_image
from genprop_core.video_io import probe

from .dataset import FOLDERS, list_clips, read_column, read_frames, read_tasks, resize, working_size
from .latent_cache import content_digest
from .mini.clips import FIRST_HELD_OUT_SEED, make_clip

KEYFRAMES = "keyframes"  # NAME.png: the edited first frame of a clip that has no edited video
PROMPTS = "prompts.csv"  # columns name, prompt: for CLIP-T


@dataclass
class EvalClip:
    """source: float32 [T,3,H,W] in [0,1]; target like it, or None; mask: 0 and 1 [T,1,H,W], or None; keyframe [3,H,W].

    seed: of the noise. notes: what was done to make the parts fit.
    """

    name: str
    source: torch.Tensor
    keyframe: torch.Tensor
    target: torch.Tensor | None
    mask: torch.Tensor | None
    seed: int
    task: str = TASKS[0]
    prompt: str | None = None
    notes: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Of its pictures: a clip that was mended under its name is another one."""
        found = hashlib.sha256()
        for part in (self.source, self.keyframe, self.target, self.mask):
            found.update(b"-" if part is None else repr(tuple(part.shape)).encode())
            if part is not None:
                found.update(part.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def eight_bit(frames: torch.Tensor) -> torch.Tensor:
    """As a video file would hold it."""
    return (frames * 255).round() / 255


class HeldOut:
    """The mini's generated clips that no training has seen. Clips are drawn when they are asked for."""

    def __init__(self, count: int):
        self.names = [str(FIRST_HELD_OUT_SEED + i) for i in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index: int) -> EvalClip:
        return self.draw(int(self.names[index]))

    def identity(self, index: int) -> str:
        """Of what a clip's scores depend on beside the settings."""
        return self.names[index]

    def other(self, index: int) -> torch.Tensor:
        """The source of another clip, for the control."""
        return self.draw(int(self.names[index]) + 500_000).source

    @staticmethod
    def draw(seed: int) -> EvalClip:
        clip = make_clip(seed)
        target = eight_bit(clip.target)
        return EvalClip(str(seed), eight_bit(clip.source), target[0], target, clip.mask, seed)


class DataFolder:
    """`original_videos/`, and as far as they are there `edited_videos/` (the truth), `masks/` and `keyframes/`.

    A clip needs an edited first frame: that of its edited video, or keyframes/NAME.png. Parts of unequal length are cut
    to the shortest, and to `frames` where that is given. A single frame is no such part: in edited_videos/ it is the
    keyframe, in masks/ it is left out. The clip's notes say so.
    """

    def __init__(self, folder, size: tuple[int, ...] | None, multiple: int, frames: int | None = None, count=None):
        """size: as the trainer's --resolution, None keeps the clips' own; multiple: of the base, in pixels.

        Raises GenPropError for a folder without clips, when none of them has an edited first frame, and for a size that
        the base cannot take.
        """
        if size is not None:  # what is wrong with every clip is told once, before the first
            working_size(1, 1, size, multiple)
        self.folder, self.size, self.multiple, self.frames = Path(folder), size, multiple, frames
        self.parts = {"source": list_clips(self.folder / FOLDERS["source"])}
        for part in ("target", "mask"):
            there = self.folder / FOLDERS[part]
            self.parts[part] = list_clips(there) if there.is_dir() else {}
        keys = self.folder / KEYFRAMES
        pictures = sorted(keys.iterdir()) if keys.is_dir() else []
        self.keyframes = {p.stem: p for p in pictures if p.suffix.lower() in SUFFIXES}
        names = sorted(self.parts["source"])
        self.without_keyframe = [n for n in names if n not in self.parts["target"] and n not in self.keyframes]
        self.names = [n for n in names if n not in self.without_keyframe][:count]
        if not self.names:
            raise GenPropError(
                f"Expected clips in {self.folder / FOLDERS['source']}, each with a video of its name in "
                f"{FOLDERS['target']}/ or an edited first frame {KEYFRAMES}/NAME.png, got "
                f"{len(names)} clips of which none has one. Add them."
            )
        self.tasks = read_tasks(self.folder / "tasks.csv", names)
        self.prompts = read_column(self.folder / PROMPTS, "prompt")

    def __len__(self):
        return len(self.names)

    def identity(self, index: int) -> str:
        """Of what a clip's scores depend on beside the settings: its files, place, task and prompt."""
        name = self.names[index]
        files = [*(clips[name] for clips in self.parts.values() if name in clips), self.keyframes.get(name)]
        digests = [content_digest(path) for path in files if path is not None]
        return "-".join([*digests, str(index), self.tasks.get(name, TASKS[0]), self.prompts.get(name, "")])

    def other(self, index: int) -> torch.Tensor | None:
        """The source of the next clip that can be read, for the control; None where there is no other."""
        for step in range(1, len(self)):
            try:
                return self[(index + step) % len(self)].source
            except GenPropError:  # that clip says so itself, when it is its turn
                continue
        return None

    def __getitem__(self, index: int) -> EvalClip:
        """Raises GenPropError for a clip that cannot be read, that has fewer than 2 frames, or whose parts have not the
        source's aspect."""
        name = self.names[index]
        paths = {part: clips[name] for part, clips in self.parts.items() if name in clips}
        info = {part: probe(path, 2 if part == "source" else 1) for part, path in paths.items()}
        size, keyframe, notes = self._size(info["source"]), None, []
        own = info["source"].height, info["source"].width
        for part, its in info.items():
            if part != "mask" or its.frames > 1:  # it would be squeezed into the source's
                how = "Export it in the source's picture, without cropping it."
                tolerance = {"tolerance": MASK_TOLERANCE} if part == "mask" else {}
                check_aspect((its.height, its.width), own, what=str(paths[part]), how=how, **tolerance)
        for part in [p for p, i in info.items() if i.frames == 1]:
            path = paths.pop(part)
            if part == "target":
                keyframe = next(read_frames(path, size, least=1))
            taken = "is the keyframe, without a truth" if part == "target" else "was left out"
            notes.append(f"{FOLDERS[part]} has a single frame, which {taken}")
        found = {p: torch.stack(list(islice(read_frames(path, size, mask=p == "mask"), self.frames)))
                 for p, path in paths.items()}  # fmt: skip
        length = min(len(v) for v in found.values())
        if any(len(v) != length for v in found.values()):
            lengths = ", ".join(f"{FOLDERS[p]} {len(v)}" for p, v in found.items())
            notes.append(f"parts of unequal length ({lengths} frames) were cut to {length}")
        found = {p: v[:length] for p, v in found.items()}
        target, mask = found.get("target"), found.get("mask")
        if target is not None:
            keyframe = target[0]
        elif keyframe is None:
            image = read_image(self.keyframes[name], "refused").movedim(-1, 0)[None].float() / 255
            check_aspect(image.shape[-2:], own, what=str(self.keyframes[name]))
            keyframe = resize(image, size)[0]
        if mask is not None:
            mask = (mask > 0.5).float()
        task = self.tasks.get(name, TASKS[0])
        return EvalClip(name, found["source"], keyframe, target, mask, index, task, self.prompts.get(name), notes)

    def _size(self, info) -> tuple[int, int]:
        if self.size is not None:
            return working_size(info.width, info.height, self.size, self.multiple)
        return tuple(max(1, round(v / self.multiple)) * self.multiple for v in (info.height, info.width))
