"""Plots the training curves of the mini's stages into one picture."""

import json
from pathlib import Path

PANELS = (
    ("vae", "psnr", "VAE: PSNR of a batch, dB"),
    ("base", "loss", "base: denoising loss"),
    ("adapters", "nonmask", "adapters: loss outside the mask"),
    ("adapters", "mask", "adapters: loss inside the mask"),
    ("adapters", "mpd", "adapters: mask decoder's loss"),
)


def plot(folder="docs/curves", out="docs/curves/curves.png"):
    """Reads the stages' JSON lines in `folder` and writes `out`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), constrained_layout=True)
    for axis, (stage, key, title) in zip(axes, PANELS):
        lines = (Path(folder) / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if key in row]
        axis.plot([r["step"] for r in rows], [r[key] for r in rows], linewidth=1)
        axis.set(title=title, xlabel="step")
        if key != "psnr":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    plt.close(figure)
