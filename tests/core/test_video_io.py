"""Clips and images on disk: every frame, the exact rate, the audio, and one plain line for everything that is wrong."""
import re
import struct
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from genprop_core.errors import GenPropError
from genprop_core.video_io import iter_video, probe, read_image, read_video, write_image, write_video

CELLS = torch.tensor([[[200, 40, 40], [40, 190, 60], [50, 60, 200]], [[230, 210, 60], [128, 128, 128], [20, 160, 170]]])


def clip(frames=12, height=48, width=64, noise=3):
    """Coloured fields that shift by a pixel a frame, uint8 [T,H,W,3]."""
    generator = torch.Generator().manual_seed(0)
    field = CELLS.repeat_interleave(height // 2 + 1, 0).repeat_interleave(width // 3 + 1, 1)[:height, :width]
    moving = torch.stack([field.roll(t, 1) for t in range(frames)])
    return (moving + torch.randint(-noise, noise + 1, moving.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def encode(path, codec, pix_fmt, frames, rate=Fraction(24), options=None, muxer=None):
    with av.open(str(path), "w", options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        for frame in frames.numpy():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path


def tone(path, codec, layout="stereo", rate=48000, seconds=1.0, video=None, video_start=0.0):
    """A media file with a sine, and on demand a picture track that starts later than the sound."""
    with av.open(str(path), "w") as output:
        if video is not None:
            picture = output.add_stream("libx264", rate=24)
            picture.height, picture.width, picture.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        stream = output.add_stream(codec, rate=rate, layout=layout)
        count = int(seconds * rate)
        wave = (0.3 * np.sin(np.arange(count) * 2 * np.pi * 440 / rate)).astype(np.float32)
        channels = 1 if layout == "mono" else 2
        for start in range(0, count, 1024):
            part = np.stack([wave[start:start + 1024]] * channels)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        for index, image in enumerate(video.numpy() if video is not None else ()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + round(video_start * 24), Fraction(1, 24)
            output.mux(picture.encode(frame))
        if video is not None:
            output.mux(picture.encode())
    return path


def audio(path):
    """Codec, packets and start of the sound relative to the picture, in seconds."""
    with av.open(str(path)) as container:
        track, picture = container.streams.audio[0], container.streams.video[0]
        codec, base = track.codec_context.name, track.time_base
        packets = [(bytes(p), p.pts * base) for p in container.demux(track) if p.size]
        start = packets[0][1] - (picture.start_time or 0) * picture.time_base
        return codec, [data for data, _ in packets], float(start)


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


@pytest.mark.parametrize("matrix, turns", [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_rotation_in_the_metadata_is_applied(tmp_path, matrix, turns):
    frames = clip(3)
    path = encode(tmp_path / "phone.mp4", "libx264", "yuv420p", frames)
    plain = read_video(path).frames
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = data.find(b"tkhd") + 4 + 40  # the matrix follows 40 bytes of version-0 fields
    data[start:start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = read_video(path).frames
    assert torch.equal(turned, torch.rot90(plain, turns, dims=(1, 2)))
    info = probe(path)
    assert (info.height, info.width) == tuple(turned.shape[1:3])


def test_a_folder_is_read_in_natural_order(tmp_path):
    frames = clip(12)
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"frame{index}.{'png' if index % 2 else 'bmp'}", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    video = read_video(tmp_path)
    assert torch.equal(video.frames, frames) and video.fps == 24 and video.audio_path is None
    assert probe(tmp_path).frames == 12


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


def test_a_late_start_and_rounded_times_are_an_even_rate(tmp_path):
    uneven(tmp_path / "late.mkv", [300 + 25 * k for k in range(12)])
    write_video(tmp_path / "ntsc.mkv", clip(12), Fraction(30000, 1001))
    for name, fps in (("late.mkv", 24), ("ntsc.mkv", Fraction(30000, 1001))):
        info = probe(tmp_path / name)
        assert info.fps == fps and not info.uneven


def truncated(tmp_path, kind, part):
    frames = clip(24)
    path = {
        "mp4": lambda: encode(tmp_path / "a.mp4", "libx264", "yuv420p", frames),
        "faststart": lambda: encode(tmp_path / "b.mp4", "libx264", "yuv420p", frames, muxer={"movflags": "faststart"}),
        "mov": lambda: encode(tmp_path / "c.mov", "prores_ks", "yuv422p10le", frames),
        "webm": lambda: encode(tmp_path / "d.webm", "libvpx-vp9", "yuv420p", frames, options={"deadline": "realtime"}),
        "gif": lambda: encode(tmp_path / "e.gif", "gif", "rgb8", frames),
    }[kind]()
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * part)])
    return path


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "faststart", "mov", "webm", "gif"])
def test_a_truncated_file_is_an_error(tmp_path, kind, part):
    path = truncated(tmp_path, kind, part)
    for read in (read_video, probe):
        with pytest.raises(GenPropError, match="truncated") as raised:
            read(path)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_an_mp4_cut_between_two_frames_is_an_error(tmp_path):
    """Nothing is half there, so only the declared number of frames tells."""
    path = encode(tmp_path / "a.mp4", "mpeg4", "yuv420p", clip(24), muxer={"movflags": "faststart"})
    with av.open(str(path)) as container:
        offsets = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:offsets[20]])
    with pytest.raises(GenPropError, match=r"breaks off after 20 frames \(it declares 24\)"):
        read_video(path)


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


def test_damaged_bytes_in_the_middle_are_an_error(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", clip(24))
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) // 2
    data[middle:middle + 300] = bytes(300)
    path.write_bytes(data)
    with pytest.raises(GenPropError, match="truncated or damaged"):
        read_video(path)


def test_bad_input_is_one_plain_line(tmp_path):
    def message(path, read=read_video):
        with pytest.raises(GenPropError) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    for read in (read_video, probe):
        assert re.search(r"Expected a video .*gone\.mp4, but there is none", message(tmp_path / "gone.mp4", read))
        (tmp_path / "empty.mp4").write_bytes(b"")
        assert "cannot be opened" in message(tmp_path / "empty.mp4", read)
        (tmp_path / "text.mp4").write_text("this is no video " * 100)
        assert "cannot be opened" in message(tmp_path / "text.mp4", read)
        (tmp_path / "folder").mkdir(exist_ok=True)
        assert re.search(r"Expected at least 2 frames, but .*folder has none", message(tmp_path / "folder", read))
        write_video(tmp_path / "one.mp4", clip(1), 24)
        assert re.search(r"Expected at least 2 frames, but .*one\.mp4 has 1", message(tmp_path / "one.mp4", read))
        tone(tmp_path / "sound.m4a", "aac")
        assert re.search(r"at least 2 frames, but .*sound\.m4a has none", message(tmp_path / "sound.m4a", read))


def test_a_size_that_changes_is_an_error(tmp_path):
    first = encode(tmp_path / "a.h264", "libx264", "yuv420p", clip(4, 48, 64)).read_bytes()
    second = encode(tmp_path / "b.h264", "libx264", "yuv420p", clip(4, 64, 48)).read_bytes()
    (tmp_path / "both.h264").write_bytes(first + second)
    for index, size in enumerate([(48, 64), (48, 64), (64, 48)]):
        write_image(tmp_path / "folder" / f"{index}.png", clip(1, *size)[0])
    for read in (read_video, probe):
        with pytest.raises(GenPropError, match="Expected every frame at 64x48 like the first, but frame 4 of .* 48x64"):
            read(tmp_path / "both.h264")
        with pytest.raises(GenPropError, match="but frame 2 of .*folder is 48x64"):
            read(tmp_path / "folder")


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


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.mp4"
    write_video(path, clip(3), 24)
    before = path.read_bytes()

    def broken(error):
        yield from clip(5)
        raise error

    for error in (KeyboardInterrupt(), RuntimeError("model failed"), GenPropError("source breaks off")):
        with pytest.raises(type(error)):
            write_video(path, broken(error), 24)
    for frames, words in ((iter(()), "at least 1 frame"), (clip(2).float(), r"uint8 \[H,W,3\], got float32"),
                          (clip(2)[..., 0], r"got uint8 \[48, 64\]"), ([*clip(2), *clip(1, 32)], "frame 2 is 64x32")):
        with pytest.raises(GenPropError, match=words):
            write_video(path, frames, 24)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(GenPropError, match="Expected to write a video at .* Check that the folder can be written"):
        write_video(tmp_path / "file" / "out.mp4", clip(2), 24)
    with pytest.raises(GenPropError, match="Expected to write an image at .* Check that the folder can be written"):
        write_image(tmp_path / "file" / "out.png", clip(1)[0])
    with pytest.raises(GenPropError, match=r"ending in \.mp4, \.mov, \.mkv for a video, got .*out\.avi"):
        write_video(tmp_path / "out.avi", clip(2), 24)
    with pytest.raises(GenPropError, match=r"ending in .* for an image, got .*out\.tga"):
        write_image(tmp_path / "out.tga", clip(1)[0])


@pytest.mark.parametrize("fps", [0, -5, float("nan"), float("inf"), "fast", None])
def test_a_rate_that_is_none_is_an_error(tmp_path, fps):
    with pytest.raises(GenPropError, match="Expected a frame rate above 0"):
        write_video(tmp_path / "out.mp4", clip(2), fps)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_images_come_back_to_the_last_bit(tmp_path, suffix):
    image = torch.randint(0, 256, (17, 23, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    write_image(tmp_path / f"image{suffix}", image)
    assert torch.equal(read_image(tmp_path / f"image{suffix}"), image)


def test_unusual_images(tmp_path):
    image = clip(1)[0]
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert torch.equal(read_image(tmp_path / "deep.png")[..., 0], torch.arange(256).reshape(16, 16).to(torch.uint8))
    turned = Image.fromarray(image.numpy())
    exif = turned.getexif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png"), torch.rot90(image, -1, dims=(0, 1)))
    alpha = np.dstack([image.numpy(), np.full(image.shape[:2], 9, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), image)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(GenPropError, match="unknown range"):
        read_image(tmp_path / "float.tif")


def test_images_that_cannot_be_read(tmp_path):
    write_image(tmp_path / "a.png", clip(1)[0])
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:len(data) // 2])
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(GenPropError, match="whole image, but .* cannot be decoded"):
        read_image(tmp_path / "b.png")
    with pytest.raises(GenPropError, match="Expected an image at .*c.png, but there is none"):
        read_image(tmp_path / "c.png")
