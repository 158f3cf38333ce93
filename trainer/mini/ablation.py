"""Design choices in one table: each variant of the adapters is trained equally long and scored on the same clips."""

from pathlib import Path

from genprop_core.files import write_json
from trainer import evaluate

from . import adapters
from .export import export_base

VARIANTS = {
    "static SCE, skip taps (default)": {},
    "fused SCE": {"sce": "fused"},
    "block outputs only": {"taps": "blocks"},
    "one copied block": {"num_blocks": 1},
}
IN_ONE_BRANCH = "default, SCE in the full branch only"


def run(folder, minutes, seed=0, clips=32, out="docs/ablation.json") -> str:
    """Trains every variant for `minutes`, writes `out` and returns the table as Markdown. Resumes."""
    folder = Path(folder)
    base = folder / "mini.safetensors"
    export_base(folder, base)
    reports = {}
    for label, config in VARIANTS.items():
        adapters.train(folder / "ablation", minutes, seed, base_folder=folder, **config)
        file = folder / "ablation" / f"{adapters.state_name(config)}.safetensors"
        options = ["--base", str(base), "--adapters", str(file), "--clips", str(clips), "--controls", "0"]
        reports[label] = _score(options, file)
        if not config:
            reports[IN_ONE_BRANCH] = _score([*options, "--sce-in-cond-only"], file.with_name("one-branch"))
    write_json(out, {"minutes": minutes, "clips": clips, "seed": seed, "variants": reports})
    return markdown(reports)


def _score(options, name):
    return evaluate.run(evaluate.parse([*options, "--json", str(Path(name).with_suffix(".json"))]))


def markdown(reports) -> str:
    head = "| variant | " + " | ".join(evaluate.KEYS) + " |\n|---|" + "---|" * len(evaluate.KEYS)
    rows = [
        f"| {label} | " + " | ".join(f"{r['result'][c]:.3f}" for c in evaluate.KEYS) + " |"
        for label, r in reports.items()
    ]
    return "\n".join([head, *rows])
