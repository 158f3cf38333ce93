"""What scoring a clip takes, and the processes that share the clips."""

import hashlib
import json
import multiprocessing
import queue
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from genprop_core.errors import GenPropError
from genprop_core.evaluation import ALONE
from genprop_core.metrics import psnr
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .baselines import NAMES, VERSION, BaselineCache
from .encoder import weights_digest
from .evaluation_clips import DataFolder, EvalClip, HeldOut
from .film_strip import film_strip
from .learned_metrics import LearnedMetrics
from .score_table import curves, score_clip

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Bench:
    """What every clip is scored with. cache: of baselines; shown: whether pictures for the HTML report are kept."""

    model: GenProp
    clips: HeldOut | DataFolder
    settings: PropagateSettings
    baselines: tuple[str, ...]
    cache: BaselineCache
    learned: LearnedMetrics
    shown: bool


def controls_of(bench: Bench, clip: EvalClip, other, settings, result) -> dict:
    """What another source does to the outside of the mask, and another keyframe to its inside.

    None where the clip does not allow it: no other clip of its shape, no truth, nothing marked in its mask.
    """
    shuffled = change = None
    if other is not None and other.shape == clip.source.shape and clip.target is not None:
        made = bench.model.propagate(other, clip.keyframe, settings)
        shuffled = psnr(made.frames, clip.target, 1 - clip.mask)
    marked = clip.mask.sum().item()
    if marked:
        unedited = bench.model.propagate(clip.source, clip.source[0], settings)
        change = ((unedited.frames - result.frames).abs() * clip.mask).sum().item() / (3 * marked) * 255
    return {"shuffled_source_psnr_outside": shuffled, "other_keyframe_change_inside": change}


def evaluate_clip(bench: Bench, index: int, controls: bool) -> dict:
    """One clip's scores, floors and controls; the noise is seeded by the clip.

    {"clip", "skipped": why} for a clip that cannot be read: it must not cost the scores of the others.
    """
    try:
        clip = bench.clips[index]
    except GenPropError as error:
        return {"clip": bench.clips.names[index], "skipped": str(error)}
    height, width = clip.source.shape[-2:]
    settings = replace(bench.settings, width=width, height=height, task=clip.task, seed=bench.settings.seed + clip.seed)
    result = bench.model.propagate(clip.source, clip.keyframe, settings)
    floors = bench.cache.frames(bench.model, clip, settings, bench.baselines)
    row = {
        "clip": clip.name,
        "seed": clip.seed,
        "frames": len(clip.source),
        "size": [width, height],
        "notes": clip.notes,
        "result": score_clip(result.frames, clip, result.mask, result.seams, bench.learned),
        "floors": {name: score_clip(frames, clip, learned=bench.learned) for name, frames in floors.items()},
        "seconds": result.seconds,
    }
    if controls:  # nothing of a clip without a mask, so that a run which goes on does not make it again
        has_mask = clip.mask is not None
        row["controls"] = controls_of(bench, clip, bench.clips.other(index), settings, result) if has_mask else {}
    if bench.shown:
        row["curves"] = {"result": curves(result.frames, clip)} | {n: curves(f, clip) for n, f in floors.items()}
        truth = {} if clip.target is None else {"truth": clip.target}
        others = {n.replace("_", " "): floors[n] for n in ("plain_svd", "latent_blending", "telea") if n in floors}
        row["strip"] = film_strip({"source": clip.source, "result": result.frames, **truth, **others}, result.mask)
    return row


def make_bench(arguments) -> Bench:
    """The model and the clips of a command line. Raises GenPropError for names and folders that do not exist."""
    names = () if arguments.baselines == "none" else tuple(arguments.baselines.split(","))
    unknown = [n for n in names if n not in NAMES]
    if unknown:
        raise GenPropError(f"Expected --baselines of {', '.join(NAMES)}, or none, got {', '.join(unknown)}.")
    extra = {} if arguments.guidance_range is None else {"guidance_range": tuple(arguments.guidance_range)}
    sampler = SamplerSettings(
        arguments.steps, arguments.min_cfg, arguments.max_cfg, arguments.strength, not arguments.sce_in_cond_only,
        arguments.solver, **extra, guide=arguments.guide, sigma_min=arguments.sigma_min,
    )  # fmt: skip
    model = GenProp.from_files(
        arguments.base, arguments.adapters, dtype=DTYPES[arguments.dtype], device=arguments.device
    )
    if arguments.data is None:
        clips = HeldOut(arguments.clips or 64)
    else:
        clips = DataFolder(
            arguments.data, arguments.resolution, model.base.size_multiple, arguments.frames, arguments.clips
        )
    settings = model.resolved(PropagateSettings(sampler=sampler, seed=arguments.seed, clip=ALONE))
    data = None if arguments.data is None else [str(arguments.data.resolve()), arguments.frames, arguments.resolution]
    of_the_adapters = ("strength", "sce_in_empty_branch", "guide")
    facts = {
        "base": weights_digest(model.base.unet, model.base.vae, model.base.image_encoder),
        "sampler": {k: v for k, v in asdict(settings.sampler).items() if k not in of_the_adapters},
        "data": data,
        "version": VERSION,
    }
    folder = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    cache = BaselineCache(None if arguments.cache == "none" else Path(arguments.cache) / folder, facts)
    learned = LearnedMetrics(arguments.clip_weights, device=model.device)
    return Bench(model, clips, settings, names, cache, learned, arguments.html is not None)


def threads_of(workers: int) -> int:
    """The threads of each of so many processes."""
    return max(1, torch.get_num_threads() // workers)


def _work(arguments, threads: int, jobs, rows):
    """A process: scores its share of the clips and puts the rows, or the error that stopped it, into the queue."""
    torch.set_num_threads(threads)
    try:
        bench = make_bench(arguments)
        for job in jobs:
            rows.put(evaluate_clip(bench, *job))
    except GenPropError as error:
        rows.put(error)


def shared_rows(arguments, todo: list[tuple[int, bool]]):
    """Yields the rows of these (index, with controls) from --workers processes, as they get ready."""
    spawn, threads = multiprocessing.get_context("spawn"), threads_of(arguments.workers)
    rows = spawn.Queue()
    shares = [todo[i :: arguments.workers] for i in range(arguments.workers)]
    workers = [spawn.Process(target=_work, args=(arguments, threads, s, rows), daemon=True) for s in shares if s]
    for worker in workers:
        worker.start()
    try:
        for _ in todo:
            row = None
            while row is None:
                try:
                    row = rows.get(timeout=5)
                except queue.Empty:
                    if any(worker.exitcode for worker in workers):
                        raise GenPropError(
                            "Expected every worker to finish, but one was stopped, perhaps for want of memory. "
                            "Use fewer --workers; finished clips are kept."
                        ) from None
            if isinstance(row, GenPropError):
                raise row
            yield row
    finally:
        for worker in workers:
            worker.terminate()
