"""The plots of docs/results.md."""

from pathlib import Path

OWN, OTHER, FAINT = "#b3401f", "#2f6fb5", "#9aa3ae"


def draw(reports: dict, folder: Path) -> None:
    """Writes sampling.png and scaling.png into the folder, for the reports that there are."""
    import matplotlib

    matplotlib.use("Agg")
    if "sampling" in reports:
        sampling(reports["sampling"], folder / "sampling.png")
    if "scaling" in reports:
        scaling(reports["scaling"], folder / "scaling.png")


def _save(figure, path: Path):
    from matplotlib import pyplot

    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def sampling(report: dict, path: Path) -> None:
    """Time of every loop over the static one's, beside what FLOPs predict."""
    from matplotlib import pyplot

    seconds, counted = report["seconds"], report["tera_flops"]
    names = list(counted)
    figure, axes = pyplot.subplots(figsize=(7, 2.9), layout="constrained")
    for index, name in enumerate(names):
        axes.barh(index - 0.18, seconds[name] / seconds["static"], 0.34, color=OWN, label=None if index else "measured")
        axes.barh(
            index + 0.18, counted[name] / counted["static"], 0.34, color=FAINT, label=None if index else "FLOPs predict"
        )
    axes.set_yticks(range(len(names)), [n.replace("_", " ") for n in names])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of the loop, static SCE = 1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def scaling(report: dict, path: Path) -> None:
    """Time and peak memory against frames and pixels, on logarithmic axes."""
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, (kind, label) in zip(axes, (("frames", "frames, 128x128"), ("pixels", "pixels, 8 frames"))):
        points = {int(x): v for x, v in report["seconds_by"][kind].items()}
        exponent = report["ratios"][f"exponent_{kind}"]
        axis.loglog(list(points), list(points.values()), "o-", color=OWN, label=f"time, power of {exponent:.2f}")
        axis.set_xticks(list(points), [f"{x:,}" for x in points], fontsize=8, rotation=30)
        axis.set_yticks(list(points.values()), [f"{v:.3g}" for v in points.values()], fontsize=8)
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel(label)
        axis.set_ylabel("seconds", color=OWN)
        peaks = {int(x): v for x, v in report["peak_mib_by"].get(kind, {}).items()}
        if peaks:
            other = axis.twinx()
            other.plot(list(peaks), list(peaks.values()), "s--", color=OTHER)
            other.set_ylabel("peak memory, MiB", color=OTHER)
            other.set_ylim(0, 1.15 * max(peaks.values()))
            other.spines[["top"]].set_visible(False)
        axis.spines[["top"]].set_visible(False)
        axis.legend(frameon=False, loc="upper left")
    _save(figure, path)
