"""The frame rate of a clip, even or not: kept exactly, or its length kept."""
from fractions import Fraction

import av
import pytest
import torch
from video_clips import clip

from genprop_core import video_io
from genprop_core.errors import GenPropError
from genprop_core.video_io import probe, read_video, write_video

RATES = [7, 24, Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 2), Fraction(1000, 33)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", RATES)
def test_frame_rate_is_kept_exactly(tmp_path, suffix, fps):
    path = tmp_path / f"out{suffix}"
    write_video(path, clip(5), fps)
    info = probe(path)
    assert (info.fps, info.frames, info.has_audio) == (Fraction(fps), 5, False)


def test_a_float_rate_is_its_nearest_simple_fraction(tmp_path):
    write_video(tmp_path / "out.mp4", clip(3), 30000 / 1001)
    assert probe(tmp_path / "out.mp4").fps == Fraction(30000, 1001)


def uneven(path, ticks):
    """A clip whose frames are shown at these times, in 1/600 s, encoded as a phone or a screen recorder does."""
    frames = clip(len(ticks))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for image, tick in zip(frames.numpy(), ticks):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 600)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_variable_rate_keeps_every_frame_and_the_length(tmp_path, suffix):
    """Twelve frames of 1/24 s, the fourth shown for most of a second: 800/600 s in all, so 9 frames a second."""
    path = tmp_path / f"phone{suffix}"
    frames = uneven(path, [0, 25, 50, 75, 600, 625, 650, 675, 700, 725, 750, 775])
    info, video = probe(path), read_video(path)
    assert info.uneven and video.frames.shape == frames.shape and video.fps == info.fps
    assert float(info.fps) == pytest.approx(9, rel=0.01)
    distance = (video.frames[:, None].double() - frames[None].double()).square().mean(dim=(2, 3, 4))
    assert torch.equal(distance.argmin(dim=1), torch.arange(12)), "none doubled, none dropped"
    write_video(tmp_path / "out.mp4", video.frames, video.fps)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(800 / 600, rel=0.01)


@pytest.mark.parametrize("bframes", [1, 2, 3])
@pytest.mark.parametrize("held", [0, 3])
def test_an_avi_of_frames_that_are_stored_out_of_order_keeps_its_rate(tmp_path, bframes, held):
    path, frames = tmp_path / "b.avi", clip(48)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": str(bframes), "b-adapt": "0"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for index, image in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + held * (index > 20), Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times != sorted(times)
    info = probe(path)
    assert info.frames == 48 and info.uneven == bool(held)
    assert float(info.fps) == pytest.approx(25 * 48 / (48 + held), rel=0.02)


@pytest.mark.parametrize("times", [
    [0, 1 / 24, 2 / 24, 36000, 36000 + 1 / 24, 36000 + 2 / 24],  # clips put together, of which each has its own times
    [900, 900 + 1 / 24, 900 + 2 / 24, 0, 1 / 24, 2 / 24],
    [k / 24 for k in [*range(48), *range(48)]],
    [k / 24 for k in [*range(12), *range(8, 48)]],
])  # fmt: skip
def test_times_that_jump_say_nothing_of_the_length(times):
    assert video_io._timing(times, Fraction(24)) == (24, True)
    assert video_io._timing(times, Fraction(1, 180)) == (24, True)


def test_a_late_start_and_rounded_times_are_an_even_rate(tmp_path):
    uneven(tmp_path / "late.mkv", [300 + 25 * k for k in range(12)])
    write_video(tmp_path / "ntsc.mkv", clip(12), Fraction(30000, 1001))
    for name, fps in (("late.mkv", 24), ("ntsc.mkv", Fraction(30000, 1001))):
        info = probe(tmp_path / name)
        assert info.fps == fps and not info.uneven


@pytest.mark.parametrize("fps", [0, -5, float("nan"), float("inf"), "fast", None])
def test_a_rate_that_is_none_is_an_error(tmp_path, fps):
    with pytest.raises(GenPropError, match="Expected a frame rate above 0"):
        write_video(tmp_path / "out.mp4", clip(2), fps)
