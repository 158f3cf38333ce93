"""What a run says: a live line, log.jsonl, and TensorBoard or W&B through Accelerate's trackers."""

import importlib.util
import io
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genprop_core.errors import GenPropError
from genprop_core.files import atomic, writing

MAKE_SPACE = "Make space, then continue with --resume_from_checkpoint latest."


def check_tracker(name: str):
    """Raises GenPropError when a tracker is asked for but not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise GenPropError(
            f"Expected {name} to be installed for --tracker {name}. Run: pip install {name}; "
            "or give --tracker none (log.jsonl is always written)."
        )


def read_log(path) -> list[dict]:
    """The rows of a log, one JSON object a line; lines cut off by a kill are left out. None where there is no file."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class Live:
    """One line that rewrites itself on a terminal; elsewhere a plain line every `seconds`."""

    def __init__(self, enabled=True, stream=None, seconds=10.0):
        self.enabled, self.stream, self.seconds, self.last = enabled, stream or sys.stderr, seconds, 0.0

    def show(self, text: str, final=False):
        now = time.monotonic()
        if not self.enabled:
            return
        if self.stream.isatty():
            self.stream.write(f"\r{text:<110}" + ("\n" if final else ""))
            self.stream.flush()
        elif final or now - self.last > self.seconds:
            self.last = now
            self.stream.write(text + "\n")
            self.stream.flush()

    def counter(self, label: str):
        """A progress(done, total) function with the time left."""
        start = time.monotonic()

        def progress(done, total):
            left = (time.monotonic() - start) / max(done, 1) * (total - done)
            self.show(f"{label} {done}/{total}, {left:.0f} s left", final=done == total)

        return progress


def drop_later(path, step: int):
    """Rewrites a log without the rows after `step`, which a resumed run writes again, and without a line cut off."""
    rows = [row for row in read_log(path) if row["step"] <= step]
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class RunLog:
    """Logs of one run; only the main process writes. A resumed run drops the rows of steps that it does again.

    Raises GenPropError when log.jsonl cannot be written.
    """

    def __init__(self, accelerator, args, settings: dict, step: int, total: int):
        self.accelerator, self.step, self.total = accelerator, step, total
        self.live = Live(accelerator.is_main_process)
        self.path, self.seconds, self.first = Path(args.output_dir) / "log.jsonl", 0.0, step
        self.tracker = args.tracker
        if accelerator.is_main_process:
            with writing("The log", self.path, MAKE_SPACE):
                drop_later(self.path, step)
        if args.tracker != "none":
            _start_tracker(accelerator, args, settings)

    def _write(self, row: dict):
        if self.accelerator.is_main_process:
            with writing("The log", self.path, MAKE_SPACE), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def train(self, step: int, epoch: int, values: dict, seconds: float):
        """One optimiser step: its losses, rates and counts."""
        self.seconds += seconds
        self._write({"step": step, "epoch": epoch, **values})
        self.accelerator.log({f"train/{k}": v for k, v in values.items()}, step=step)
        left = self.seconds / max(step - self.first, 1) * (self.total - step)
        self.live.show(
            f"step {step}/{self.total} epoch {epoch} L_total {values['L_total']:.4f} lr {values['lr']:.2e} "
            f"{values['clips_per_second']:.2f} clips/s, {left:.0f} s left",
            final=step == self.total,
        )

    def validation(self, step: int, epoch: int, metrics: dict, folder: Path):
        """Metrics of a validation with its sheet and videos."""
        values = {f"validation/{k}": v for k, v in _numbers(metrics["result"])}
        for name, floor in metrics["floors"].items():
            values |= {f"floors/{name}/{k}": v for k, v in _numbers(floor)}
        self._write({"step": step, "epoch": epoch, "validation": metrics["result"], "floors": metrics["floors"]})
        self.accelerator.log(values, step=step)
        if not self.accelerator.is_main_process or self.tracker == "none":
            return
        writer = self.accelerator.get_tracker(self.tracker, unwrap=True)
        videos = sorted(folder.glob("val_sample_*.mp4"))
        if self.tracker == "wandb":
            import wandb

            media = {f"validation/{v.stem}": wandb.Video(str(v), format="mp4") for v in videos}
            writer.log({"validation/sheet": wandb.Image(str(folder / "sheet.png")), **media}, step=step)
        else:
            writer.add_image("validation/sheet", np.asarray(Image.open(folder / "sheet.png")), step, dataformats="HWC")
            for video in videos:
                _add_gif(writer, f"validation/{video.stem}", video, step)
            writer.flush()

    def close(self):
        self.accelerator.end_training()


def _start_tracker(accelerator, args, settings: dict):
    """Starts --tracker for the run, with its settings. Raises GenPropError where W&B cannot be reached."""
    # TensorBoard takes plain values only
    plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in settings.items()}
    if args.tracker != "wandb":
        accelerator.init_trackers(args.wandb_project, config=plain)
        return
    import wandb

    # `dir` would override W&B's own variable
    extra = {"entity": args.wandb_entity, "dir": os.environ.get("WANDB_DIR") or args.output_dir}
    try:
        accelerator.init_trackers(args.wandb_project, config=plain, init_kwargs={"wandb": extra})
    except wandb.errors.Error as error:
        raise GenPropError(
            f"W&B did not start: {str(error).splitlines()[0]} "
            "Log in, set WANDB_MODE=offline, or choose another --tracker."
        ) from None


def _numbers(scores: dict) -> list[tuple[str, float]]:
    return [(name, value) for name, value in scores.items() if isinstance(value, (int, float))]


def _add_gif(writer, tag: str, path: Path, step: int):
    """A video in TensorBoard's image tab, as an animated GIF (its own `add_video` needs moviepy)."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    from genprop_core.video_io import read_video

    video = read_video(path)
    frames = [Image.fromarray(frame.numpy()) for frame in video.frames]
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=int(1000 / video.fps), loop=0)
    picture = Summary.Image(
        height=frames[0].height, width=frames[0].width, colorspace=3, encoded_image_string=data.getvalue()
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)


def mean_over_processes(accelerator, terms: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The loss terms of one optimiser step, averaged over its forward passes and over processes; counts are summed."""
    names = sorted(terms[0])
    rows = torch.stack([torch.stack([t[n].detach().float() for n in names]) for t in terms])
    rows = accelerator.reduce(rows.mean(0), reduction="mean")
    values = dict(zip(names, rows.tolist()))
    values["without_mask"] = round(values["without_mask"] * len(terms) * accelerator.num_processes)
    return {("L_" + k if k != "without_mask" else k): v for k, v in values.items()}
