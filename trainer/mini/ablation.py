"""Design choices in one table: each variant of the adapters is trained for as many steps, scored on the same clips."""

import json
from pathlib import Path

from genprop_core.errors import GenPropError
from genprop_core.files import write_json
from trainer import evaluate
from trainer.latent_cache import content_digest
from trainer.step import StepSettings

from . import adapters
from .export import pack

DEFAULT = "default: static SCE, skip taps, selection, copying first"
VARIANTS = {
    DEFAULT: {},
    "no selection": {"selection": False, "show_source": False},
    "no selection, no copying stage": {"selection": False, "show_source": False, "shares": (0.0, 0.0)},
    "no copying stage": {"shares": (0.0, 0.0)},
    "fused SCE": {"sce": "fused"},
    "a norm in every injection": {"injection_norm": True},
    "block outputs only": {"taps": "blocks", "show_source": False},
    "the UNet not shown the source": {"show_source": False},
    "one copied block": {"num_blocks": 1},
    "three copied blocks": {"num_blocks": 3},
}
PLAIN = {"settings": StepSettings(), "handed_every": 0}  # the design alone, without what is for clips of many windows
GUIDED = ("--max-cfg", "3")  # only then are there two branches
OF_THE_DEFAULT = {  # other ways to sample it
    "default, guidance up to 3": GUIDED,
    "default, guidance up to 3, SCE in the full branch only": (*GUIDED, "--sce-in-cond-only"),
}


def chosen(words: str | None) -> dict:
    """The variants whose name holds one of these words, separated by commas; all of them for None.

    Raises GenPropError for a word in no name.
    """
    if words is None:
        return VARIANTS
    words = words.split(",")
    lost = [w for w in words if not any(w in label for label in VARIANTS)]
    if lost:
        raise GenPropError(f"Expected words of {'; '.join(VARIANTS)}, got {', '.join(lost)}.")
    return {label: config for label, config in VARIANTS.items() if any(w in label for w in words)}


def run(folder, steps, seed=0, clips=16, out="docs/ablation.json", only=None, device="cpu") -> str:
    """Trains the variants (those of `chosen(only)`) for `steps`, writes `out`, returns the table as Markdown.

    A run that was stopped goes on.
    """
    folder = Path(folder)
    base = pack(folder)
    reports = {}
    for label, config in chosen(only).items():
        name = label.replace(" ", "-").replace(":", "").replace(",", "")
        place = folder / "ablation" / f"{name}-seed-{seed}-base-{content_digest(folder / 'base.safetensors')[:8]}"
        adapters.train(place, 0, seed, base_folder=folder, steps=steps, device=device, **PLAIN, **config)
        config = {k: v for k, v in config.items() if k != "shares"}
        file = place / f"{adapters.state_name(config)}.safetensors"
        options = [
            "--base",
            str(base),
            "--adapters",
            str(file),
            "--clips",
            str(clips),
            "--controls",
            "0",
            "--baselines",
            "none",
            "--device",
            str(device),
        ]
        reports[label] = _score(options, file)
        if label == DEFAULT:
            for number, (other, extra) in enumerate(OF_THE_DEFAULT.items()):
                reports[other] = _score([*options, *extra], file.with_name(f"sampled-{number}"))
    facts = {"steps": steps, "clips": clips, "seed": seed}
    earlier = json.loads(Path(out).read_text(encoding="utf-8")) if only and Path(out).exists() else {}
    if all(earlier.get(k) == v for k, v in facts.items()):  # those that were not asked for this time stay
        reports = earlier["variants"] | reports
    write_json(out, facts | {"variants": reports})
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
