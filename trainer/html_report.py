"""The evaluation as one self-contained HTML file: table, distributions, curves over the frames, and film strips."""

import json
from html import escape

from genprop_core.metrics import PSNR_CAP

from .html_charts import dots, lines
from .html_style import SCRIPT, STYLE
from .score_table import METRICS, shown, variants

ORDER = ("psnr", "psnr_outside", "mask_iou", "warp_error")  # the first that has values ranks the clips
LEAST_DROP = 5.0  # dB outside the mask that another clip's source must cost


def _number(key: str, value) -> str:
    return "–" if value is None else f"{value:.{METRICS[key].digits}f}"


def _cell(key: str, values: dict) -> str:
    spread = values.get("spread", {}).get(key, {})
    if values.get(key) is None:
        return "<td>–</td>"
    low, high = spread["interval"]
    more = (
        f"median {_number(key, spread['median'])}, "
        f"worst {_number(key, spread['worst'])} (clip {spread['worst_clip']}), "
        f"95% interval of the mean {_number(key, low)} to {_number(key, high)}, {spread['clips']} clips"
    )
    return (
        f'<td title="{escape(more)}"><b>{_number(key, values[key])}</b>'
        f"<small>{_number(key, low)} – {_number(key, high)}</small>"
        f"<small>median {_number(key, spread['median'])}</small>"
        f"<small>worst {_number(key, spread['worst'])}</small></td>"
    )


def score_rows(report: dict) -> str:
    """The table: a row per method, a column per metric that has values."""
    keys = shown(report)
    head = "".join(f'<th title="{escape(METRICS[k].meaning)}">{METRICS[k].label}'
                   f'<small>{"higher" if METRICS[k].higher_is_better else "lower"} is better</small></th>'
                   for k in keys)  # fmt: skip
    rows = [
        f'<tr class="{"own" if name == "result" else ""}"><th>{escape(name.replace("_", " "))}</th>'
        + "".join(_cell(k, values) for k in keys)
        + "</tr>"
        for name, values in variants(report).items()
    ]
    body = f'<thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
    return f'<div class="scroll"><table>{body}</table></div>'


def distributions(report: dict, rows: list[dict]) -> str:
    """A chart per metric: one dot per clip, for the result and everything beside it."""
    charts = []
    for key in shown(report):
        groups = {"result": [(r["result"][key], r["clip"]) for r in rows if r["result"].get(key) is not None]}
        for name in list(variants(report))[1:]:
            found = [(r["floors"][name].get(key), r["clip"]) for r in rows if name in r["floors"]]
            groups[name] = [pair for pair in found if pair[0] is not None]
        metric = METRICS[key]
        chart = dots(metric.label, groups, metric.digits)
        charts.append(f"<figure><figcaption>{metric.label}<small>{escape(metric.meaning)}</small></figcaption>{chart}"
                      "</figure>")  # fmt: skip
    return "".join(charts)


def mean_curves(rows: list[dict]) -> str:
    """PSNR over the frames, mean over the clips that are that long."""
    sums: dict[str, dict[str, list]] = {}
    for row in rows:
        for name, kinds in row["curves"].items():
            for kind, values in kinds.items():
                kept = sums.setdefault(kind, {}).setdefault(name, [])
                kept.extend([] for _ in range(len(values) - len(kept)))
                for frame, value in enumerate(values):
                    if value is not None and value < PSNR_CAP:  # the keyframe itself is no measurement
                        kept[frame].append(value)
    charts = []
    for kind, series in sums.items():
        means = {n: [sum(v) / len(v) if v else None for v in frames] for n, frames in series.items()}
        if any(v is not None for values in means.values() for v in values):
            chart = lines(METRICS[kind].label, means)
            charts.append(f"<figure><figcaption>{METRICS[kind].label} over the frames<small>dB, mean over clips"
                          f"</small></figcaption>{chart}</figure>")  # fmt: skip
    return "".join(charts)


def ranked(rows: list[dict]) -> list[tuple[str, dict]]:
    """("worst", row), ("median", row), ("best", row), fewer where there are fewer clips."""
    key = next((k for k in ORDER if all(r["result"].get(k) is not None for r in rows)), None)
    if key is None:
        return [("clip", rows[0])]
    order = sorted(rows, key=lambda r: r["result"][key] * (1 if METRICS[key].higher_is_better else -1))
    picked = {0: "worst", len(order) // 2: "median", len(order) - 1: "best"}
    return [(f"{what} by {METRICS[key].label}", order[i]) for i, what in sorted(picked.items())]


def strips(rows: list[dict]) -> str:
    """The worst, the median and the best clip, each with a slider over its frames."""
    out = []
    for what, row in ranked(rows):
        strip, values = row["strip"], row["result"]
        width, height = strip["size"]
        count, many = len(strip["frames"]), len(strip["rows"])
        tiles = "".join(
            f'<figure class="tile"><div style="--row:{i}"></div><figcaption>{escape(label)}</figcaption></figure>'
            for i, label in enumerate(strip["rows"])
        )
        facts = ", ".join(f"{METRICS[k].label} {_number(k, v)}" for k, v in values.items() if v is not None)
        out.append(
            f'<section class="strip" data-frames="{escape(json.dumps(strip["frames"]))}" '
            f'style="--w:{width};--h:{height};--frames:{count};--rows:{many};--frame:0;--sheet:url({strip["image"]})">'
            f"<h3>{escape(what)}: clip {escape(row['clip'])}</h3><p>{escape(facts)}</p>"
            f'<div class="tiles">{tiles}</div>'
            f'<label>frame <output>{strip["frames"][0]}</output>'
            f'<input type="range" min="0" max="{count - 1}" value="0" aria-label="frame"></label></section>'
        )
    return "".join(out)


def notes(report: dict) -> str:
    """What is missing or was changed, and what the controls say."""
    lines_ = [f"{METRICS[k].label}: {why}" for k, why in report["missing"].items()]
    lines_ += [f"clip {name}: {why}" for name, why in report.get("skipped", {}).items()]
    lines_ += [f"clip {name}: {'; '.join(why)}" for name, why in report.get("notes", {}).items()]
    found = "<p>Every column has a value for every clip.</p>"
    if lines_:
        found = "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines_) + "</ul>"
    return found


def controls(report: dict) -> str:
    """The two controls in words: what they show, or that the model failed them."""
    values, said = report["controls"], []
    drop, change = values.get("shuffled_source_drop"), values.get("other_keyframe_change_inside")
    if drop is not None:
        falls = "falls by" if drop >= 0 else "rises by"
        shows = (
            "the background is read from the source"
            if drop >= LEAST_DROP
            else f"this control failed, since less than {LEAST_DROP:.0f} dB do not show that the source is read"
        )
        said.append(f"With another clip's source, PSNR outside the mask {falls} {abs(drop):.1f} dB: {shows}.")
    if change is not None:
        shows = "the edit comes from the keyframe" if change > 0 else "this control failed, the keyframe has no effect"
        said.append(f"With the unedited keyframe, the inside of the mask changes by {change:.1f}/255: {shows}.")
    if not said:
        return "<p>The controls were not run.</p>"
    return "<p>" + " ".join(said) + f" Measured on {values['clips']} clips.</p>"


def page(report: dict, rows: list[dict]) -> str:
    """The whole file. report: of `score_table.combine`; rows: of `evaluate_clip`, with "curves" and "strip"."""
    size = report["size"]
    sizes = "×".join(map(str, size)) if not isinstance(size[0], list) else f"{len(size)} sizes"
    frames = report["frames"] if isinstance(report["frames"], int) else "several numbers of"
    made = f"checkpoint {report['checkpoint']}, seed {report['seed']}"
    facts = f"{report['clips']} clips of {frames} frames at {sizes}, {made}"
    legend = "".join(f"<dt>{METRICS[k].label}</dt><dd>{escape(METRICS[k].meaning)}</dd>" for k in shown(report))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>GenProp evaluation</title><style>{STYLE}</style></head><body>
<header><h1>GenProp evaluation</h1><p>{escape(facts)}</p></header><main>
<h2>Scores</h2><p>Mean over clips; below it the 95% bootstrap interval of the mean, the median and the worst clip.</p>
{score_rows(report)}<details><summary>What the columns mean</summary><dl>{legend}</dl></details>
<h2>Controls</h2>{controls(report)}
<h2>Clips</h2>{strips(rows)}
<h2>Over the frames</h2><div class="charts">{mean_curves(rows)}</div>
<h2>Distributions</h2><p>One dot per clip, a bar at the mean.</p><div class="charts">{distributions(report, rows)}</div>
<h2>Not measured, and notes</h2>{notes(report)}
</main><script>{SCRIPT}</script></body></html>
"""
