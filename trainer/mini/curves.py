"""Plots the training curves of the mini's stages into one picture.

    python -m trainer.mini.curves RUN/log.jsonl     adds a run of trainer/train.py that went on from the adapters stage
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from genprop_core.errors import GenPropError, exit_code
from genprop_core.files import open_tensors
from trainer.logs import read_log

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "curves"
PANELS = (
    ("vae", "psnr", "VAE: PSNR of a batch, dB"),
    ("base", "loss", "base: denoising loss"),
    ("adapters", "nonmask", "adapters: loss outside the mask"),
    ("adapters", "mask", "adapters: loss inside the mask"),
    ("adapters", "mpd", "adapters: mask decoder's loss"),
)
CONTINUED = "continued"  # the stage's name with this behind it, then _2 and so on: a run that went on from it
EVERY = 100  # steps whose mean is one point


def means(rows: list[dict]) -> list[dict]:
    """A log of `trainer/train.py`, one row a step, as the stages log: means over EVERY steps, without the "L_"."""
    rows, out = [r for r in rows if "L_total" in r], []
    for start in range(0, len(rows) - EVERY + 1, EVERY):
        part = rows[start : start + EVERY]
        keys = [k for k in part[0] if k.startswith("L_")]
        out.append({"step": part[-1]["step"], **{k[2:]: sum(r[k] for r in part) / EVERY for k in keys}})
    return out


def curve_name(curves, stage: str, rows: str) -> str:
    """The name of a run's curve in `curves`: the stage's, or for one that went on from weights the next of its kind.

    rows: the run's log. Exported again, or after more steps, a run keeps its name.
    """
    first = rows.splitlines()[0]
    if "started_from" not in json.loads(first):
        return stage
    for number in itertools.count(1):
        name = f"{stage}_{CONTINUED}" + (f"_{number}" if number > 1 else "")
        path = Path(curves) / f"{name}.jsonl"
        if not path.exists() or path.read_text(encoding="utf-8").startswith(first):
            return name


def pyplot():
    """matplotlib.pyplot, without a screen. Raises GenPropError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise GenPropError("Expected matplotlib, which draws the curves. Run: pip install matplotlib.") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plot(folder=FOLDER, out=FOLDER / "curves.png"):
    """Reads the stages' JSON lines in `folder` and writes `out`."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), constrained_layout=True)
    for axis, (stage, key, title) in zip(axes, PANELS):
        begin = 0
        continued = sorted(Path(folder).glob(f"{stage}_{CONTINUED}*.jsonl"), key=lambda p: (len(p.stem), p.stem))
        for path in [Path(folder) / f"{stage}.jsonl", *continued]:
            rows = [row for row in read_log(path) if key in row]
            if not rows:  # too short a run for one point
                continue
            axis.plot([begin + r["step"] for r in rows], [r[key] for r in rows], linewidth=1)
            begin += rows[-1]["step"]
        axis.set(title=title, xlabel="step")
        if key != "psnr":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def add(log: Path, curves=FOLDER) -> Path:
    """Adds the log of a finished run of `trainer/train.py` to the curves and draws them; the file that was written.

    Raises GenPropError where there is no log, where the run's adapters are not beside it or did not go on from others,
    and without matplotlib.
    """
    pyplot()  # before anything is written
    if not Path(log).is_file():
        raise GenPropError(f"Expected the log of a run at {log}, but there is none. Check the path.")
    adapters = Path(log).parent / "adapters.safetensors"
    if not adapters.exists():
        raise GenPropError(f"Expected the run's adapters.safetensors beside {log}. There are none.")
    with open_tensors(adapters) as file:
        started_from = json.loads(file.metadata()["provenance"]).get("started_from")
    if started_from is None:
        raise GenPropError(f"Expected a run that went on from other adapters (--init_adapters), {log} did not.")
    rows = [{"step": 0, "started_from": started_from}, *means(read_log(log))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = Path(curves) / f"{curve_name(curves, 'adapters', text)}.jsonl"
    path.write_text(text, encoding="utf-8")
    plot(curves, Path(curves) / "curves.png")
    return path


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer.mini.curves", description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="log.jsonl of a run that went on from the adapters stage")
    log = parser.parse_args(argv).log
    return exit_code(lambda: print(f"written: {add(log)}"))


if __name__ == "__main__":
    sys.exit(main())
