"""Clips in and out: N frames in the file are N frames here, with the frame rate and the audio of the source."""
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import torch
from av.sidedata.sidedata import Type

from .audio_track import readable_track
from .errors import GenPropError
from .images import image_files, read_image, write_image
from .video_decode import CONVERSION, decode, existing, frame_rate, open_media
from .video_write import write_video

__all__ = [
    "Video", "VideoInfo", "is_untagged", "iter_video", "pixel_aspect", "probe", "read_frame", "read_image",
    "read_video", "write_image", "write_video",
]  # fmt: skip
FOLDER_FPS = Fraction(24)
JUMP = 600  # seconds: no frame is shown for longer
UNTOLD = 2  # the matrix of a file that names none, as ITU-T H.273 counts them:
SD = (576, 1280)  # up to this height and below this width players take it for BT.601, and for BT.709 above
REORDERED = 16  # frames, which codecs store out of order at most
TIMING = 0.02  # a declared rate this near the frames' own is right: times are rounded


@dataclass(frozen=True)
class VideoInfo:
    """`frames` that decode, `width` and `height` as shown (rotation applied), frames per second, audio or not.

    fps is the container's own; where the frames' times say otherwise, the one that keeps the clip's length, or, where
    times jump by more than JUMP seconds or backward, what most frames are shown at. uneven: whether frames are shown
    for times of very different length, which an output with one rate cannot repeat. pixel_aspect: the width of a pixel
    over its height, as shown.
    """

    frames: int
    width: int
    height: int
    fps: Fraction
    has_audio: bool
    uneven: bool = False
    pixel_aspect: Fraction = Fraction(1)


@dataclass
class Video:
    """A clip in memory: `frames` uint8 [T,H,W,3]; `audio_path` is the file whose audio belongs to it, or None; uneven
    and pixel_aspect as in `VideoInfo`."""

    frames: torch.Tensor
    fps: Fraction
    audio_path: Path | None
    uneven: bool = False
    pixel_aspect: Fraction = Fraction(1)


def timing_notes(fps: Fraction, uneven: bool) -> list[str]:
    """What the user should know of a clip's timing, one line each: nothing where its frames come evenly."""
    if not uneven:
        return []
    return [
        "the source's frames are shown for unequal times; the result shows each equally long, "
        f"{float(fps):.5g} a second: its moments may come a little earlier or later"
    ]


def probe(path, least: int = 2, step=lambda: None) -> VideoInfo:
    """Counts and checks a clip by decoding it once without keeping frames; containers' own counts can be wrong.

    Takes what `iter_video` takes and raises what it raises, so that bad input is known before any long work. least: 1
    lets a single frame pass. step() is called for every frame; what it raises stops the work.
    """
    path = existing(path)
    frames, times, turned = 0, [], False

    def shown(frame):
        nonlocal turned
        times.append(frame.time)
        turned = bool(_quarter_turns(frame) % 2)
        return _shown_size(frame)

    sizes = map(_size, _stills(path)) if path.is_dir() else map(shown, decode(path))
    for each in _checked(path, sizes, lambda size: size, least):
        step()
        frames, size = frames + 1, each
    fps, has_audio, aspect = _facts(path)
    fps, uneven = _timing(times, fps)
    return VideoInfo(frames, *size, fps, has_audio, uneven, 1 / aspect if turned else aspect)


def pixel_aspect(path) -> Fraction:
    """That of a video file as in `VideoInfo`, without decoding more than the first frame; raises for HDR and for what
    is no video as `iter_video` does."""
    path = existing(path)
    frame, aspect = next(decode(path), None), _facts(path)[2]
    return 1 / aspect if frame is not None and _quarter_turns(frame) % 2 else aspect


def is_untagged(path) -> bool:
    """Whether a video file stores its colours by a matrix that it does not name. Decodes and raises as `pixel_aspect`
    does."""
    frame = next(decode(path), None)
    return frame is not None and _untagged(frame)


def read_video(path, step=lambda: None, transparent: str = "dropped", untagged: str | None = None) -> Video:
    """Reads a whole clip. `path`, `transparent`, `untagged` and errors as in `iter_video`; step() as in `probe`, for
    every frame twice.

    Decodes it twice, first to count the frames: so the clip takes T*H*W*3 bytes, and no more while it is read.
    """
    path = Path(path)
    info = probe(path, step=step)
    frames = torch.empty(info.frames, info.height, info.width, 3, dtype=torch.uint8)
    for there, frame in zip(frames, iter_video(path, transparent=transparent, untagged=untagged)):
        step()
        there.copy_(frame)
    return Video(frames, info.fps, path if info.has_audio else None, info.uneven, info.pixel_aspect)


def iter_video(path, least=2, transparent: str = "dropped", untagged: str | None = None) -> Iterator[torch.Tensor]:
    """Yields the frames of a clip one by one, uint8 [H,W,3] RGB, so that memory does not grow with its length.

    `path` is a video file (mp4, mov, webm, mkv, gif, ...) or a folder of images (png, jpg, webp, bmp, tif; in natural
    order; 24 frames per second). Any depth, grey and alpha become 8-bit RGB, and the metadata's turns and mirrorings
    are applied. Alpha is dropped, or, of a folder's images, taken as `transparent` says (see `read_image`). Colours of
    a file that does not say how they are stored are read by the matrix `untagged`, ITU601 or ITU709; without one as
    players read them, by its size. Frames with uneven timing come out one after the other, none doubled, none dropped
    (`probe` gives the rate that keeps the clip's length).

    Raises GenPropError when nothing is there, when it cannot be decoded or is truncated, when it has fewer than `least`
    frames, and when the frame size changes. A file is known to be whole only at its end; `probe` tells it beforehand.
    """
    path = existing(path)
    frames = _stills(path, transparent) if path.is_dir() else (_rgb(frame, untagged) for frame in decode(path))
    yield from _checked(path, frames, _size, least)


def read_frame(path, index: int) -> torch.Tensor:
    """One frame of a clip, counted from 0, as in `read_video`: uint8 [H,W,3]. Raises GenPropError beyond the end."""
    count = 0
    for count, frame in enumerate(iter_video(path, least=1), 1):
        if count == index + 1:
            return frame
    raise GenPropError(f"Expected a frame from 0 to {count - 1}, the last of {path}, got {index}.")


def _timing(times, fps: Fraction) -> tuple[Fraction, bool]:
    """(rate, uneven) of frames shown at these times in seconds; fps as declared, kept where it is near the mean.

    A container of variable rate declares what its encoder was told, or what its first frames look like.
    """
    if len(times) < 3 or None in times:
        return fps, False
    gaps, in_order = _gaps(times), sorted(times)
    even = _gaps(in_order)
    # An AVI tells no time to show a frame, only where it is stored: an order that some codecs have changed.
    if -REORDERED * median(even) <= min(gaps) < 0 and min(even) >= 0.5 * median(even):
        times, gaps = in_order, even
    usual = median(gaps)
    if usual > 0 and (min(gaps) < 0 or max(gaps) > JUMP):  # clips put together, whose times start anew: no length
        rate = Fraction(1 / usual).limit_denominator(1001)
        return (fps if abs(rate / fps - 1) <= TIMING else rate), True
    length = times[-1] - times[0] + usual  # the last frame is shown as long as most are
    uneven = min(gaps) < 0.5 * usual or max(gaps) > 1.5 * usual
    if usual <= 0 or abs(len(times) / length / fps - 1) <= TIMING:
        return fps, uneven
    return Fraction(len(times) / length).limit_denominator(1001), uneven


def _gaps(times) -> list:
    return [b - a for a, b in zip(times, times[1:])]


def _stills(folder: Path, transparent: str = "dropped"):
    return (read_image(path, transparent) for path in image_files(folder))


def _size(image: torch.Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[0]  # [H,W,3] -> (W,H)


def _quarter_turns(frame) -> int:
    return round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 counts


def _mirrored(frame) -> bool:
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return matrix is not None and np.linalg.det(np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2]) < 0


def _shown_size(frame) -> tuple[int, int]:
    return (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)


def _untagged(frame) -> bool:
    colours = len(frame.format.components) > 2 and not frame.format.is_rgb  # grey, palettes and RGB have no matrix
    return colours and frame.colorspace == UNTOLD


def _rgb(frame, untagged: str | None) -> torch.Tensor:
    turns, mirrored, matrix = _quarter_turns(frame), _mirrored(frame), None  # None: the frame's own
    if _untagged(frame):
        matrix = untagged or ("ITU709" if frame.height > SD[0] or frame.width >= SD[1] else None)
    # RGB has no matrix, but PyAV 14 reads BT.709 as BT.601 unless source and destination differ, and any range as
    # limited unless it is told.
    frame = frame.reformat(format="rgb24", src_colorspace=matrix, dst_colorspace="ITU601",
                           src_color_range=frame.color_range, interpolation=CONVERSION)  # fmt: skip
    array = frame.to_ndarray()  # [H,W,3]
    array = array[::-1] if mirrored else array  # first: the angle is that of the x axis, which this leaves as it is
    return torch.from_numpy(np.ascontiguousarray(np.rot90(array, turns)))


def _checked(path: Path, items, size, least: int):
    """Passes items through; raises when their size changes, and at the end when there were fewer than `least`."""
    first, count = None, 0
    for item in items:
        here = size(item)
        first = first or here
        if here != first:
            raise GenPropError(f"Expected every frame at {first[0]}x{first[1]} like the first, but frame {count} of "
                               f"{path} is {here[0]}x{here[1]}. Bring the clip to one size.")
        count += 1
        yield item
    if count < least:
        raise GenPropError(f"Expected at least {least} frames, but {path} has {count or 'none'}. "
                           "Give a video, or a folder with one image per frame.")


def _facts(path: Path) -> tuple[Fraction, bool, Fraction]:
    """Frame rate, whether there is audio that can be read, and the aspect of a pixel as stored."""
    if path.is_dir():
        return FOLDER_FPS, False, Fraction(1)
    with open_media(path) as container:
        stream = container.streams.video[0]
        aspect = stream.sample_aspect_ratio or Fraction(1)  # 0 or none: not told
        return frame_rate(path, stream), readable_track(container) is not None, aspect
