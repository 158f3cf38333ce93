"""What of a VIDEO reaches GenProp Propagate, inside ComfyUI."""
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import comfy_shared as c
import torch
from comfy_api.latest import InputImpl


def of(pack, video):
    return pack.own("clips").Clip.of(video)


def ramp(frames=8, height=64, width=64):
    """uint8 [T,H,W,3]: smooth colours, every frame its own."""
    down, right = torch.linspace(60, 220, height)[:, None], torch.linspace(60, 220, width)[None]
    colours = torch.stack([down.expand(height, width), right.expand(height, width), 240 - (down + right) / 2], -1)
    return torch.stack([(colours - 8 * t).round() for t in range(frames)]).to(torch.uint8)


def written(pack, name, frames, **options):
    """The path of a file of these frames, at 8 a second."""
    path = pack.folder / name
    pack.core("video_io").write_video(path, frames, 8, **options)
    return str(path)


class Part(InputImpl.VideoFromFile):
    """A part of a file as ComfyUI 0.14 to 0.22 has it: no method tells which."""

    def __init__(self, path, start, frames):
        super().__init__(path)
        self._VideoFromFile__start_time, self._VideoFromFile__duration, self.frames = start / 8, frames / 8, frames
        self.start = start

    def __getattribute__(self, name):
        if name == "get_active_trim_window":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def get_components(self):
        """By the whole file's, as ComfyUI of today would ask for the method, and ComfyUI 0.3 knows no parts."""
        parts = InputImpl.VideoFromFile(self.get_stream_source()).get_components()
        parts.images = parts.images[self.start : self.start + self.frames]
        return parts


def check_a_part_of_a_file_is_read_as_one(pack):
    """In ComfyUI 0.14 to 0.22 as well, which has no method that tells of it."""
    path = written(pack, "whole.mp4", ramp())
    whole, part = of(pack, InputImpl.VideoFromFile(path)), of(pack, Part(path, 2, 4))
    assert len(whole.frames) == 8 and len(part.frames) == 4 and part.fps == 8
    assert (part.frames.int() - whole.frames[2:6].int()).abs().float().mean() < 2
    if hasattr(InputImpl.VideoFromFile, "get_active_trim_window"):  # of ComfyUI 0.23
        assert torch.equal(of(pack, InputImpl.VideoFromFile(path, start_time=0.25, duration=0.5)).frames, part.frames)


def check_a_part_beyond_the_end_is_refused(pack):
    path = written(pack, "short.mp4", ramp())
    c.refuses("at least 2 frames, got none. .* before that one's end", of, pack, Part(path, 100, 4))
    c.refuses("at least 2 frames, got 1", of, pack, Part(path, 7, 4))
    if hasattr(InputImpl.VideoFromFile, "get_active_trim_window"):
        c.refuses("at least 2 frames, got none", of, pack, InputImpl.VideoFromFile(path, start_time=100, duration=1))


def check_a_part_holds_to_what_its_file_does(pack):
    """Pixels that are not square stay so, beside the sound, and HDR is refused."""
    import av

    squeezed = written(pack, "squeezed.mp4", ramp(), pixel_aspect=Fraction(4, 3))
    clip = of(pack, Part(squeezed, 2, 4))
    tone = (torch.arange(24000) / 20).sin().expand(1, 2, -1)
    clip = replace(clip, audio={"waveform": tone, "sample_rate": 48000})
    video, notes = clip.video(clip.frames)
    path = video.get_stream_source()
    assert pack.core("video_io").pixel_aspect(path) == Fraction(4, 3) and not notes
    assert len(of(pack, video).frames) == 4
    heard = video.get_components().audio
    assert heard["sample_rate"] == 48000 and heard["waveform"].shape[1] == 2
    assert abs(heard["waveform"][..., 4000:20000].square().mean() - 0.44) < 0.05
    folder = Path(path).parent
    assert not list(folder.glob("genprop-*.wav")), "the sound's own file is gone"

    bright = str(pack.folder / "bright.mp4")
    with av.open(bright, "w") as output:
        stream = output.add_stream("libx264", rate=8, options={"x264-params": "transfer=smpte2084"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for image in ramp().numpy():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    c.refuses("is HDR", of, pack, Part(bright, 2, 4))


def check_a_file_without_a_colour_tag_is_read_as_comfyui_reads_it(pack):
    """And so is the result: where nothing was edited, ComfyUI's own nodes see the source's colours."""
    path = written(pack, "untagged.mp4", ramp(3, 720, 1280), untagged="ITU709")
    seen = InputImpl.VideoFromFile(path).get_components().images
    clip = of(pack, InputImpl.VideoFromFile(path))
    rough = 1 if hasattr(InputImpl.VideoFromFile, "get_active_trim_window") else 2  # ComfyUI 0.3 rounds down
    assert clip.untagged and (clip.frames.movedim(1, -1) / 255 - seen).abs().max() < 2.1 * rough / 255
    again = clip.video(clip.frames)[0]
    assert (again.get_components().images - seen).abs().mean((0, 1, 2)).max() < rough / 255
    assert of(pack, again).untagged, "players guess for both alike"
    tagged = of(pack, InputImpl.VideoFromFile(written(pack, "tagged.mp4", ramp(3, 720, 1280))))
    assert not tagged.untagged and not of(pack, tagged.video(tagged.frames)[0]).untagged
