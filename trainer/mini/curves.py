"""Plots the training curves of the mini's stages into one picture.

    python -m trainer.mini.curves RUN/log.jsonl     adds a run of trainer/train.py that went on from the adapters stage
"""

import argparse
import json
from pathlib import Path

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


def read(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def means(rows: list[dict]) -> list[dict]:
    """A log of `trainer/train.py`, one row a step, as the stages log: means over EVERY steps, without the "L_"."""
    rows, out = [r for r in rows if "L_total" in r], []
    for start in range(0, len(rows) - EVERY + 1, EVERY):
        part = rows[start : start + EVERY]
        keys = [k for k in part[0] if k.startswith("L_")]
        out.append({"step": part[-1]["step"], **{k[2:]: sum(r[k] for r in part) / EVERY for k in keys}})
    return out


def plot(folder=FOLDER, out=FOLDER / "curves.png"):
    """Reads the stages' JSON lines in `folder` and writes `out`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), constrained_layout=True)
    for axis, (stage, key, title) in zip(axes, PANELS):
        begin = 0
        for path in [Path(folder) / f"{stage}.jsonl", *sorted(Path(folder).glob(f"{stage}_{CONTINUED}*.jsonl"))]:
            rows = [row for row in read(path) if key in row]
            axis.plot([begin + r["step"] for r in rows], [r[key] for r in rows], linewidth=1)
            begin += rows[-1]["step"]
        axis.set(title=title, xlabel="step")
        if key != "psnr":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m trainer.mini.curves", description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="log.jsonl of a run that went on from the adapters stage")
    rows = means(read(parser.parse_args(argv).log))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (FOLDER / f"adapters_{CONTINUED}.jsonl").write_text(text, encoding="utf-8")
    plot()


if __name__ == "__main__":
    main()
