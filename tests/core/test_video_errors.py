"""Files that are broken and places that cannot be written: one plain line, and nothing half written."""
import re
from fractions import Fraction

import av
import pytest
from video_clips import clip, encode, tone

from genprop_core.errors import GenPropError
from genprop_core.video_io import probe, read_frame, read_video, write_image, write_video


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


@pytest.mark.parametrize("flags, first", [("dash", 0), ("frag_keyframe+delay_moov+frag_discont", 120)])
def test_an_mp4_in_fragments_is_whole_until_it_is_cut(tmp_path, flags, first):
    """Its declared duration may be the time at which it ends, not its length."""
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", clip(24), options={"g": "8"},
                  muxer={"movflags": flags}, first=first)  # fmt: skip
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 0 and stream.start_time > 0
    assert len(read_video(path).frames) == probe(path).frames == 24
    data = path.read_bytes()
    path.write_bytes(data[:data.rfind(b"mdat") + 40])
    with pytest.raises(GenPropError, match="breaks off after"):
        read_video(path)


def test_damaged_bytes_in_the_middle_are_an_error(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", "yuv420p", clip(24))
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) // 2
    data[middle:middle + 300] = bytes(300)
    path.write_bytes(data)
    with pytest.raises(GenPropError, match="truncated or damaged"):
        read_video(path)


def test_an_avi_that_holds_frames_is_whole_and_one_that_breaks_off_is_not(tmp_path):
    """A frame that is shown once more is an empty one there."""
    path, frames = tmp_path / "held.avi", clip(57)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for index, image in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index + 3 * (index > 20), Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    assert len(read_video(path).frames) == 57
    data = path.read_bytes()
    for part in (0.5, 0.8):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(GenPropError, match="breaks off after|cannot be opened"):
            read_video(path)


def test_bad_input_is_one_plain_line(tmp_path):
    def message(path, read=read_video):
        with pytest.raises(GenPropError) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    for read in (read_video, probe):
        assert re.search(r"Expected a video .*gone\.mp4, but there is none", message(tmp_path / "gone.mp4", read))
        assert "but there is none" in message(tmp_path / ("long" * 100), read)
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


def test_a_codec_that_is_not_known_here_is_one_plain_line(tmp_path):
    path = encode(tmp_path / "new.mp4", "libx264", "yuv420p", clip(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (read_video, probe, lambda path: read_frame(path, 0)):
        with pytest.raises(GenPropError, match=r"no decoder for that of .*new\.mp4 here\. Convert it to H\.264"):
            read(path)


@pytest.mark.parametrize("transfer, kind", [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_high_dynamic_range_is_refused_with_what_to_do(tmp_path, transfer, kind):
    path, options = tmp_path / "hdr.mp4", {"x264-params": f"transfer={transfer}"}
    encode(path, "libx264", "yuv420p10le", clip(3), options=options)
    for read in (read_video, probe):
        with pytest.raises(GenPropError, match=rf"hdr\.mp4 is HDR \({kind}\).*ffmpeg -i IN -vf .*tonemap"):
            read(path)


@pytest.mark.parametrize("pix_fmt, matrix, number", [("yuv444p", "YCgCo", 8), ("yuv420p10le", "bt2020c", 10)])
def test_colours_stored_in_a_rare_way_are_refused_with_what_to_do(tmp_path, pix_fmt, matrix, number):
    path = tmp_path / "rare.mp4"
    encode(path, "libx264", pix_fmt, clip(3), options={"x264-params": f"colormatrix={matrix}"})
    for read in (read_video, probe):
        with pytest.raises(GenPropError, match=rf"of .*rare\.mp4 are stored by matrix {number} of .*ffmpeg -i IN -vf"):
            read(path)
