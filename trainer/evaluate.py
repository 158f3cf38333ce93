"""Scores of adapters on held-out generated clips: `python -m trainer.evaluate --base mini --clips 64 --json FILE`.

Every clip is made by the pipeline, without compositing, and scored against its exact truth, beside the floors. Two
controls show that the model works for the right reason: with another clip's source the background must get worse, with
another keyframe the inside of the mask must change. Finished clips are kept beside the JSON, so a stopped run goes on.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from genprop_core.errors import GenPropError
from genprop_core.evaluation import FLOORS, KEYS, floor_scores, scores, summary
from genprop_core.files import write_json
from genprop_core.metrics import psnr
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .mini.clips import FIRST_HELD_OUT_SEED, FRAMES, SIZE, make_clip


def eight_bit(frames: torch.Tensor) -> torch.Tensor:
    """As a video file would hold it."""
    return (frames * 255).round() / 255


def evaluate_clip(model: GenProp, seed: int, settings: PropagateSettings, controls: bool) -> dict:
    """One clip's scores, floors and controls; the noise is seeded by the clip."""
    clip, other = make_clip(seed), make_clip(seed + 500_000) if controls else None
    source, target, keyframe = eight_bit(clip.source), eight_bit(clip.target), eight_bit(clip.target[0])
    settings = replace(settings, seed=settings.seed + seed)
    result = model.propagate(source, keyframe, settings)
    row = {
        "seed": seed,
        "result": scores(result, target, source, clip.mask),
        "floors": floor_scores(model, source, target, clip.mask, keyframe, settings),
        "seconds": result.seconds,
    }
    if controls:
        outside = 1 - clip.mask
        shuffled = model.propagate(eight_bit(other.source), keyframe, settings)
        unedited = model.propagate(source, source[0], settings)
        row["controls"] = {
            "shuffled_source_psnr_outside": psnr(shuffled.frames, target, outside),
            "other_keyframe_change_inside": ((unedited.frames - result.frames).abs() * clip.mask).sum().item()
            / (3 * clip.mask.sum().item())
            * 255,
        }
    return row


def _mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


def combine(rows: list[dict], checkpoint: str, seed: int) -> dict:
    """The summary JSON of all clips' rows."""
    seconds = {key: sum(r["seconds"][key] for r in rows) for key in rows[0]["seconds"]}
    controls = {}
    tested = [r for r in rows if "controls" in r]
    if tested:
        shuffled = _mean(r["controls"]["shuffled_source_psnr_outside"] for r in tested)
        controls = {
            "clips": len(tested),
            "shuffled_source_psnr_outside": shuffled,
            "shuffled_source_drop": _mean(r["result"]["psnr_outside"] for r in tested) - shuffled,
            "other_keyframe_change_inside": _mean(r["controls"]["other_keyframe_change_inside"] for r in tested),
        }
    return summary(
        [r["result"] for r in rows],
        [r["floors"] for r in rows],
        controls=controls,
        frames=FRAMES,
        size=[SIZE, SIZE],
        seconds=seconds,
        checkpoint=checkpoint,
        seed=seed,
    )


def table(report: dict) -> str:
    """The report as a plain text table: result first, then the floors."""
    lines = [f"{'':16}" + "".join(f"{c:>14}" for c in KEYS)]
    for name in ("result", *FLOORS):
        values = report["result"] if name == "result" else report["floors"][name]
        cells = (f"{values[c]:14.3f}" if values.get(c) is not None else f"{'-':>14}" for c in KEYS)
        lines.append(f"{name:16}" + "".join(cells))
    for key, value in report["controls"].items():
        lines.append(f"control {key}: {value:.2f}")
    return "\n".join(lines)


def parse(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini", help="the mini, or a mini trained elsewhere (default: %(default)s)")
    parser.add_argument("--adapters", help="adapter file (default: the base's own)")
    parser.add_argument("--clips", type=int, default=64, help="held-out clips (default: %(default)s)")
    parser.add_argument(
        "--controls", type=int, default=16, help="clips that the controls are run on (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--min-cfg", type=float, default=1.0)
    parser.add_argument("--max-cfg", type=float, default=3.0)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--sce-in-cond-only", action="store_true", help="no source features in guidance's empty branch")
    return parser.parse_args(argv)


def run(arguments) -> dict:
    sampler = SamplerSettings(
        arguments.steps, arguments.min_cfg, arguments.max_cfg, arguments.strength, not arguments.sce_in_cond_only
    )
    model = GenProp.from_files(arguments.base, arguments.adapters)
    settings = PropagateSettings(sampler=sampler, width=SIZE, height=SIZE, seed=arguments.seed)
    key = json.dumps(
        {"checkpoint": model.file.digest, "base": model.base.fingerprint().conv_in, "settings": str(settings)}
    )
    partial = arguments.json.with_suffix(".partial.jsonl") if arguments.json else None
    rows = {}
    if partial and partial.exists():
        lines = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        rows = {r["seed"]: r for r in lines if r.get("key") == key}
    start = time.monotonic()
    for index in range(arguments.clips):
        seed = FIRST_HELD_OUT_SEED + index
        wanted = index < arguments.controls
        if seed not in rows or (wanted and "controls" not in rows[seed]):
            rows[seed] = evaluate_clip(model, seed, settings, wanted)
            if partial:
                partial.parent.mkdir(parents=True, exist_ok=True)
                with open(partial, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **rows[seed]}) + "\n")
        left = (time.monotonic() - start) / (index + 1) * (arguments.clips - index - 1)
        print(f"\rclip {index + 1}/{arguments.clips}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ordered = [rows[FIRST_HELD_OUT_SEED + i] for i in range(arguments.clips)]
    report = combine(ordered, model.file.digest, arguments.seed)
    if arguments.json:
        write_json(arguments.json, report)
        partial.unlink(missing_ok=True)
    return report


def main(argv=None) -> int:
    try:
        print(table(run(parse(argv))))
    except GenPropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
