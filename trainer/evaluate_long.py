"""Long clips measured: `python -m trainer.evaluate_long --json docs/long_clips.json --markdown docs/long_clips.md`.

Held-out clips of the mini's generator, 64 frames long, so in many windows: whether anything drifts, jumps where windows
meet or is forgotten; what a second keyframe brings; and a table of every step that can be switched on or off. Nothing
is composited, unless a column says so. Finished clips are kept beside the JSON, so a stopped run goes on.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from genprop_core.compositing import composite
from genprop_core.confidence import to_size
from genprop_core.errors import GenPropError, exit_code
from genprop_core.files import write_json
from genprop_core.frames import as_bytes, as_float
from genprop_core.long_clip import ClipSettings
from genprop_core.metrics import colour_drift, iou, psnr, seam_jump
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings
from genprop_core.windows import default_overlap

from .encoder import weights_digest
from .kept_rows import KeptRows
from .long_tables import markdown, put_into
from .mini.clips import FIRST_HELD_OUT_SEED, FRAMES, SIZE, make_clip

NEAR = 4  # frames that stand for one in the scores inside the mask, so that an occluded moment does not decide
GUIDED = 3.0  # guidance at the last frame in the variants named so
LARGE = 2 * SIZE  # of the frames in which the same shapes are a small edit
BASE = ClipSettings(find_shots=False)
MASKED = "mask of every frame"  # the variant in which the user gives the true one
MEASURED_ON_ALL = 5  # of the variants; the others have fewer clips
FIRST, ENDS, EVERY = "first frame", "both ends", "every window"
VARIANTS = {  # name -> (settings, size of the frames, which have a keyframe)
    "as it is": (BASE, SIZE, FIRST),
    "two keyframes": (BASE, SIZE, ENDS),
    "clean plate": (replace(BASE, clean_plate=True), SIZE, FIRST),
    "no looking ahead": (replace(BASE, look_ahead=False), SIZE, FIRST),
    "a keyframe in every window": (BASE, SIZE, EVERY),
    "inner keyframes": (replace(BASE, inner_keyframes=True), SIZE, ENDS),
    "without anchoring": (replace(BASE, anchor=False), SIZE, FIRST),
    "nothing passes through": (replace(BASE, passing=False), SIZE, FIRST),
    "nothing seen before": (replace(BASE, behind=False), SIZE, FIRST),
    MASKED: (BASE, SIZE, FIRST),
    "overlap of 1 frame": (replace(BASE, overlap=1), SIZE, FIRST),
    "guidance 1 to 3": (BASE, SIZE, FIRST),
    "guidance 1 to 3 in every window": (replace(BASE, guide_later=True), SIZE, FIRST),
    "without colour match": (replace(BASE, colour="off"), SIZE, FIRST),
    "colour match: offset": (replace(BASE, colour="offset"), SIZE, FIRST),
    "colour match: gain": (replace(BASE, colour="gain"), SIZE, FIRST),
    "colour match: smooth": (replace(BASE, colour="smooth"), SIZE, FIRST),
    "second pass, black": (replace(BASE, second_pass="black"), SIZE, FIRST),
    "second pass, blur": (replace(BASE, second_pass="blur"), SIZE, FIRST),
    "refined mask": (replace(BASE, refine=True), SIZE, FIRST),
    "large frame": (BASE, LARGE, FIRST),
    "large frame, crop": (replace(BASE, crop="auto"), LARGE, FIRST),
}


def measure(model: GenProp, seed: int, frames: int, name: str, settings: PropagateSettings) -> dict:
    """One clip in one variant: its scores, and the seconds of processor time it took."""
    clip_settings, size, which = VARIANTS[name]
    clip = make_clip(seed, frames, size)
    source, target = as_bytes(clip.source), as_bytes(clip.target)
    given = {FIRST: [0], ENDS: [0, frames - 1], EVERY: range(0, frames, FRAMES - default_overlap(FRAMES))}[which]
    keyframes = {index: target[index] for index in given}
    if name.startswith("guidance"):
        settings = replace(settings, sampler=replace(settings.sampler, max_cfg=GUIDED))
    started = time.process_time()
    settings = replace(settings, clip=clip_settings, seed=settings.seed + seed)
    result = model.propagate_clip(source, keyframes, settings, as_bytes(clip.mask) if name == MASKED else None)
    seconds = time.process_time() - started
    made, truth, outside = as_float(result.frames), as_float(target), 1 - clip.mask
    whole = composite(source, result.frames, result.mask)
    half, last = slice(frames // 2, None), slice(frames - FRAMES, None)
    return {
        "psnr": psnr(made, truth),
        "psnr_outside": psnr(made, truth, outside),
        "psnr_inside": psnr(made, truth, clip.mask),
        "psnr_composited": psnr(as_float(whole), truth),
        "mask_iou": iou(result.mask > 127, clip.mask > 0.5),
        "seam_jump": seam_jump(made, result.seams),
        "colour_drift": colour_drift(made, truth, clip.mask),
        "outside_first_window": psnr(made[:FRAMES], truth[:FRAMES], outside[:FRAMES]),
        "outside_last_window": psnr(made[last], truth[last], outside[last]),
        "inside_at_8": _inside(made, truth, clip.mask, FRAMES),
        "inside_at_end": _inside(made, truth, clip.mask, frames),
        "second_half": psnr(made[half], truth[half]),
        "second_half_composited": psnr(as_float(whole[half]), truth[half]),
        "second_half_inside": psnr(made[half], truth[half], clip.mask[half]),
        "confidence": float(result.confidence.mean()),
        "told_apart": _told_apart(result, made, truth, clip.mask),
        "windows": len(result.windows),
        "seconds": seconds,
    }


def _inside(made, truth, mask, stop: int):
    """PSNR inside the mask over the frames that end before `stop`; None where the object is out of sight."""
    part = slice(max(0, stop - NEAR), stop)
    return psnr(made[part], truth[part], mask[part])


def _told_apart(result, made, truth, mask):
    """Spearman's rank correlation of a frame's confidence with its PSNR in and around the mask; 1 is the best guide.

    None with fewer than three frames to rank, and where all are equally confident or equally good.
    """
    near = to_size(torch.nn.functional.max_pool2d(mask, 9, stride=1, padding=4), *made.shape[-2:])
    quality = [psnr(made[t : t + 1], truth[t : t + 1], near[t : t + 1]) for t in range(len(made))]
    seen = [t for t, q in enumerate(quality) if q is not None]
    if len(seen) < 3:
        return None
    ranks = [_ranks(torch.tensor(v)) for v in ([quality[t] for t in seen], result.confidence[seen].tolist())]
    if any(r.eq(r[0]).all() for r in ranks):
        return None
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0, float64; equal values share the mean of theirs, so that their order in time counts for nothing."""
    below, equal = ((op(values[None], values[:, None])).sum(1) for op in (torch.lt, torch.eq))
    return below + (equal.double() - 1) / 2


def parse(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate_long", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--adapters", help="adapter file (default: the base's own)")
    parser.add_argument("--clips", type=int, default=16, help="held-out clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=64, help="of every clip (default: %(default)s)")
    parser.add_argument("--ablation-clips", type=int, default=4,
                        help="clips for the variants other than the first five (default: %(default)s)")  # fmt: skip
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME",
                        help="of: " + ", ".join(VARIANTS))  # fmt: skip
    parser.add_argument("--steps", type=int, help="denoising (default: the base's, 25 for SVD and 2 for the mini)")
    parser.add_argument("--max-cfg", type=float, help="guidance (default: the base's, 3 for SVD and 1 for the mini)")
    parser.add_argument("--solver", default="euler", help="of the sampler (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--markdown", type=Path, help="page whose part between the two marks is written anew")
    return parser.parse_args(argv)


def run(arguments) -> dict:
    if arguments.frames < 2 * FRAMES or arguments.clips < 1:
        raise GenPropError(
            f"Expected at least 1 clip of {2 * FRAMES} frames, got {arguments.clips} of {arguments.frames}."
        )
    model = GenProp.from_files(arguments.base, arguments.adapters, device=arguments.device)
    sampler = SamplerSettings(arguments.steps, max_cfg=arguments.max_cfg, solver=arguments.solver, sigma_min=None)
    settings = model.resolved(PropagateSettings(sampler=sampler, width=SIZE, height=SIZE, seed=arguments.seed))
    base = weights_digest(*model.base.parts())
    key = json.dumps([model.file.digest, base, str(settings), arguments.frames])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    kept = KeptRows(arguments.json, key)
    rows = _reported(arguments.json, key) | {(line["name"], line["seed"]): line["row"] for line in kept.read()}
    few = min(arguments.clips, arguments.ablation_clips)
    wanted = [(name, FIRST_HELD_OUT_SEED + i) for n, name in enumerate(VARIANTS) if name in arguments.variants
              for i in range(arguments.clips if n < MEASURED_ON_ALL else few)]  # fmt: skip
    for number, (name, seed) in enumerate(wanted, 1):
        print(f"{number}/{len(wanted)}: {name}, clip {seed}", file=sys.stderr, flush=True)
        if (name, seed) in rows:
            continue
        rows[name, seed] = measure(model, seed, arguments.frames, name, settings)
        kept.add({"name": name, "seed": seed, "row": rows[name, seed]})
    report = {
        "frames": arguments.frames,
        "steps": settings.sampler.steps,
        "max_cfg": settings.sampler.max_cfg,
        "solver": arguments.solver,
        "checkpoint": model.file.digest,
        "seed": arguments.seed,
        "key": key,
        "variants": {
            name: {str(seed): rows[name, seed] for other, seed in wanted if other == name}
            for name in VARIANTS
            if name in arguments.variants
        },
    }
    if arguments.json:
        write_json(arguments.json, report)
    kept.remove()
    return report


def _reported(path, key) -> dict:
    """{(variant, seed): row} of an earlier report with the same weights and settings."""
    if path is None or not path.exists():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    variants = report["variants"].items() if report.get("key") == key else ()
    return {(name, int(seed)): row for name, rows in variants for seed, row in rows.items()}


def main(argv=None) -> int:
    arguments = parse(argv)

    def body():
        text = markdown(run(arguments))
        if arguments.markdown:
            put_into(arguments.markdown, text)
        print(text)

    return exit_code(body)


if __name__ == "__main__":
    sys.exit(main())
