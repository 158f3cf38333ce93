"""The sound of the source in the result: copied where it can be, and at its offset."""

import av
import numpy as np
import pytest
from video_clips import audio, clip, tone

from genprop_core.audio_track import SoundError, audio_notes
from genprop_core.errors import GenPropError
from genprop_core.video_io import probe, read_video, write_video
from genprop_core.video_write import write_with_sound


def test_aac_is_copied_byte_by_byte(tmp_path):
    source = tone(tmp_path / "source.mp4", "aac", video=clip(24))
    assert probe(source).has_audio and read_video(source).audio_path == source
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert audio(tmp_path / "out.mp4") == audio(source)
    assert read_video(tmp_path / "out.mp4").frames.shape[0] == 24


@pytest.mark.parametrize("codec", ["mp2", "pcm_s16le"])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_other_audio_is_encoded_to_aac(tmp_path, codec, layout):
    source = tone(tmp_path / "source.mkv", codec, layout=layout, video=clip(24))
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert audio(tmp_path / "out.mp4")[0] == "aac"
    with av.open(str(tmp_path / "out.mp4")) as container:
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert abs(len(heard) / 48000 - 1) < 0.1
    spectrum = np.abs(np.fft.rfft(heard[4800:43200]))
    assert abs(spectrum.argmax() * 48000 / 38400 - 440) < 2, "the same tone"


@pytest.mark.parametrize("rate", [44100, 48000])
def test_mp3_in_an_avi_is_copied(tmp_path, rate):
    source = tone(tmp_path / "source.avi", "libmp3lame", rate=rate, video=clip(24), seconds=1.3)
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert audio(tmp_path / "out.mp4")[1:] == audio(source)[1:]


@pytest.mark.parametrize("name, codec, rate", [("a.asf", "wmav2", 44100), ("a.avi", "libmp3lame", 12000)])
def test_frames_that_come_without_a_time_or_at_a_coarse_one_are_encoded(tmp_path, name, codec, rate):
    """The last of WMA has none; an AVI counts its sound in packets; and an mp4 takes no slow MP3."""
    source = tone(tmp_path / name, codec, rate=rate, video=clip(24), seconds=1.3)
    assert audio_notes(source) == []
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert audio(tmp_path / "out.mp4")[0] == "aac"
    lengths = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            lengths.append(sum(f.samples / f.sample_rate for f in container.decode(audio=0)))
    assert lengths[1] == pytest.approx(lengths[0], abs=0.1)


def test_sound_that_the_file_cannot_take_costs_the_sound_alone(tmp_path):
    source, frames = tone(tmp_path / "source.mkv", "flac", video=clip(24)), clip(24)
    with pytest.raises(SoundError, match="source.mkv cannot be written"):
        write_video(tmp_path / "out.mov", frames, 24, audio_from=source)
    assert not (tmp_path / "out.mov").exists()
    notes = write_with_sound(tmp_path / "out.mov", lambda: iter(frames), 24, source)
    assert len(notes) == 1 and notes[0].startswith("the result has no sound: ")
    assert len(read_video(tmp_path / "out.mov").frames) == 24 and not probe(tmp_path / "out.mov").has_audio
    assert "gone.mkv, but there is none" in write_with_sound(
        tmp_path / "out.mov", lambda: iter(frames), 24, tmp_path / "gone.mkv"
    )[0]  # fmt: skip
    assert write_with_sound(tmp_path / "out.mp4", lambda: iter(frames), 24, source) == []
    assert audio(tmp_path / "out.mp4")[0] == "flac"


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_audio_keeps_its_offset_to_the_picture(tmp_path, codec):
    source = tone(tmp_path / "source.mkv", codec, video=clip(24), video_start=0.5, seconds=2)
    write_video(tmp_path / "out.mkv", clip(24), 24, audio_from=source)
    assert audio(source)[2] == pytest.approx(-0.5, abs=0.05)
    assert audio(tmp_path / "out.mkv")[2] == pytest.approx(audio(source)[2], abs=0.03)


def test_a_source_without_audio_gives_a_video_without(tmp_path):
    write_video(tmp_path / "silent.mp4", clip(3), 24)
    write_video(tmp_path / "out.mp4", clip(3), 24, audio_from=tmp_path / "silent.mp4")
    assert not probe(tmp_path / "out.mp4").has_audio
    with pytest.raises(GenPropError, match="gone.mp4, but there is none"):
        write_video(tmp_path / "out.mp4", clip(3), 24, audio_from=tmp_path / "gone.mp4")


@pytest.mark.parametrize("channels", [3, 4, 6, 10])
def test_a_cameras_tracks_without_a_layout_are_kept_or_mixed(tmp_path, channels):
    source = tmp_path / "source.mov"
    with av.open(str(source), "w") as output:
        picture = output.add_stream("libx264", rate=24)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = output.add_stream("pcm_s16le", rate=48000, layout=f"{channels}c")
        samples = np.zeros((1, 48000 * channels), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=f"{channels}c")
        frame.sample_rate = 48000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())
        for image in clip(24).numpy():
            output.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(picture.encode())
    assert audio_notes(source) == []
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert audio(tmp_path / "out.mp4")[0] == "aac"


def unreadable(path):
    """The first sound of an mp4 becomes one of a codec that FFmpeg does not know."""
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"apac", 1).replace(b"esds", b"skip", 1))
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context is None


def test_sound_that_nothing_here_can_read_is_told_of_and_left_out(tmp_path):
    """As in a phone's spatial sound."""
    source = tone(tmp_path / "source.mp4", "aac", video=clip(24))
    assert audio_notes(source) == [] and audio_notes(tmp_path) == []
    unreadable(source)
    assert "cannot be read here: the result has none" in audio_notes(source)[0]
    assert not probe(source).has_audio and read_video(source).frames.shape[0] == 24
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=source)
    assert not probe(tmp_path / "out.mp4").has_audio and read_video(tmp_path / "out.mp4").frames.shape[0] == 24


def test_the_first_track_that_can_be_read_is_taken(tmp_path):
    source = tone(tmp_path / "source.mkv", "aac", video=clip(24))
    second = tmp_path / "two.mp4"
    with av.open(str(second), "w") as output, av.open(str(source)) as one, av.open(str(source)) as other:
        sounds = [(of, output.add_stream_from_template(of.streams.audio[0])) for of in (one, other)]
        for of, stream in sounds:
            for packet in of.demux(of.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    output.mux(packet)
    unreadable(second)
    write_video(tmp_path / "out.mp4", clip(24), 24, audio_from=second)
    assert audio_notes(second) == [] and audio(tmp_path / "out.mp4")[1] == audio(source)[1]
