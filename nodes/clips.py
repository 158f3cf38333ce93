"""Clips in and out of GenProp Propagate: an IMAGE batch, or a VIDEO whose frames stay bytes from end to end."""
import os
import uuid
import wave
import weakref
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import comfy.model_management as mm
import folder_paths
import torch
from comfy_api.latest import InputImpl, Types

from ..genprop_core.audio_track import audio_notes
from ..genprop_core.errors import GenPropError
from ..genprop_core.frames import as_bytes, as_float
from ..genprop_core.video_io import is_untagged, pixel_aspect, read_video, timing_notes
from ..genprop_core.video_write import check_encoder, write_with_sound
from .encoding import channels_first

NO_IMAGE = "The source is a VIDEO, so the result is at the VIDEO output. Use Get Video Components there for its images."
UNTAGGED = "ITU601"  # the matrix by which ComfyUI reads every file that names none, whatever its size
NO_VIDEO = "The source is an IMAGE, so the result is at the IMAGE output. Use Create Video there for a video."


class TemporaryPath(str):
    """The path of a file that is removed with the last one who holds this very string.

    A VIDEO of ComfyUI holds the path it was given, and hands the same on to the parts that Video Slice takes of it.
    """

    @classmethod
    def of(cls, path) -> "TemporaryPath":
        made = cls(path)
        weakref.finalize(made, _remove, os.fspath(path))
        return made


def _remove(path):
    with suppress(OSError):  # gone, or open still on Windows: ComfyUI empties the folder at its next start
        os.remove(path)


@dataclass(frozen=True)
class Clip:
    """frames [T,3,H,W]: uint8 of a VIDEO, float in [0,1] of an IMAGE. fps is None for an IMAGE; path: the VIDEO's file
    where it is one, whose audio belongs to it; audio: ComfyUI's AUDIO where there is no file; notes: what the user
    should know of it, one line each. Of uneven timing only a whole file says so: what ComfyUI itself decodes has lost
    its frames' times. pixel_aspect: as in `video_io.VideoInfo`. untagged: the matrix of a file that names none, which
    ComfyUI and players see alike in the result only if it names none either."""

    frames: torch.Tensor
    fps: object = None
    path: Path | None = None
    audio: object = None
    notes: tuple[str, ...] = ()
    pixel_aspect: Fraction = Fraction(1)
    untagged: str | None = None

    @classmethod
    def of(cls, source) -> "Clip":
        """From an IMAGE or a VIDEO."""
        if isinstance(source, torch.Tensor):
            return cls(channels_first(source).cpu())  # with --gpu-only it is elsewhere
        path = source.get_stream_source() if isinstance(source, InputImpl.VideoFromFile) else None
        aspect, untagged = Fraction(1), None
        if isinstance(path, str):
            aspect = pixel_aspect(path)  # refuses what ComfyUI would decode to wrong colours, also of a part
            untagged = UNTAGGED if is_untagged(path) else None
            check_encoder()  # what the result is written with
            if not any(_trim(source)):
                video = read_video(path, mm.throw_exception_if_processing_interrupted, untagged=untagged)
                notes = (*audio_notes(path), *timing_notes(video.fps, video.uneven))
                return cls(video.frames.movedim(-1, 1), video.fps, Path(path), None, notes, aspect, untagged)
        parts = source.get_components()
        if (count := len(parts.images)) < 2:
            raise GenPropError(
                f"Expected a clip of at least 2 frames, got {count or 'none'}. If the VIDEO is a part of another, let "
                "it start before that one's end, and last longer."
            )
        frames = torch.cat([as_bytes(channels_first(frame[None])).cpu() for frame in parts.images])
        return cls(frames, parts.frame_rate, None, parts.audio, (), aspect, untagged)

    def video(self, frames):
        """A VIDEO of result frames, uint8 [T,3,H,W], with this clip's frame rate and audio, and notes for the user.

        Of a file, or with pixels that are not square, of which ComfyUI's own VIDEO cannot tell: a file among ComfyUI's
        temporary ones, with the audio track copied as it is. It goes with the VIDEO, once ComfyUI keeps neither that
        nor a part of it.
        """
        pictures = frames.movedim(1, -1)
        if self.path is None and self.pixel_aspect == 1:
            parts = Types.VideoComponents(images=as_float(pictures), audio=self.audio, frame_rate=self.fps)
            return InputImpl.VideoFromComponents(parts), ()
        path = TemporaryPath.of(_temporary(".mp4"))
        sound = self.path or (self.audio and _sound_file(self.audio))
        options = {"pixel_aspect": self.pixel_aspect, "untagged": self.untagged}
        notes = write_with_sound(path, lambda: unless_cancelled(pictures), self.fps, sound, **options)
        return InputImpl.VideoFromFile(path), tuple(notes)


def _temporary(suffix) -> Path:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"genprop-{uuid.uuid4().hex}{suffix}"


def _sound_file(audio) -> TemporaryPath:
    """ComfyUI's AUDIO as a file."""
    path, samples = TemporaryPath.of(_temporary(".wav")), audio["waveform"][0].T  # [N,C]
    with wave.open(path, "wb") as file:
        file.setparams((samples.shape[1], 2, audio["sample_rate"], 0, "NONE", None))
        file.writeframes((samples.clamp(-1, 1) * 32767).round().to(torch.int16).cpu().numpy().tobytes())
    return path


def unless_cancelled(items):
    """The items one by one, until Cancel is pressed."""
    for item in items:
        mm.throw_exception_if_processing_interrupted()
        yield item


def _trim(video) -> tuple:
    """Start and length of the part of its file that a VIDEO is; zeros for the whole. ComfyUI 0.3 knows no parts; from
    0.14 to 0.22 private fields alone tell them."""
    known = getattr(video, "get_active_trim_window", None)
    if known is None:
        return tuple(getattr(video, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration"))
    return known()
