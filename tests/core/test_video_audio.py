"""The sound of the source in the result: copied where it can be, and at its offset."""

import av
import numpy as np
import pytest
from video_clips import audio, clip, tone

from genprop_core.errors import GenPropError
from genprop_core.video_io import probe, read_video, write_video


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
