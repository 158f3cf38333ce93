"""Video files to be read: coloured fields that move, in any codec, with sound or without."""
from fractions import Fraction

import av
import numpy as np
import torch

CELLS = torch.tensor([[[200, 40, 40], [40, 190, 60], [50, 60, 200]], [[230, 210, 60], [128, 128, 128], [20, 160, 170]]])


def clip(frames=12, height=48, width=64, noise=3):
    """Coloured fields that shift by a pixel a frame, uint8 [T,H,W,3]."""
    generator = torch.Generator().manual_seed(0)
    field = CELLS.repeat_interleave(height // 2 + 1, 0).repeat_interleave(width // 3 + 1, 1)[:height, :width]
    moving = torch.stack([field.roll(t, 1) for t in range(frames)])
    return (moving + torch.randint(-noise, noise + 1, moving.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def encode(path, codec, pix_fmt, frames, rate=Fraction(24), options=None, muxer=None, first=0):
    """first: the time of the first frame, in frames."""
    with av.open(str(path), "w", options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        for index, image in enumerate(frames.numpy(), first):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def tone(path, codec, layout="stereo", rate=48000, seconds=1.0, video=None, video_start=0.0):
    """A media file with a sine, and on demand a picture track that starts later than the sound."""
    with av.open(str(path), "w") as output:
        if video is not None:
            picture = output.add_stream("libx264", rate=24)
            picture.height, picture.width, picture.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if codec.startswith("wma"):
            stream.bit_rate = 128000  # its encoder has no default that it takes
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
