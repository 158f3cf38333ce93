"""Long clips measured: `python -m trainer.evaluate_long --json docs/long_clips.json --markdown docs/long_clips.md`.

Held-out clips of the mini's generator, 64 frames long, so in many windows: whether anything drifts, jumps where windows
meet or is forgotten; what a second keyframe brings; and a table of every step that can be switched on or off. With
--data it is your own clips, laid out as for training, film whose truth is known. Nothing is composited, unless a column
says so. Finished clips are kept beside the JSON, so a stopped run goes on.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from genprop_core.config import TASKS
from genprop_core.errors import GenPropError, exit_code
from genprop_core.files import write_json
from genprop_core.out_of_memory import SETTINGS, in_words_of
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings

from .encoder import weights_digest
from .evaluation_bench import DTYPES
from .kept_rows import KeptRows
from .long_scores import VARIANTS, measure
from .long_sources import SIZE, Filmed, Generated
from .long_tables import markdown, put_into

MEASURED_ON_ALL = 7  # of the variants; the others have fewer clips


def parse(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate_long", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--adapters", help="adapter file (default: the base's own)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with original_videos/, edited_videos/ and "
                        "masks/ (default: clips that are drawn, for the mini)")  # fmt: skip
    parser.add_argument("--task", choices=TASKS, help="of --data only the clips of this task (default: all)")
    parser.add_argument("--clips", type=int, default=16, help="held-out clips, or of --data (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=64, help="of every clip, at most (default: %(default)s)")
    parser.add_argument("--width", type=int, help="that the base works at with --data (default: as for a clip)")
    parser.add_argument("--height", type=int)
    parser.add_argument("--ablation-clips", type=int, default=4,
                        help="clips for the variants other than the first seven (default: %(default)s)")  # fmt: skip
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), metavar="NAME",
                        help="all, or of: " + ", ".join(VARIANTS))  # fmt: skip
    parser.add_argument("--steps", type=int, help="denoising (default: the base's, 25 for SVD and 2 for the mini)")
    parser.add_argument("--max-cfg", type=float, help="guidance (default: the base's, 3 for SVD and 1 for the mini)")
    parser.add_argument("--solver", default="euler", help="of the sampler (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--markdown", type=Path, help="page whose part between the two marks is written anew")
    return parser.parse_args(argv)


def run(arguments) -> dict:
    variants = _asked(arguments)
    model = GenProp.from_files(
        arguments.base, arguments.adapters, dtype=DTYPES[arguments.dtype], device=arguments.device
    )
    window = model.base.defaults.num_frames
    if arguments.frames < 2 * window or arguments.clips < 1:
        raise GenPropError(
            f"Expected at least 1 clip of {2 * window} frames, got {arguments.clips} of {arguments.frames}."
        )
    if arguments.data:
        given = arguments.clips, arguments.frames, 2 * window, arguments.task
        clips = Filmed(arguments.data, model.base.size_multiple, *given)
        width, height = arguments.width, arguments.height
    else:
        clips, width, height = Generated(arguments.clips, arguments.frames), SIZE, SIZE
    sampler = SamplerSettings(arguments.steps, max_cfg=arguments.max_cfg, solver=arguments.solver, sigma_min=None)
    settings = PropagateSettings(sampler=sampler, width=width, height=height, seed=arguments.seed)
    settings = model.resolved(settings)
    model.working_size(1, 1, settings)  # what is wrong with every clip is told once, before the first
    base = weights_digest(*model.base.parts())
    key = json.dumps([model.file.digest, base, str(settings), arguments.frames, *clips.digest()])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    kept = KeptRows(arguments.json, key)
    rows = _reported(arguments.json, key) | {(line["name"], line["clip"]): line["row"] for line in kept.read()}
    few = clips.names[: arguments.ablation_clips]
    wanted = [(name, clip) for n, name in enumerate(VARIANTS) if name in variants
              for clip in (clips.names if n < MEASURED_ON_ALL else few)]  # fmt: skip
    for number, (name, clip) in enumerate(wanted, 1):
        print(f"{number}/{len(wanted)}: {name}, clip {clip}", file=sys.stderr, flush=True)
        if (name, clip) in rows:
            continue
        drawn = clips.draw(clip, VARIANTS[name][1])
        for note in drawn.notes:
            print(f"  {note}", file=sys.stderr, flush=True)
        rows[name, clip] = measure(model, drawn, name, settings)
        kept.add({"name": name, "clip": clip, "row": rows[name, clip]})
    order = {name: n for n, name in enumerate(clips.names)}

    def clips_in_order(item):
        return order.get(item[0][1], len(order)), item[0][1]

    report = {
        "base": Path(arguments.base).name,
        "clips": clips.name,
        "frames": arguments.frames,
        "window": window,
        "steps": settings.sampler.steps,
        "max_cfg": settings.sampler.max_cfg,
        "solver": arguments.solver,
        "checkpoint": model.file.digest,
        "seed": arguments.seed,
        "key": key,
        # what was measured before with the same weights and settings stays in it
        "variants": {
            name: {clip: row for (other, clip), row in sorted(rows.items(), key=clips_in_order) if other == name}
            for name in VARIANTS if any(other == name for other, _ in rows)
        },
    }
    if arguments.json:
        write_json(arguments.json, report)
    kept.remove()
    return report


def _asked(arguments) -> list[str]:
    """The variants to measure, in order; on film those alone that need no drawn clips. Raises for options that do not
    go together."""
    asked = [name for name in VARIANTS if arguments.variants is None or name in arguments.variants]
    if not arguments.data:
        of_film = [f"--{name}" for name in ("task", "width", "height") if getattr(arguments, name) is not None]
        if of_film:
            raise GenPropError(
                f"Expected {', '.join(of_film)} with --data alone, but there is none: drawn clips have their own. Give "
                "--data, or leave them out."
            )
        return asked
    drawn = [name for name in asked if VARIANTS[name][1]]
    if drawn and arguments.variants is not None:
        raise GenPropError(
            f"Expected variants of clips as they are with --data, got {', '.join(drawn)}: those are of drawn clips. "
            "Leave them out."
        )
    return [name for name in asked if name not in drawn]


def _reported(path, key) -> dict:
    """{(variant, clip): row} of an earlier report with the same weights and settings."""
    if path is None or not path.exists():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    variants = report["variants"].items() if report.get("key") == key else ()
    return {(name, clip): row for name, rows in variants for clip, row in rows.items()}


def main(argv=None) -> int:
    arguments = parse(argv)
    words = {name: SETTINGS[name] for name in ("dtype", "size")[: 2 if arguments.data else 1]}

    def body():
        with in_words_of(words):
            text = markdown(run(arguments))
        if arguments.markdown:
            put_into(arguments.markdown, text)
        print(text)

    return exit_code(body)


if __name__ == "__main__":
    sys.exit(main())
