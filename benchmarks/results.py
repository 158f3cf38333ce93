"""Writes docs/results.md, with plots, and the README's lines, from the JSON files of benchmarks and evaluation.

    python -m benchmarks.results                  from docs/results/*.json and docs/mini.json
    python -m benchmarks.results --run            first runs every benchmark anew (--only NAMES for some of them)
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from genprop_core.errors import exit_code
from genprop_core.files import atomic
from trainer.long_tables import put_into

from . import plots, sections

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMES = ("sampling", "comfyui", "training", "scaling", "long_clips", "profile", "speedups")


def markdown(reports: dict, evaluation: dict | None) -> str:
    """The page. reports: {benchmark: its JSON}."""
    parts = ["# Results", "Made by `python -m benchmarks.results` from the JSON files in [results](results); do not "
             "edit. Times are medians of the rounds of one run, its variants in turn; a ratio is the median of the "
             "rounds' own ratios, so it can differ from that of two times. A few percent are noise."]  # fmt: skip
    parts += [] if evaluation is None else [sections.scores(evaluation)]
    for name in NAMES:
        if name in reports:
            parts += [getattr(sections, name)(reports[name]), sections.footing(name, reports[name])]
        else:
            title = name.capitalize().replace("_", " ")
            parts.append(f"## {title}\n\nNot measured yet: `python -m benchmarks.{name}`.")
    return "\n\n".join(parts) + "\n"


def run_benchmarks(folder: Path, names, quick: bool) -> list[str]:
    """Runs the benchmarks one after the other; returns those that failed (their old JSON stays)."""
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json")]
        if subprocess.run([*command, *["--quick"] * quick], cwd=ROOT).returncode:
            failed.append(name)
    return failed


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="where mini.json, results/ and results.md are")
    parser.add_argument("--readme", type=Path, help="page whose part between the two marks is written anew (default: "
                        "the README; none with another --docs)")  # fmt: skip
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--only", default=",".join(NAMES), help="with --run: which ones (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="with --run: small and rough")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: write(arguments))


def write(arguments) -> int:
    """Runs what is to be run, then writes the page, its plots and the README's lines."""
    folder = arguments.docs / "results"
    folder.mkdir(parents=True, exist_ok=True)
    failed = run_benchmarks(folder, arguments.only.split(","), arguments.quick) if arguments.run else []
    reports = {n: json.loads((folder / f"{n}.json").read_text()) for n in NAMES if (folder / f"{n}.json").is_file()}
    mini = arguments.docs / "mini.json"
    evaluation = json.loads(mini.read_text()) if mini.is_file() else None
    plots.draw(reports, folder)
    with atomic(arguments.docs / "results.md") as temporary:
        temporary.write_text(markdown(reports, evaluation), encoding="utf-8")
    print(f"written: {arguments.docs / 'results.md'}")
    readme = arguments.readme or (ROOT / "README.md" if arguments.docs == DOCS else None)
    if readme is not None:
        put_into(readme, sections.headlines(reports, evaluation))
        print(f"written: {readme}")
    for name in failed:
        print(f"failed: {name} (its earlier numbers, if any, were kept)", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
