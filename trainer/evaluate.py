"""Scores of adapters on clips they were not trained on: `python -m trainer.evaluate --clips 64 --json FILE`.

Every clip is made by the pipeline, without compositing, and scored against its truth, beside floors and baselines. Two
controls show that the model works for the right reason: with another clip's source the background must get worse, with
another keyframe the inside of the mask must change. Finished clips are kept beside the JSON, so a stopped run goes on;
baselines do not depend on the adapters and are kept for every later run.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from genprop_core.errors import GenPropError, exit_code
from genprop_core.evaluation import KEYS
from genprop_core.files import atomic, write_json
from genprop_core.machine import facts
from genprop_core.out_of_memory import SETTINGS, in_words_of
from genprop_core.sampler import GUIDES, SOLVERS

from .arguments import resolution
from .baselines import NAMES
from .evaluation_bench import DTYPES, Bench, evaluate_clip, make_bench, shared_rows, threads_of
from .html_report import page
from .kept_rows import KeptRows
from .learned_metrics import CLIP
from .score_table import combine, table

__all__ = ["KEYS", "command", "control_means", "main", "parse", "run", "table"]


def _mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def control_means(rows: list[dict]) -> dict:
    tested = [r for r in rows if r.get("controls")]
    if not tested:
        return {}
    shuffled = [r for r in tested if r["controls"]["shuffled_source_psnr_outside"] is not None]
    worse = _mean(r["controls"]["shuffled_source_psnr_outside"] for r in shuffled)
    return {
        "clips": len(tested),
        "shuffled_source_psnr_outside": worse,
        "shuffled_source_drop": _mean(r["result"]["psnr_outside"] for r in shuffled) - worse if shuffled else None,
        "other_keyframe_change_inside": _mean(r["controls"]["other_keyframe_change_inside"] for r in tested),
    }


def parse(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini", help="mini, an SVD folder or file (default: %(default)s)")
    parser.add_argument("--adapters", help="adapter file (default: the base's own)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with original_videos/ and, if there are any, "
                        "edited_videos/, masks/, keyframes/ (default: the mini's held-out clips)")  # fmt: skip
    parser.add_argument("--clips", type=int, help="at most so many clips (default: 64 held-out ones, or all of --data)")
    parser.add_argument("--frames", type=int, help="of each clip of --data (default: all)")
    parser.add_argument("--resolution", type=resolution, metavar="N|WxH", help="that clips of --data are scored at")
    parser.add_argument("--controls", type=int, default=16, help="clips that the controls are run on (default: "
                        "%(default)s)")  # fmt: skip
    parser.add_argument("--baselines", default=",".join(NAMES), metavar="NAMES", help="of %(default)s; none for none")
    parser.add_argument("--cache", default="output/evaluation", metavar="DIR", help="baselines of earlier runs, or "
                        "none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--html", type=Path, help="where to write the report with pictures, one self-contained file")
    parser.add_argument("--clip-weights", metavar="DIR|NAME", help="a CLIP model on this machine, for CLIP-I and "
                        f"CLIP-T: its folder, or its name in Hugging Face's cache (default: {CLIP}, if it is there)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the clips (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="denoising (default: the base's, 25 for SVD and 2 for the mini)")
    parser.add_argument("--solver", choices=SOLVERS, default="euler")
    parser.add_argument("--guidance-range", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"),
                        help="noise levels that guidance is used at (default: all)")  # fmt: skip
    parser.add_argument("--min-cfg", type=float, default=1.0)
    parser.add_argument("--max-cfg", type=float, help="guidance (default: the base's, 3 for SVD and 1 for the mini)")
    parser.add_argument("--sigma-min", type=float, help="noise level of the last step (default: the base's, 0.002 for "
                        "SVD and 0.2 for the mini)")  # fmt: skip
    parser.add_argument("--guide", choices=GUIDES, default="edit", help="where guidance acts (default: %(default)s)")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--sce-in-cond-only", action="store_true", help="no source features in guidance's empty branch")
    arguments = parser.parse_args(argv)
    for name in ("clips", "frames", "controls", "workers", "steps"):
        value, least = getattr(arguments, name), {"controls": 0, "frames": 2}.get(name, 1)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}, got {value}")
    return arguments


def command(settings: dict) -> str:
    """The command line of a report's settings: what differs from the defaults. Where its files went is left out."""
    defaults, words = json.loads(json.dumps(vars(parse([])), default=str)), ["python -m trainer.evaluate"]
    for name, value in settings.items():
        if name in ("json", "html", "cache") or value == defaults.get(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if name == "resolution":
            words.append("x".join(map(str, value)))
        elif value is not True:
            words += [shlex.quote(str(v)) for v in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def run(arguments) -> dict:
    bench = make_bench(arguments)
    model, clips = bench.model, bench.clips
    key = json.dumps(
        {"checkpoint": model.file.digest, "facts": bench.cache.facts, "settings": str(bench.settings),
         "baselines": bench.baselines, "shown": bench.shown, "without": bench.learned.without,
         "clip_weights": bench.learned.clip_weights, "version": 2},
        sort_keys=True,
    )  # fmt: skip
    out = arguments.json or arguments.html
    kept = KeptRows(out, key)
    identity = {name: clips.identity(index) for index, name in enumerate(clips.names)}
    rows = {row["clip"]: row for row in kept.read() if row.pop("identity", None) == identity.get(row["clip"], "")}
    jobs = [(i, i < arguments.controls) for i in range(len(clips))]
    todo = [(i, c) for i, c in jobs if clips.names[i] not in rows or (c and "controls" not in rows[clips.names[i]])]
    start = time.monotonic()
    shared = arguments.workers > 1 and len(todo) > 1
    made = shared_rows(arguments, todo) if shared else (evaluate_clip(bench, *job) for job in todo)
    for done, row in enumerate(made, 1):
        rows[row["clip"]] = row
        if "skipped" not in row:  # a clip that was repaired meanwhile is tried again
            kept.add({**row, "identity": identity[row["clip"]]})
        left = (time.monotonic() - start) / done * (len(todo) - done)
        print(f"\rclip {len(clips) - len(todo) + done}/{len(clips)}, {left:.0f} s left ", end="", file=sys.stderr,
              flush=True)  # fmt: skip
    print(file=sys.stderr)
    # of the clips that this run made: a run that goes on where another stopped does not know the other's
    took = {"wall_seconds": time.monotonic() - start, "wall_clips": len(todo)}
    report = finish(bench, [rows[name] for name in clips.names], arguments, took)
    kept.remove(lambda row: row["clip"] in identity)
    return report


def finish(bench: Bench, rows: list[dict], arguments, took: dict) -> dict:
    """The report of all rows, written where the command line says. Raises GenPropError when every clip was skipped.

    took: {"wall_seconds", "wall_clips"} of this run.
    """
    skipped = dict.fromkeys(getattr(bench.clips, "without_keyframe", []), "no edited video and no keyframe")
    unread = {row["clip"]: row["skipped"] for row in rows if "skipped" in row}
    rows = [row for row in rows if "skipped" not in row]
    if not rows:
        raise GenPropError(f"Expected at least one clip that can be read, got {len(unread)} that cannot. The first: "
                           f"{next(iter(unread.values()))}")  # fmt: skip
    frames, sizes = sorted({r["frames"] for r in rows}), sorted({tuple(r["size"]) for r in rows})
    report = combine(
        rows,
        controls=control_means(rows),
        without=bench.learned.without,
        frames=frames[0] if len(frames) == 1 else frames,
        size=list(sizes[0]) if len(sizes) == 1 else [list(s) for s in sizes],
        checkpoint=bench.model.file.digest,
        seed=arguments.seed,
    )
    report["skipped"] = skipped | unread
    said = ("steps", "solver", "min_cfg", "max_cfg", "sigma_min")
    report["sampler"] = {name: getattr(bench.settings.sampler, name) for name in said}
    report["clip_weights"] = bench.learned.clip_weights
    report["settings"] = json.loads(json.dumps(vars(arguments), default=str))
    report |= facts() | took | {"workers": arguments.workers, "threads": threads_of(arguments.workers)}
    if arguments.json:
        write_json(arguments.json, report)
    if arguments.html:
        with atomic(arguments.html) as temporary:
            temporary.write_text(page(report, rows), encoding="utf-8")
    return report


def main(argv=None) -> int:
    arguments = parse(argv)
    size = {} if arguments.data is None else {"size": "a smaller --resolution"}

    def body():
        with in_words_of({"dtype": SETTINGS["dtype"], **size}):
            print(table(run(arguments)))

    return exit_code(body, "with --json or --html the same command goes on from the finished clips")


if __name__ == "__main__":
    sys.exit(main())
