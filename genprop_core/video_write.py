"""Writing a clip: H.264 with the frame rate kept exactly and the source's audio beside it, by PyAV."""
from fractions import Fraction
from pathlib import Path

import av

from .audio_track import AudioTrack, SoundError
from .errors import GenPropError
from .files import atomic
from .images import as_frame
from .video_decode import CONVERSION, reason

SUFFIXES = (".mp4", ".mov", ".mkv")


def write_video(
    path, frames, fps, audio_from=None, lossless: bool = False, crf: int = 14, pixel_aspect=1,
    untagged: str | None = None,
) -> int:  # fmt: skip
    """Writes frames as H.264 in an .mp4, .mov or .mkv; returns how many there were. The file is whole or absent.

    frames: uint8 [T,H,W,3] (tensor or array), or any iterable of uint8 [H,W,3]; a generator is written as it comes, in
        constant memory.
    fps: Fraction or int, kept exactly; a float is taken as the nearest fraction with a denominator up to 1001.
    audio_from: a media file whose first readable audio track is copied (encoded to AAC where an mp4 cannot hold it),
        whole, at the same offset to the picture. A file without one gives a video without audio.
    lossless: RGB H.264 at quantiser 0: every value comes back as it was, in a file few players can show.
    crf: quality of the lossy file, 0 (best) to 51.
    pixel_aspect: the width of a pixel over its height, which players stretch the picture by.
    untagged: ITU601 or ITU709, the matrix that colours are stored by without naming it, as in a source that names none.

    Even sizes are stored as yuv420p, which every player shows. A size with an odd side is kept exactly, as yuv444p: no
    padding or cropping, though some players refuse it. Colours are tagged BT.709, unless `untagged` is given.

    Raises GenPropError for no frames, frames of another type or of changing size, a frame rate that is none, another
    suffix, and a place that cannot be written; `SoundError` for a source of audio that cannot be read, or whose audio
    the file cannot take.
    """
    path, fps = Path(path), as_fps(fps)
    codec = _codec(lossless)
    if path.suffix.lower() not in SUFFIXES:
        raise GenPropError(f"Expected a name ending in {', '.join(SUFFIXES)} for a video, got {path}. Rename it.")
    check_encoder(lossless)
    # x264's mbtree lets the same frames come out differently from one run to the next
    options = {"qp": "0"} if lossless else {"crf": str(crf), "mbtree": "0"}
    try:
        with atomic(path) as temporary, _open_output(temporary) as output:
            return _encode(output, frames, fps, codec, options, audio_from, Fraction(pixel_aspect), untagged)
    except GenPropError:
        raise
    except (OSError, av.FFmpegError) as error:
        raise GenPropError(f"Expected to write a video at {path}, but that failed ({reason(error)}). "
                           "Check that the folder can be written and has space.") from None


def write_with_sound(path, frames, fps, audio_from=None, **options) -> list[str]:
    """`write_video` for what took long to make: sound that cannot be brought into it costs the sound alone.

    frames(): the frames, from the first one each time. Returns what the user should know of the sound, one line each.
    """
    try:
        write_video(path, frames(), fps, audio_from, **options)
    except SoundError as error:
        write_video(path, frames(), fps, **options)
        return [f"the result has no sound: {error}"]
    return []


def _codec(lossless: bool) -> str:
    return "libx264rgb" if lossless else "libx264"


def check_encoder(lossless: bool = False) -> None:
    """Raises GenPropError where PyAV was built without what `write_video` needs, so that it is known beforehand."""
    if _codec(lossless) not in av.codecs_available:
        raise GenPropError(f"Expected a PyAV with the {_codec(lossless)} encoder, but this one has none. "
                           "Install the one from PyPI: pip install av.")


def as_fps(fps) -> Fraction:
    """A frame rate as an exact positive Fraction."""
    try:
        value = Fraction(fps)
        value = value.limit_denominator(1001) if isinstance(fps, float) else value
    except (TypeError, ValueError, OverflowError):
        value = Fraction(0)
    if value <= 0:
        raise GenPropError(f"Expected a frame rate above 0, got {fps}. Give for example 24, or 30000/1001.")
    return value


def _open_output(path: Path):
    faststart = {"movflags": "faststart"} if path.suffix.lower() != ".mkv" else {}
    return av.open(str(path.absolute()), "w", options=faststart)


def _encode(output, frames, fps: Fraction, codec: str, options: dict, audio_from, pixel_aspect, untagged) -> int:
    stream = audio = size = None
    count = 0
    for image in frames:
        array = as_frame(image)
        if stream is None:
            size = array.shape
            stream = _video_stream(output, codec, fps, size, options, untagged)
            stream.codec_context.sample_aspect_ratio = pixel_aspect
            audio = AudioTrack(output, audio_from) if audio_from is not None else None
        if array.shape != size:
            raise GenPropError(f"Expected every frame at {size[1]}x{size[0]} like the first, but frame {count} is "
                               f"{array.shape[1]}x{array.shape[0]}. Bring the frames to one size.")
        frame = av.VideoFrame.from_ndarray(array, format="rgb24")
        if stream.pix_fmt != "rgb24":
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=untagged or "ITU709",
                                   interpolation=CONVERSION)  # fmt: skip
        frame.pts, frame.time_base = count, 1 / fps
        output.mux(stream.encode(frame))
        if audio:
            audio.mux_until(count / fps)  # side by side, so that neither waits in memory for the other
        count += 1
    if stream is None:
        raise GenPropError("Expected at least 1 frame to write, got none. Check what made the frames.")
    output.mux(stream.encode())
    if audio:
        audio.mux_until(None)
    return count


def _video_stream(output, codec: str, fps: Fraction, size, options: dict, untagged: str | None):
    stream = output.add_stream(codec, rate=fps, options=options)
    stream.height, stream.width = size[:2]
    stream.codec_context.time_base = 1 / fps
    if codec == "libx264rgb":
        stream.pix_fmt = "rgb24"
        return stream
    stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    if untagged is None:  # BT.709, limited
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
    return stream
