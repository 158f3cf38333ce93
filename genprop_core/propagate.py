"""The `propagate` command: files in, `GenProp.propagate`, files out."""

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch

from .base import SAMPLED
from .clip_files import ClipFiles, read_clip
from .device import chosen_device
from .errors import GenPropError
from .evaluation import floor_scores, scores, summary
from .frames import as_float, resize
from .long_clip import ClipResult, ClipSettings
from .pipeline import GenProp, PropagateSettings, Result
from .result_files import check_inputs_stay, write_result
from .sampler import SamplerSettings
from .video_write import check_encoder

NUMBERS = ("min_cfg", "max_cfg", "strength", "sigma_min", "fps", "motion_bucket", "noise_aug")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def settings_of(arguments) -> PropagateSettings:
    if arguments.steps is not None and arguments.steps < 1:
        raise GenPropError(f"--steps must be at least 1, got {arguments.steps}.")
    for name in NUMBERS:
        value = getattr(arguments, name)
        if value is not None and not math.isfinite(value):
            raise GenPropError(f"--{name.replace('_', '-')} must be a number, got {value}.")
    sampler = SamplerSettings(
        arguments.steps, arguments.min_cfg, arguments.max_cfg, arguments.strength, guide=arguments.guide,
        sigma_min=arguments.sigma_min,
    )  # fmt: skip
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
        clip=clip_settings_of(arguments),
    )


def clip_settings_of(arguments) -> ClipSettings:
    return ClipSettings(
        overlap=arguments.overlap,
        find_shots=arguments.shots == "on",
        composite=arguments.composite == "on",
        grow=arguments.grow,
        feather=arguments.feather,
        mask_mode=arguments.mask_mode,
        second_pass=arguments.second_pass,
        colour=arguments.colour_match,
        refine=arguments.refine == "on",
        crop=arguments.crop,
        inner_keyframes=arguments.inner_keyframes == "on",
        guide_later=arguments.guide_later == "on",
        clean_plate=arguments.clean_plate == "on",
        look_ahead=arguments.look_ahead == "on",
    )


class Progress:
    """One line that rewrites itself: share done and time left. Plain lines where the output is not a terminal.

    The time left is told from what passed since the line was made, or since nothing was done.
    """

    def __init__(self, label, of="steps", stream=None):
        self.label, self.of, self.stream = label, of, stream or sys.stderr
        self.start, self.last = time.monotonic(), 0.0

    def __call__(self, done, total):
        now = time.monotonic()
        if not done:
            self.start = now
            return
        left = (now - self.start) / done * (total - done)
        text = f"{self.label} {done:3d}/{total} {self.of}, {left:.0f} s left"
        if self.stream.isatty():
            print(f"\r{text}   ", end="\n" if done == total else "", file=self.stream, flush=True)
        elif done == total or now - self.last > 5:
            self.last = now
            print(text, file=self.stream, flush=True)


def check_writable(out: Path, lossless: bool = False):
    """Raises GenPropError before any work when the output folder or its videos cannot be written."""
    check_encoder()
    check_encoder(lossless)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise GenPropError(
            f"Expected a folder to write to, but {out} cannot be written ({error.strerror}). Choose another --out."
        ) from None


def load_model(arguments, device: str) -> GenProp:
    """The model on a device, which is told: a long run may be meant for another."""
    found = ", as no accelerator that works was found" if arguments.device is None and device == "cpu" else ""
    print(f"running on {device}{found}", file=sys.stderr)
    return GenProp.from_files(
        arguments.base,
        arguments.adapters,
        dtype=DTYPES[arguments.dtype],
        device=device,
        vae=arguments.vae,
        offload=arguments.offload,
    )


def checked(arguments) -> tuple[PropagateSettings, ClipFiles]:
    """A clip's settings and files. Raises GenPropError, before any work, for what does not fit or cannot be written."""
    settings = settings_of(arguments)
    if arguments.out is not None:
        check_inputs_stay(arguments)
    files = read_clip(arguments)
    check_writable(arguments.out, arguments.lossless == "on")
    return settings, files


def run(arguments):
    """Everything is checked before the model runs; files appear in --out only when all of them are made."""
    settings, files = checked(arguments)
    propagate_files(load_model(arguments, chosen_device(arguments.device)), files, settings, arguments, "propagating")


def propagate_files(model: GenProp, files: ClipFiles, settings, arguments, label=None, say=print, facts=None):
    """One clip from its files to the files in arguments.out; `say` gets what the user should read.

    settings: PropagateSettings; label: of the lines that tell how far it is, None for no such lines; facts: more
    to write into metrics.json.
    """
    frames, out, settings = files.frames, arguments.out, model.resolved(settings)
    height, width = model.working_size(*frames.shape[-2:], settings)
    keyframe = next(iter(files.keyframes.values()))
    if keyframe.shape[-2:] != frames.shape[-2:]:
        print(f"keyframe {keyframe.shape[2]}x{keyframe.shape[1]} resized to the source's size", file=sys.stderr)
    if (height, width) != tuple(frames.shape[-2:]):
        print(f"working at {width}x{height}, the source is {frames.shape[3]}x{frames.shape[2]}", file=sys.stderr)
    started = time.perf_counter()
    lines = () if label is None else (Progress(label), Progress(f"{label}: finishing", "passes over a frame"))
    result = model.propagate_clip(frames, files.keyframes, settings, files.mask, *lines)
    seconds = time.perf_counter() - started
    results, floors = [], []
    if files.truth is not None:
        results, floors = _scored(model, result, files, settings)
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
    resolved = {name: getattr(settings.sampler, name) for name in SAMPLED} | {"device": str(model.device)}
    notes = files.notes + result.notes()
    metrics |= {
        "windows": len(result.windows),
        "shots": result.shots,
        "shots_without_keyframe": result.untouched,
        "confidence": [round(v, 4) for v in result.confidence.tolist()],
        "change_outside": [round(v, 3) for v in result.change_outside.tolist()],
        "re_edit": [list(stretch) for stretch in result.doubtful],
        "uneven_timing": files.video.uneven,
        "notes": notes,
        "settings": json.loads(json.dumps(vars(arguments) | resolved, default=str)),
        **(facts or {}),
    }
    notes += write_result(out, files, result, settings.clip, metrics, lossless=arguments.lossless == "on")
    for note in notes:
        say(note)
    say(f"{len(frames)} frames in {seconds:.1f} s; look at {out / 'comparison.png'}")


def _scored(model, result: ClipResult, files: ClipFiles, settings):
    """([scores], [floors]) at the working size, of what the model made where that is the whole frame (not composited);
    of the finished clip where the frame was padded or a region cut out."""
    height, width = result.fit.size if result.region is None else model.working_size(*files.frames.shape[-2:], settings)
    whole = result.region is None and result.fit.inner == result.fit.size
    made = result.generated if whole else result.frames
    source, target, made = (resize(as_float(v), height, width) for v in (files.frames, files.truth[0], made))
    mask = (torch.nn.functional.interpolate(files.truth[1], (height, width), mode="area") > 0.5).float()
    index, keyframe = next(iter(files.keyframes.items()))
    key = resize(as_float(keyframe)[None], height, width)[0]
    return [scores(Result(made, result.mask_probability if whole else None, None), target, source, mask)], [
        floor_scores(model, source, target, mask, key, settings, index)
    ]
