"""Clips on disk: every frame in its order and colours, at any size, from every container."""
import struct
import weakref
from fractions import Fraction

import av
import pytest
import torch
from video_clips import clip, encode

from genprop_core.images import image_files
from genprop_core.video_decode import CONVERSION
from genprop_core.video_io import is_untagged, iter_video, probe, read_video, write_image, write_video


def test_every_frame_comes_back_in_order_with_its_colours(tmp_path):
    frames = clip(13)
    before = frames.clone()
    assert write_video(tmp_path / "clip ü 1.mp4", frames, 24) == 13
    video = read_video(tmp_path / "clip ü 1.mp4")
    assert video.frames.dtype == torch.uint8 and video.frames.shape == frames.shape and video.audio_path is None
    assert torch.equal(frames, before)
    error = video.frames.double() - frames.double()
    assert error.mean(dim=(0, 1, 2)).abs().max() < 0.5, "no colour shift through BT.709 and back"
    distance = (video.frames[:, None].double() - frames[None].double()).square().mean(dim=(2, 3, 4))
    assert torch.equal(distance.argmin(dim=1), torch.arange(13)), "frame i is frame i"


def stored(path, frames, matrix, told, full):
    """Writes H.264 whose colours are stored by this matrix and range; told: whether the file names the matrix."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "2", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        context, among = stream.codec_context, 2 if full else 1
        context.color_range = among
        if told:
            context.colorspace = {"ITU601": 5, "ITU709": 1}[matrix]
        for image in frames.numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=among, interpolation=CONVERSION
            )
            bare = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
            bare.color_range = among
            output.mux(stream.encode(bare))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix, told, height, width", [
    ("ITU601", False, 576, 720), ("ITU709", False, 578, 720), ("ITU709", False, 240, 1280),
    ("ITU709", True, 240, 320), ("ITU601", True, 240, 1280)])  # fmt: skip
def test_colours_are_read_as_players_read_them_and_stay_so(tmp_path, matrix, told, height, width, full):
    """A file that names no matrix has that of its size, and what is written of it has the same colours."""
    frames = clip(2, height, width, noise=0)
    with av.open(str(stored(tmp_path / "a.mp4", frames, matrix, told, full))) as container:
        assert (container.streams.video[0].codec_context.colorspace == 2) is not told
    read = read_video(tmp_path / "a.mp4").frames
    write_video(tmp_path / "b.mp4", read, 24)
    for again in (read, read_video(tmp_path / "b.mp4").frames):
        error = again.double() - frames.double()
        assert error.abs().mean() < 2 and error.mean(dim=(0, 1, 2)).abs().max() < 1.5


@pytest.mark.parametrize("matrix", ["ITU601", "ITU709"])
@pytest.mark.parametrize("height, width", [(48, 64), (16, 1280), (47, 64)])
def test_a_file_that_names_no_matrix_is_read_and_written_by_the_one_that_is_given(tmp_path, matrix, height, width):
    frames = clip(2, height, width, noise=0)
    write_video(tmp_path / "a.mp4", frames, 24, untagged=matrix)
    assert is_untagged(tmp_path / "a.mp4")
    read = read_video(tmp_path / "a.mp4", untagged=matrix).frames.double()
    assert (read - frames.double()).mean(dim=(0, 1, 2)).abs().max() < 1.5
    write_video(tmp_path / "b.mp4", frames, 24)
    assert not is_untagged(tmp_path / "b.mp4")
    assert torch.equal(read_video(tmp_path / "b.mp4").frames, read_video(tmp_path / "b.mp4", untagged=matrix).frames)


@pytest.mark.parametrize("codec, pix_fmt", [("png", "rgba"), ("libx264rgb", "rgb24")])
def test_large_pictures_in_rgb_have_no_matrix(tmp_path, codec, pix_fmt):
    frames = clip(2, 16, 1280)
    path = encode(tmp_path / "a.mov", codec, pix_fmt, frames, options={"qp": "0"} if "x264" in codec else {})
    assert torch.equal(read_video(path).frames, frames) and not is_untagged(path)


@pytest.mark.parametrize("height, width, pix_fmt", [(48, 64, "yuv420p"), (47, 64, "yuv444p"), (33, 51, "yuv444p")])
def test_odd_sizes_stay(tmp_path, height, width, pix_fmt):
    frames = clip(4, height, width)
    write_video(tmp_path / "out.mp4", frames, 24)
    assert read_video(tmp_path / "out.mp4").frames.shape == frames.shape
    info = probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (width, height)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pix_fmt
        assert container.streams.video[0].codec_context.colorspace == 1, "tagged BT.709"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_lossless_is_equal_to_the_last_bit(tmp_path, suffix):
    noise = torch.randint(0, 256, (4, 33, 47, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    write_video(tmp_path / f"out{suffix}", noise, 24, lossless=True)
    assert torch.equal(read_video(tmp_path / f"out{suffix}").frames, noise)
    write_video(tmp_path / f"lossy{suffix}", noise, 24)
    assert not torch.equal(read_video(tmp_path / f"lossy{suffix}").frames, noise)


def test_a_generator_of_arrays_writes_what_a_tensor_writes(tmp_path):
    frames = clip(6)
    write_video(tmp_path / "a.mp4", frames, 24)
    write_video(tmp_path / "b.mp4", (frame.numpy() for frame in frames), 24)
    assert torch.equal(read_video(tmp_path / "a.mp4").frames, read_video(tmp_path / "b.mp4").frames)


def test_streaming_lets_go_of_frames(tmp_path):
    write_video(tmp_path / "out.mp4", clip(30), 24)
    alive, most = [], 0
    for frame in iter_video(tmp_path / "out.mp4"):
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(frame)]
        most = max(most, len(alive))
    assert most <= 3


@pytest.mark.parametrize("name, codec, pix_fmt, tolerance", [
    ("a.webm", "libvpx-vp9", "yuv420p", 8), ("b.webm", "libvpx", "yuv420p", 8), ("c.gif", "gif", "rgb8", 30),
    ("d.mov", "prores_ks", "yuv422p10le", 5), ("e.mp4", "libx264", "yuv420p10le", 5), ("f.mov", "png", "rgba", 0),
    ("g.mkv", "ffv1", "yuva444p", 3)])
def test_reads_other_containers_depths_and_alpha(tmp_path, name, codec, pix_fmt, tolerance):
    frames = clip(8, noise=0)
    options = {"deadline": "realtime", "cpu-used": "8"} if "vpx" in codec else {}
    path = encode(tmp_path / name, codec, pix_fmt, frames, rate=Fraction(25), options=options)
    video = read_video(path)
    assert video.frames.shape == frames.shape and video.fps == 25
    assert probe(path).frames == 8
    middles = (slice(None), slice(8, 16), slice(28, 36))  # away from the borders of the fields, where chroma is shared
    assert (video.frames[middles].double() - frames[middles].double()).abs().mean() <= tolerance


def test_reads_grey(tmp_path):
    frames = clip(3)
    path = encode(tmp_path / "a.mkv", "ffv1", "gray", frames)
    read = read_video(path).frames
    assert torch.equal(read[..., 0], read[..., 2])
    grey = frames.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (read[..., 0].double() - grey).abs().mean() < 3


SHOWN = {  # display matrix: what players make of [H,W,3]
    (0, 1, -1, 0): lambda image: image.rot90(-1),
    (0, -1, 1, 0): lambda image: image.rot90(1),
    (-1, 0, 0, -1): lambda image: image.rot90(2),
    (-1, 0, 0, 1): lambda image: image.flip(1),
    (1, 0, 0, -1): lambda image: image.flip(0),
    (0, 1, 1, 0): lambda image: image.transpose(0, 1),
    (0, -1, -1, 0): lambda image: image.transpose(0, 1).flip(0, 1),
}


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), *SHOWN])
def test_turns_and_mirrorings_in_the_metadata_are_applied(tmp_path, matrix):
    frames = clip(3)
    path = encode(tmp_path / "phone.mp4", "libx264", "yuv420p", frames)
    plain = read_video(path).frames
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = data.find(b"tkhd") + 4 + 40  # the matrix follows 40 bytes of version-0 fields
    data[start:start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = read_video(path).frames
    assert torch.equal(shown, torch.stack([SHOWN.get(matrix, torch.clone)(image) for image in plain]))
    info = probe(path)
    assert (info.height, info.width) == tuple(shown.shape[1:3])


def test_a_folder_is_read_in_natural_order(tmp_path):
    frames = clip(12)
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"frame{index}.{'png' if index % 2 else 'bmp'}", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    video = read_video(tmp_path)
    assert torch.equal(video.frames, frames) and video.fps == 24 and video.audio_path is None
    assert probe(tmp_path).frames == 12


def test_names_with_digits_that_are_no_numbers_are_in_order_too(tmp_path):
    for name in ("²1.png", "²10.png", "²2.png"):
        write_image(tmp_path / name, clip(1)[0])
    assert [p.name for p in image_files(tmp_path)]== ["²1.png", "²2.png", "²10.png"]


def test_a_clip_trimmed_by_an_edit_list_is_whole(tmp_path):
    path = encode(tmp_path / "trimmed.mp4", "libx264", "yuv420p", clip(24), options={"g": "4"})
    data = bytearray(path.read_bytes())
    start = data.find(b"elst") + 12
    duration, media_time = struct.unpack(">Ii", data[start:start + 8])
    with av.open(str(path)) as container:
        frame = int(1 / (24 * container.streams.video[0].time_base))
    data[start:start + 8] = struct.pack(">Ii", duration // 2, media_time + 6 * frame)  # 12 frames from the 7th on
    whole = read_video(path).frames
    path.write_bytes(data)
    assert torch.equal(read_video(path).frames, whole[6:18])
