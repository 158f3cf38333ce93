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
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # by channels


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
        with _told(path):
            for packet in source.demux(track):
                if track.codec_context.name not in COPIED_AUDIO:
                    packet.decode()
    return []


class AudioTrack:
    """The audio of a file on its way into an output; made before the output's first packet."""

    def __init__(self, output, path):
        self.packets, self.ahead, self.output = iter(()), None, output
        self.packets = self._packets(path)
        next(self.packets)  # runs to the first yield, where the output's stream has been added

    def mux_until(self, seconds):
        """Moves on all audio up to a time; None moves on the rest."""
        if self.ahead is None:
            self.ahead = next(self.packets, None)
        while self.ahead is not None and (seconds is None or self.ahead.pts * self.ahead.time_base <= seconds):
            self.output.mux(self.ahead)
            self.ahead = next(self.packets, None)

    def _packets(self, path) -> Iterator:
        with open_media(path) as source:
            track = readable_track(source)
            if track is None:
                log.info("%s has no audio track that can be read; the video is written without one.", path)
                yield None
                return
            copied = track.codec_context.name in COPIED_AUDIO
            stream = self.output.add_stream_from_template(track) if copied else _aac(self.output, track)
            # Time 0 of the new file is the source's first picture, so the audio keeps its offset to it.
            start = source.streams.video[0] if source.streams.video else None
            offset = (start.start_time or 0) * start.time_base if start else Fraction(0)
            yield None
            with _told(path):
                for packet in source.demux(track):
                    if copied:
                        if packet.dts is not None and packet.pts is not None:
                            shift = round(offset / packet.time_base)
                            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                            yield packet
                        continue
                    for frame in packet.decode():
                        if frame.pts is not None:
                            frame.pts -= round(offset / frame.time_base)
                        yield from stream.encode(frame)
                if not copied:
                    yield from stream.encode(None)


@contextmanager
def _told(path):
    """What goes wrong with the audio of a file, as a GenPropError."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise GenPropError(f"Expected a whole audio track, but that of {path} cannot be read "
                           f"({reason(error)}). Write the video without audio, or repair the file.") from None


def _aac(output, track):
    context = track.codec_context
    rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
    layout = LAYOUTS.get(context.layout.nb_channels, "stereo")  # whatever its own is called: AAC knows few
    return output.add_stream("aac", rate=rate, layout=layout)
