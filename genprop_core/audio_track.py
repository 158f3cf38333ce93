"""The sound of a clip: copied into what is made of it, or encoded again where a player could not play it."""
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av

from .errors import GenPropError
from .video_decode import open_media, reason

log = logging.getLogger(__name__)
# What players accept inside an mp4; anything else (Vorbis, PCM, ...) is encoded again.
COPIED_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
LEAST_MP3 = 16000  # samples a second: an mp4 takes no slower MP3
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # by channels


class SoundError(GenPropError):
    """The sound of a file is gone, damaged, or cannot be brought into another; the pictures can be written without."""

    __module__ = "genprop_core.audio_track"  # as that of GenPropError


def readable_track(container):
    """The first audio track of an open file for which there is a decoder, or None: phones add some that have none."""
    return next((track for track in container.streams.audio if track.codec_context is not None), None)


def audio_notes(path) -> list[str]:
    """What the user should know of a file's sound, one line each. Raises GenPropError where it is damaged: so it is
    known before any long work. A folder has none."""
    if Path(path).is_dir():
        return []
    with open_media(path) as source:
        track = readable_track(source)
        if track is None:
            unread = "the source's sound is of a kind that cannot be read here: the result has none"
            return [unread] if source.streams.audio else []
        with _told(path, "read"):
            for packet in source.demux(track):
                if not _copied(track):
                    packet.decode()
    return []


class AudioTrack:
    """The audio of a file on its way into an output; made when the output's pictures have their stream, before its
    first packet. Raises SoundError where the audio is at fault."""

    def __init__(self, output, path):
        self.path, self.ahead, self.output = path, None, output
        self.packets = self._packets(path)
        with _told(path, "written"):
            next(self.packets)  # runs to the first yield, where the output's stream has been added
            output.start_encoding()

    def mux_until(self, seconds):
        """Moves on all audio up to a time; None moves on the rest."""
        if self.ahead is None:
            self.ahead = next(self.packets, None)
        while self.ahead is not None and (seconds is None or self.ahead.pts * self.ahead.time_base <= seconds):
            with _told(self.path, "written"):
                self.output.mux(self.ahead)
            self.ahead = next(self.packets, None)

    def _packets(self, path) -> Iterator:
        with open_media(path) as source:
            track = readable_track(source)
            if track is None:
                log.info("%s has no audio track that can be read; the video is written without one.", path)
                yield None
                return
            copied = _copied(track)
            stream = self.output.add_stream_from_template(track) if copied else _aac(self.output, track)
            # Time 0 of the new file is the source's first picture, so the audio keeps its offset to it.
            start = source.streams.video[0] if source.streams.video else None
            offset = (start.start_time or 0) * start.time_base if start else Fraction(0)
            following = Fraction(0)  # seconds, at which a frame comes that does not tell when
            yield None
            with _told(path, "read"):
                for packet in source.demux(track):
                    if copied:
                        if packet.dts is not None and packet.pts is not None:
                            shift = round(offset / packet.time_base)
                            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                            yield packet
                        continue
                    for frame in packet.decode():
                        if frame.pts is not None:
                            following = frame.pts * frame.time_base - offset
                        # in samples: some files count in whole packets, which are too coarse for those that are made
                        frame.time_base = Fraction(1, frame.sample_rate)
                        frame.pts = round(following * frame.sample_rate)
                        following += Fraction(frame.samples, frame.sample_rate)
                        yield from stream.encode(frame)
                if not copied:
                    yield from stream.encode(None)


@contextmanager
def _told(path, done: str):
    """What goes wrong while the audio of a file is "read" or "written", as a SoundError.

    Of writing it is what the output's format does not take: a full disk, say, is no fault of the audio.
    """
    try:
        yield
    except SoundError:
        raise
    except GenPropError as error:  # a file that is gone by now, say
        raise SoundError(str(error)) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        if done == "written" and isinstance(error, OSError):
            raise
        raise SoundError(f"Expected a whole audio track, but that of {path} cannot be {done} "
                         f"({reason(error)}). Write the video without audio, or repair the file.") from None


def _copied(track) -> bool:
    """Whether a track goes into the output as it is."""
    context = track.codec_context
    name = context.codec.canonical_name  # of what is in the file; a decoder may have a name of its own
    return name in COPIED_AUDIO and not (name == "mp3" and context.sample_rate < LEAST_MP3)


def _aac(output, track):
    context = track.codec_context
    rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
    layout = LAYOUTS.get(context.layout.nb_channels, "stereo")  # whatever its own is called: AAC knows few
    return output.add_stream("aac", rate=rate, layout=layout)
