"""Pixels that are not square: a film keeps the shape that it is shown in."""

from fractions import Fraction

import av
import pytest
from video_clips import clip

from genprop_core.video_io import pixel_aspect, probe, read_video, write_video


def wide(path, aspect):
    write_video(path, clip(5), 24, pixel_aspect=aspect)
    return path


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9), 1])
def test_a_clip_comes_back_as_it_was_shown(tmp_path, aspect):
    video = read_video(wide(tmp_path / "source.mp4", aspect))
    assert video.pixel_aspect == probe(tmp_path / "source.mp4").pixel_aspect == aspect
    assert pixel_aspect(tmp_path / "source.mp4") == aspect
    with av.open(str(tmp_path / "source.mp4")) as container:
        assert (container.streams.video[0].sample_aspect_ratio or 1) == aspect


def test_the_command_keeps_it(tmp_path, monkeypatch):
    from stand_in import StandInPipeline

    from genprop_core import cli, propagate
    from genprop_core.video_io import write_image

    source = wide(tmp_path / "source.mp4", Fraction(4, 3))
    write_image(tmp_path / "key.png", read_video(source).frames[0])
    monkeypatch.setattr(propagate, "load_model", lambda arguments, device: StandInPipeline())
    words = ["propagate", "--source", source, "--keyframe", tmp_path / "key.png", "--out", tmp_path / "out"]
    assert cli.main([str(w) for w in words]) == 0
    for name in ("result", "mask", "overlay"):
        assert probe(tmp_path / "out" / f"{name}.mp4").pixel_aspect == Fraction(4, 3)
