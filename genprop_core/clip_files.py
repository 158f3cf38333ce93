"""The files of one clip on the command line: source, keyframes, mask and truth, read and checked against each other."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .audio_track import audio_notes
from .clip_input import check_keyframes, check_mask
from .errors import GenPropError
from .frames import as_float
from .images import SUFFIXES
from .video_io import Video, read_image, read_video, timing_notes


@dataclass
class ClipFiles:
    """video: as read; frames: its uint8 [T,3,H,W], a view; keyframes: {index: uint8 [3,h,w]}; mask: uint8
    [1 or T,1,h,w] or None; truth: (target [T,3,H,W] in [0,1], mask [T,1,H,W] of 0 and 1) or None; notes: what the user
    should know of the source, one line each."""

    video: Video
    keyframes: dict[int, torch.Tensor]
    mask: torch.Tensor | None = None
    truth: tuple | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def frames(self) -> torch.Tensor:
        return self.video.frames.movedim(-1, 1)  # [T,H,W,3] -> [T,3,H,W]


def keyframe_paths(given) -> list[tuple[int, Path]]:
    """[(index, file)] of texts like "12:edited.png"; without an index it is the first frame."""
    pairs = []
    for text in given or []:
        numbered = re.fullmatch(r"(-?\d+):(.+)", str(text))
        pairs.append((int(numbered[1]), Path(numbered[2])) if numbered else (0, Path(text)))
    return pairs


def read_clip(arguments) -> ClipFiles:
    """Reads everything a clip's arguments name. Raises GenPropError for what is missing, broken or does not fit."""
    if arguments.source is None or not arguments.keyframe or arguments.out is None:
        missing = [n for n in ("source", "keyframe", "out") if not getattr(arguments, n)]
        raise GenPropError(f"Expected --source, --keyframe and --out, got no --{', no --'.join(missing)}.")
    video = read_video(arguments.source)
    files = ClipFiles(video, {}, notes=audio_notes(arguments.source) + timing_notes(video.fps, video.uneven))
    pairs = [(index, read_image(path, "refused").movedim(-1, 0)) for index, path in keyframe_paths(arguments.keyframe)]
    files.keyframes = check_keyframes(pairs, files.frames)
    files.mask = check_mask(_mask(arguments.mask), files.frames)
    files.truth = _truth(arguments, files.frames)
    return files


def _mask(path):
    """uint8 [1 or T,1,h,w] from an image, a video or a folder of images. The edit is where it is white, or of another
    bright colour; an image's places that can be seen through are black."""
    if path is None:
        return None
    one = Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir()
    pictures = read_image(path, "black")[None] if one else read_video(path, transparent="black").frames
    return pictures.amax(-1)[:, None]  # [T,h,w,3] -> [T,1,h,w]


def _truth(arguments, frames):
    if bool(arguments.truth) != bool(arguments.truth_mask):
        raise GenPropError("Expected --truth and --truth-mask together, got one of them. Give both, or neither.")
    if not arguments.truth:
        return None
    pair = read_video(arguments.truth).frames.movedim(-1, 1), _mask(arguments.truth_mask)
    for path, video in zip((arguments.truth, arguments.truth_mask), pair):
        if (len(video), *video.shape[2:]) != (len(frames), *frames.shape[2:]):
            raise GenPropError(
                f"Expected {path} to have the source's {frames.shape[0]} frames of "
                f"{frames.shape[3]}x{frames.shape[2]}, "
                f"got {video.shape[0]} of {video.shape[3]}x{video.shape[2]}. Give the truth of this source."
            )
    return as_float(pair[0]), (as_float(pair[1]) > 0.5).float()
