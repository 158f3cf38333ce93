"""Videos with instance masks, as the synthetic recipes take them: DAVIS / YouTube-VOS folders, or mp4 pairs."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from genprop_core.errors import GenPropError
from genprop_core.images import image_files, read_image
from genprop_core.video_io import iter_video, probe

from .dataset import SUFFIXES, resize

MASK_ENDING = "_mask"


@dataclass(frozen=True)
class Clip:
    """frames: how many; fps; size: (height, width) of the video in pixels; mask: path of the instance masks, None for a
    clip that only serves as a background."""

    name: str
    video: Path
    mask: Path | None
    frames: int
    fps: Fraction
    size: tuple[int, int]

    def read(self, start: int, stop: int, short_side: int | None) -> np.ndarray:
        """uint8 [T,H,W,3], the shorter side at most `short_side` pixels, both sides even."""
        return np.stack([_sized(f, short_side) for f in islice(iter_video(self.video), start, stop)])

    def read_instances(self, start: int, stop: int, short_side: int | None) -> np.ndarray:
        """int [T,H,W], of the size that `read` gives: 0 is background, every other number one object, the same in all
        frames.

        A video's mask is one object, from 128 on; in images every colour is an object.
        """
        video = not self.mask.is_dir()
        height, width = even_size(*self.size, short_side)
        labels = []
        for frame in islice(iter_video(self.mask), start, stop):
            value = frame.numpy().astype(np.int32)
            codes = (value.max(-1) >= 128).astype(np.int32) if video else value @ np.int32([65536, 256, 1])
            rows = (np.arange(height) * codes.shape[0] // height)[:, None]
            labels.append(codes[rows, np.arange(width) * codes.shape[1] // width])  # nearest: labels cannot be mixed
        return np.stack(labels)


def even_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The size, made smaller to `short_side` where it is larger, both sides even as H.264 wants them."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(height, width))
    return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


def _sized(frame, short_side) -> np.ndarray:
    size = even_size(*frame.shape[:2], short_side)
    if tuple(frame.shape[:2]) == size:
        return frame.numpy()
    picture = resize(frame.movedim(-1, 0)[None].float(), size)[0].movedim(0, -1)
    return picture.round().byte().numpy()


def find_clips(folder) -> list[Clip]:
    """All clips of a folder, checked, by name.

    Either `JPEGImages/` + `Annotations/` (with or without a folder like 480p between), or videos NAME.mp4 with masks
    NAME_mask.mp4. A video without a mask serves as background. Hidden files are left out.

    Raises GenPropError where there is nothing, or a mask has another number of frames or another aspect than its video.
    Its size may be another: DAVIS's frames in full resolution go with masks of 480p.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GenPropError(f"Expected a folder of videos at {folder}, but there is none. Check the path.")
    images = folder / "JPEGImages"
    if images.is_dir():
        videos, masks = _stills(images), _stills(folder / "Annotations")
    else:
        shown = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
        files = {p.stem: p for p in shown if p.suffix.lower() in SUFFIXES}
        videos = {n: p for n, p in files.items() if not n.endswith(MASK_ENDING)}
        masks = {n.removesuffix(MASK_ENDING): p for n, p in files.items() if n.endswith(MASK_ENDING)}
    if not videos:
        raise GenPropError(
            f"Expected JPEGImages/ and Annotations/, or NAME.mp4 and NAME_mask.mp4, in {folder}; none found."
        )
    if not masks.keys() & videos.keys():
        raise GenPropError(f"Expected instance masks for at least one clip in {folder}, but there are none.")
    return [_clip(name, path, masks.get(name)) for name, path in sorted(videos.items())]


def _stills(folder: Path) -> dict[str, Path]:
    """The folders of images below a folder, by name."""
    below = [p for p in sorted(folder.rglob("*")) if p.is_dir() and not p.name.startswith(".")]
    return {p.name: p for p in below if image_files(p)}


def _clip(name: str, video: Path, mask: Path | None) -> Clip:
    count, fps, (height, width) = _facts(video)
    if mask is not None:
        frames, _, (rows, columns) = _facts(mask)
        if frames != count:
            raise GenPropError(
                f"Expected {count} frames in {mask} like {video}, got {frames}. Cut them to the same frames."
            )
        if abs(columns * height - rows * width) > max(height, width):  # beyond one pixel, of a side that was rounded
            raise GenPropError(
                f"Expected {mask} in the aspect of {video}, {width}x{height}, got {columns}x{rows}. "
                "Export the mask at the video's size."
            )
    return Clip(name, video, mask, count, fps, (height, width))


def _facts(path: Path) -> tuple[int, Fraction, tuple[int, int]]:
    """Frames, frames per second, and (height, width); of a folder by its first image."""
    if path.is_dir():
        files = image_files(path)
        return len(files), Fraction(24), tuple(read_image(files[0]).shape[:2])
    info = probe(path)
    return info.frames, info.fps, (info.height, info.width)
