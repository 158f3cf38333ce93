"""Validation: the averaged weights propagate the validation clips; videos, a sheet and metrics with floors."""

import json
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object

from genprop_core import evaluation
from genprop_core.adapters import GenPropAdapters
from genprop_core.checkpoint import AdapterFile, digest_of
from genprop_core.errors import GenPropError
from genprop_core.files import write_json
from genprop_core.out_of_memory import OutOfMemory, explained
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.report import comparison, frame_indices
from genprop_core.sampler import SamplerSettings
from genprop_core.video_io import probe, write_image, write_video

from .dataset import Triple, check_triple, read_window, working_size

FAST_CLIPS, FAST_STEPS = 4, 8
LEAVE_OUT = (
    "That was in validation. Go on without it by --val_interval 0 --resume_from_checkpoint latest; trainer.evaluate "
    "scores the adapters afterwards, on any device."
)
SHEET_CLIPS, SHEET_FRAMES = 8, 8  # of each


@contextmanager
def enough_to_validate():
    """Within, running out of memory is a GenPropError that says how to go on without validation."""
    try:
        with explained("validating", "these weights"):
            yield
    except OutOfMemory as error:
        raise GenPropError(f"{error.problem} {LEAVE_OUT}") from None


def to_bytes(frames: torch.Tensor) -> torch.Tensor:
    """float [T,C,H,W] in [0,1] with 1 or 3 channels -> uint8 [T,H,W,3]."""
    return (frames.expand(-1, 3, -1, -1) * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


class Validator:
    """The validation clips with their settings. Floors do not change with the weights: they are measured once."""

    def __init__(self, args, triples: list[Triple], base, accelerator):
        self.args, self.base, self.accelerator = args, base, accelerator
        self.triples = triples[:FAST_CLIPS] if args.fast_validation else triples
        self.facts = [check_triple(t, args.val_num_frames, "--val_num_frames") for t in self.triples]
        self.floors: dict[int, dict] = {}

    def folder(self, name: str) -> Path:
        return Path(self.args.val_out_dir) / name

    def is_done(self, name: str, step: int, adapters: GenPropAdapters) -> bool:
        """Whether this folder holds the whole validation of these adapters at this step, not that of another run."""
        file = self.folder(name) / "metrics.json"
        if not file.exists():
            return False
        found = json.loads(file.read_text(encoding="utf-8"))
        return (found.get("step"), found.get("checkpoint")) == (step, digest_of(adapters))

    def settings(self, index: int, size) -> PropagateSettings:
        steps = self.args.num_inference_steps
        steps = min(FAST_STEPS, steps) if self.args.fast_validation else steps
        sampler = SamplerSettings(steps, 1.0, self.args.guidance_scale, sigma_min=None)
        return PropagateSettings(
            sampler, self.triples[index].task, size[1], size[0], self.args.num_frames, seed=self.args.seed + index,
            decode_chunk=self.args.val_decode_chunk, clip=evaluation.ALONE,
        )

    def run(self, adapters: GenPropAdapters, name: str, step: int, progress=None) -> dict:
        """Every process makes its share of the clips; the metrics come back in all. Writes into the folder `name`.

        adapters: of the averaged weights; they are moved and cast. metrics.json names them by the digest that the file
        which is saved of them has, and tells the run's settings.
        """
        out, acc = self.folder(name), self.accelerator
        digest = digest_of(adapters)
        file = AdapterFile(adapters.eval(), self.base.fingerprint(), {}, f"step {step}", digest)
        if acc.is_main_process:
            (out / "metrics.json").unlink(missing_ok=True)
        model = GenProp(self.base, file, acc.device)
        mine = list(range(len(self.triples)))[acc.process_index :: acc.num_processes]
        made = []
        for done, index in enumerate(mine, 1):
            made.append(self._sample(model, index, out))
            if progress is not None:
                progress(done, len(mine))
        rows = sorted(gather_object(made), key=lambda row: row["index"])
        sizes = sorted({tuple(row["size"]) for row in rows})
        seconds = {k: sum(row["seconds"][k] for row in rows) / len(rows) for k in rows[0]["seconds"]}
        metrics = evaluation.summary(
            [row["scores"] for row in rows],
            [row["floors"] for row in rows],
            controls={},
            frames=self.args.val_num_frames,
            size=list(sizes[0]) if len(sizes) == 1 else [list(s) for s in sizes],
            seconds=seconds,
            checkpoint=digest,
            seed=self.args.seed,
        )
        metrics |= {"step": step, "settings": json.loads(json.dumps(vars(self.args), default=str))}
        if acc.is_main_process:
            self._sheet(rows, out)
            write_json(out / "metrics.json", metrics)  # last: where it is, the validation is complete
        acc.wait_for_everyone()
        return metrics

    def _sample(self, model: GenProp, index: int, out: Path) -> dict:
        triple, facts = self.triples[index], self.facts[index]
        size = working_size(facts.width, facts.height, self.args.resolution, self.base.size_multiple)
        window = read_window(triple, size, 0, self.args.val_num_frames)
        source, target, keyframe = window["source"], window["target"], window["target"][0]
        mask = (window["mask"] > 0.5).float()
        settings = self.settings(index, size)
        result = model.propagate(source, keyframe, settings)
        if index not in self.floors:
            self.floors[index] = evaluation.floor_scores(model, source, target, mask, keyframe, settings)
        frames, predicted = to_bytes(result.frames), to_bytes(F.interpolate(result.mask, size, mode="nearest"))
        fps = probe(triple.source).fps
        write_video(out / f"val_sample_{index}.mp4", frames, fps)
        write_video(out / f"val_sample_{index}_mask.mp4", predicted, fps)
        write_image(out / f"val_sample_{index}_input.png", to_bytes(keyframe[None])[0])
        shown = {"source": to_bytes(source), "result": frames, "truth": to_bytes(target), "mask": predicted}
        # of every clip these go to every process
        shown = {part: whole[self._of_the_sheet()] for part, whole in shown.items()}
        return {
            "index": index,
            "size": [size[1], size[0]],
            "scores": evaluation.scores(result, target, source, mask),
            "floors": self.floors[index],
            "seconds": result.seconds,
            "shown": shown if index < SHEET_CLIPS else None,
        }

    def _of_the_sheet(self) -> list[int]:
        """The frames of a clip that it shows."""
        return frame_indices(self.args.val_num_frames, SHEET_FRAMES)

    def _sheet(self, rows: list[dict], out: Path):
        """sheet.png: source, result, truth and predicted mask of the first clips, over time, at one size."""
        shown = {
            f"{row['index']} {part}": frames for row in rows if row["shown"] for part, frames in row["shown"].items()
        }
        height, width = next(iter(shown.values())).shape[1:3]
        same = {
            name: to_bytes(F.interpolate(frames.movedim(-1, 1).float() / 255, (height, width), mode="area"))
            if frames.shape[1:3] != (height, width)
            else frames
            for name, frames in shown.items()
        }
        comparison(same, path=out / "sheet.png", numbers=self._of_the_sheet())
