"""The `propagate` command: files in, `GenProp.propagate`, files out."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from .errors import GenPropError
from .evaluation import floor_scores, scores, summary
from .files import write_json
from .pipeline import GenProp, PropagateSettings, as_float, check_aspect, resize
from .report import comparison
from .sampler import SamplerSettings
from .video_io import read_image, read_video, write_video

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def settings_of(arguments) -> PropagateSettings:
    if arguments.steps < 1:
        raise GenPropError(f"--steps must be at least 1, got {arguments.steps}.")
    sampler = SamplerSettings(arguments.steps, arguments.min_cfg, arguments.max_cfg, arguments.strength)
    return PropagateSettings(
        sampler=sampler,
        task=arguments.task,
        width=arguments.width,
        height=arguments.height,
        window=arguments.window,
        fps=arguments.fps,
        motion_bucket=arguments.motion_bucket,
        noise_augmentation=arguments.noise_aug,
        seed=arguments.seed,
        decode_chunk=arguments.decode_chunk,
    )


def best_device() -> str:
    """The machine's accelerator when it has one that works, else the CPU."""
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"


class Progress:
    """One line that rewrites itself: share done and time left. Plain lines where the output is not a terminal."""

    def __init__(self, label, stream=None):
        self.label, self.stream, self.start, self.last = label, stream or sys.stderr, time.monotonic(), 0.0

    def __call__(self, done, total):
        now = time.monotonic()
        left = (now - self.start) / done * (total - done)
        text = f"{self.label} {done:3d}/{total} steps, {left:.0f} s left"
        if self.stream.isatty():
            print(f"\r{text}   ", end="\n" if done == total else "", file=self.stream, flush=True)
        elif done == total or now - self.last > 5:
            self.last = now
            print(text, file=self.stream, flush=True)


def check_writable(out: Path):
    """Raises GenPropError before any work when the output folder cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise GenPropError(
            f"Expected a folder to write to, but {out} cannot be written ({error.strerror}). Choose another --out."
        ) from None


def _to_bytes(frames: torch.Tensor) -> torch.Tensor:
    """float [T,3,H,W] in [0,1] -> uint8 [T,H,W,3]."""
    return (frames * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


def _truth(arguments, frames):
    if bool(arguments.truth) != bool(arguments.truth_mask):
        raise GenPropError("Expected --truth and --truth-mask together, got one of them. Give both, or neither.")
    if not arguments.truth:
        return None
    pair = [read_video(path).frames.movedim(-1, 1) for path in (arguments.truth, arguments.truth_mask)]
    for path, video in zip((arguments.truth, arguments.truth_mask), pair):
        if video.shape != frames.shape:
            raise GenPropError(
                f"Expected {path} to have the source's {frames.shape[0]} frames of "
                f"{frames.shape[3]}x{frames.shape[2]}, "
                f"got {video.shape[0]} of {video.shape[3]}x{video.shape[2]}. Give the truth of this source."
            )
    return as_float(pair[0]), (as_float(pair[1][:, :1]) > 0.5).float()


def run(arguments):
    """Everything is checked before the model runs; files appear in --out only when all of them are made."""
    out, settings = arguments.out, settings_of(arguments)
    video = read_video(arguments.source)
    frames = video.frames.movedim(-1, 1)  # [T,H,W,3] -> [T,3,H,W]
    if len(frames) < 2:
        raise GenPropError(f"Expected a video of at least 2 frames, {arguments.source} has {len(frames)}.")
    keyframe = read_image(arguments.keyframe).movedim(-1, 0)
    check_aspect(keyframe.shape[-2:], frames.shape[-2:])
    truth = _truth(arguments, frames)
    check_writable(out)
    device = arguments.device or best_device()
    model = GenProp.from_files(
        arguments.base,
        arguments.adapters,
        dtype=DTYPES[arguments.dtype],
        device=device,
        vae=arguments.vae,
        offload=arguments.offload,
    )
    height, width = model.working_size(*frames.shape[-2:], settings)
    if keyframe.shape[-2:] != frames.shape[-2:]:
        print(f"keyframe {keyframe.shape[2]}x{keyframe.shape[1]} resized to the source's size", file=sys.stderr)
    if (height, width) != tuple(frames.shape[-2:]):
        print(f"working at {width}x{height}, the source is {frames.shape[3]}x{frames.shape[2]}", file=sys.stderr)
    result = model.propagate(frames, keyframe, settings, Progress("propagating"))

    size = frames.shape[-2:]
    result_bytes = _to_bytes(resize(result.frames, *size))
    mask_bytes = _to_bytes(resize(result.mask.expand(-1, 3, -1, -1), *size))
    key_bytes = _to_bytes(resize(as_float(keyframe)[None], *size))[0]
    rows = {
        "source": video.frames,
        "keyframe": key_bytes[None].expand_as(video.frames),
        "result": result_bytes,
        "mask": mask_bytes,
    }
    results, floors = [], []
    if truth is not None:
        rows["truth"] = _to_bytes(truth[0])
        source, target = (resize(v, height, width) for v in (as_float(frames), truth[0]))
        mask = (torch.nn.functional.interpolate(truth[1], (height, width), mode="area") > 0.5).float()
        results = [scores(result, target, source, mask)]
        floors = [
            floor_scores(model, source, target, mask, resize(as_float(keyframe)[None], height, width)[0], settings)
        ]
    metrics = summary(
        results,
        floors,
        controls={},
        frames=len(frames),
        size=[width, height],
        seconds=result.seconds,
        checkpoint=model.file.digest,
        seed=settings.seed,
    )
    metrics["settings"] = json.loads(json.dumps(vars(arguments), default=str))
    _write(out, video, rows, result_bytes, mask_bytes, metrics)
    print(f"{len(frames)} frames in {sum(result.seconds.values()):.1f} s; look at {out / 'comparison.png'}")


def _write(out: Path, video, rows, result_bytes, mask_bytes, metrics):
    """Makes every file in a hidden folder beside the others, then moves them in: old output stays until then."""
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
    try:
        write_video(staging / "result.mp4", result_bytes, video.fps, audio_from=video.audio_path)
        write_video(staging / "mask.mp4", mask_bytes, video.fps)
        comparison(rows, path=staging / "comparison.png")
        write_json(staging / "metrics.json", metrics)
        for file in sorted(staging.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
