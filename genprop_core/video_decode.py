"""Decoding a video file by PyAV, with proof that it was whole: a damaged or truncated file is an error."""
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from .errors import GenPropError

# libswscale's bicubic | accurate_rnd | full_chroma_int. Its default rounds down: a clip read and written once would
# lose 1/255 of brightness, and its chroma would be blocky. Plain numbers, as older PyAV cannot combine its flags.
CONVERSION = 0x4 | 0x40000 | 0x2000
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, as ITU-T H.273 counts them
MATRICES = {*range(8), 9}  # those that libswscale reads, as H.273 counts them
TO_SDR = "zscale=t=linear:npl=100,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p"
TO_BT709 = "zscale=m=bt709:r=tv,format=yuv420p"


@contextmanager
def open_media(path):
    """Opens a media file; yields the PyAV container. Raises GenPropError when it is missing or cannot be opened."""
    path = existing(path)
    try:
        # Absolute, or a colon in the name would read as a protocol; and a playlist must not reach for the network.
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise GenPropError(f"Expected a video, but {path} cannot be opened as one ({reason(error)}). "
                           "It may be truncated or of another format; copy or export it again.") from None
    with container:
        yield container


def existing(path) -> Path:
    path = Path(path)
    try:
        there = path.exists()
    except OSError:  # a name that is too long, say
        there = False
    if not there:
        raise GenPropError(f"Expected a video or a folder of images at {path}, but there is none. Check the path.")
    return path


def reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def frame_rate(path, stream) -> Fraction:
    """Frames per second as the container declares them."""
    fps = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not fps:
        raise GenPropError(f"Expected a frame rate, but {path} carries none. Put the clip into an mp4 first.")
    return Fraction(fps)


@dataclass
class _Tally:
    """What has come out of a stream so far."""

    shown: int = 0
    first_pts: int | None = None
    packets: int = 0
    packet_pts: list[int] = field(default_factory=list)  # of those that a player shows
    end: float = 0.0  # seconds

    def packet(self, packet):
        self.packets += 1
        if packet.pts is not None and not packet.is_discard:
            self.packet_pts.append(packet.pts)
            self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def frame(self, frame):
        self.first_pts = frame.pts if self.shown == 0 else self.first_pts
        self.shown += 1


def decode(path):
    """Yields every frame (av.VideoFrame) of a file's first video track.

    Raises GenPropError for a video of a codec that is unknown here, for one in high dynamic range, whose numbers are no
    colours as pictures have them, for one whose colours are stored in a way that cannot be read here, where a packet or
    frame is damaged, and at the end when less came than the file declares.
    """
    with open_media(path) as container:
        if not container.streams.video:
            raise GenPropError(f"Expected at least 2 frames, but {path} has none (no video track). "
                               "Give a video; if it should be one, it is truncated: copy or export it again.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise GenPropError(f"Expected a video that can be decoded, but there is no decoder for that of {path} "
                               "here. Convert it to H.264 with a program that plays it.")
        if stream.codec_context.color_trc in HDR:
            kind = HDR[stream.codec_context.color_trc]
            raise GenPropError(f"Expected a video in standard dynamic range, but {path} is HDR ({kind}): its colours "
                               f'would come out flat. Convert it first, for example: ffmpeg -i IN -vf "{TO_SDR}" OUT.')
        # Never frame threads ("AUTO"): they decode ahead, and one that reports damage while Python frees the decoder
        # waits for Python for ever.
        stream.thread_type = "SLICE"
        tally = _Tally()
        try:
            for packet in container.demux(stream):
                if packet.size:
                    tally.packet(packet)
                    if packet.is_corrupt:
                        raise _damaged(path, tally, "its last packet is incomplete")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise _damaged(path, tally, "the next is corrupt")
                    if frame.colorspace not in MATRICES:
                        raise _unread_colours(path, frame)
                    tally.frame(frame)
                    yield frame
        except (av.FFmpegError, OSError) as error:
            raise _damaged(path, tally, reason(error)) from None
        _check_whole(path, container, stream, tally)


def _damaged(path, tally: _Tally, why: str) -> GenPropError:
    return GenPropError(f"Expected a whole video, but {path} breaks off after {tally.shown} frames ({why}). "
                        "It may be truncated or damaged; copy or export it again.")


def _unread_colours(path, frame) -> GenPropError:
    return GenPropError(f"Expected colours stored as BT.601, BT.709 or BT.2020 store them, but those of {path} are "
                        f"stored by matrix {int(frame.colorspace)} of H.273, which cannot be read here. Convert it "
                        f'first, for example: ffmpeg -i IN -vf "{TO_BT709}" OUT.')


def _check_whole(path, container, stream, tally: _Tally):
    """Compares what came with what the file declares: its number of frames, its duration, and its end mark."""
    fps = frame_rate(path, stream)
    # An edit list hides frames on purpose, and the track is then shorter than its number of frames says.
    trimmed = stream.duration is not None and stream.duration * stream.time_base * fps < stream.frames - 0.5
    # An AVI holds a frame by an empty one, which is counted and never read: there only its length can tell.
    held = container.format.name == "avi" and tally.end + 1.5 / float(fps) >= stream.frames / float(fps)
    if tally.packets < stream.frames and not trimmed and not held:
        raise _damaged(path, tally, f"it declares {stream.frames}")
    declared = _declared_end(container, stream)
    if declared is not None and tally.end + 1.5 / float(fps) < declared:
        raise _damaged(path, tally, f"it declares {declared:.2f} seconds, {tally.end:.2f} are there")
    # Frames before the first that decodes lean on a cut-off past (open GOP): no player shows them. VP8 stores packets
    # that are never shown. Every other packet is a frame.
    if tally.first_pts is not None and stream.codec_context.name != "vp8":
        stored = sum(pts >= tally.first_pts for pts in tally.packet_pts)
        if tally.shown < stored:
            raise _damaged(path, tally, f"{stored} are stored, some do not decode")
    if container.format.name == "gif" and not _ends_as_gif(path):
        raise _damaged(path, tally, "the end mark of a GIF is missing")


def _declared_end(container, stream) -> float | None:
    """Seconds at which the video track ends by the file's header; None where the header does not say."""
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska and WebM
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if "mp4" in container.format.name and stream.duration:
        # In fragments the duration may be the end itself, or the length: the earlier of the two is sure to be there.
        start = stream.start_time or 0 if stream.frames else 0
        return float((start + stream.duration) * stream.time_base)
    return None


def _ends_as_gif(path) -> bool:
    with open(path, "rb") as file:
        file.seek(-min(Path(path).stat().st_size, 64), 2)
        return file.read().rstrip(b"\0").endswith(b";")
