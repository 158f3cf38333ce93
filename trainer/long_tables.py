"""The report of `trainer.evaluate_long` as Markdown tables, and where they stand in a page."""

from pathlib import Path

from genprop_core.errors import GenPropError
from genprop_core.files import atomic

FIRST, LAST = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = {
    "psnr_outside": ("PSNR outside", 2),
    "psnr_inside": ("PSNR inside", 2),
    "inside_at_8": ("at frame {window}", 2),
    "inside_at_end": ("at the end", 2),
    "psnr_composited": ("PSNR composited", 2),
    "mask_iou": ("mask IoU px", 3),
    "seam_jump": ("seam jump", 2),
    "colour_drift": ("colour drift", 2),
    "told_apart": ("rank correlation", 2),
    "seconds": ("seconds", 0),
}
HALVES = {"second_half": "", "second_half_inside": " inside", "second_half_composited": " composited"}  # of what
PAIRS = {  # variants with one and with two keyframes -> (what both have, the score of which 1 dB more is wanted)
    ("as it is", "two keyframes"): ("", "second_half"),
    ("clean plate", "two keyframes, clean plate"): (", with the clean plate", "second_half_composited"),
}


def mean(rows: dict, key: str):
    """Mean over the clips of a variant that have this score; None where none has."""
    values = [row[key] for row in rows.values() if row[key] is not None]
    return sum(values) / len(values) if values else None


def _shown(value, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def promises(report: dict) -> list[tuple[str, float | None, str, bool | None]]:
    """(what, measured, wanted, reached) of what long clips are to show; "-" and None where it is to compare with."""
    variants, frames = report["variants"], report["frames"]
    one = variants.get("as it is", {})
    out = []

    def add(what, value, wanted, holds):
        out.append((what, value, wanted, None if value is None else holds(value)))

    if one:
        first, last = mean(one, "outside_first_window"), mean(one, "outside_last_window")
        add("PSNR outside, last window minus first (dB)", last - first, "at least -0.5", lambda v: v >= -0.5)
        add("jump at seams over the mean change", mean(one, "seam_jump"), "at most 1.2", lambda v: v <= 1.2)
        seen = {s: r for s, r in one.items() if r["inside_at_8"] is not None and r["inside_at_end"] is not None}
        share = mean(seen, "inside_at_end") / mean(seen, "inside_at_8") if seen else None
        add(f"PSNR inside at frame {frames} over frame {report['window']}", share, "at least 0.9", lambda v: v >= 0.9)
        add("rank correlation of confidence and quality", mean(one, "told_apart"), "above 0", lambda v: v > 0)
    for names, (with_what, wanted) in PAIRS.items():
        fewer, more = (variants.get(name, {}) for name in names)
        for key, of in HALVES.items() if set(fewer) & set(more) else ():
            seen = [s for s in fewer if s in more and None not in (fewer[s][key], more[s][key])]
            gain = mean({s: {key: more[s][key] - fewer[s][key]} for s in seen}, key)
            least = "at least 1" if key == wanted else "-"
            holds = (lambda v: v >= 1) if key == wanted else (lambda v: None)
            add(f"second half{of}{with_what}, two keyframes minus one (dB)", gain, least, holds)
    every = variants.get("a keyframe in every window", {})
    shared = set(one) & set(every)
    if shared:
        ends = [mean({s: rows[s] for s in shared}, "inside_at_end") for rows in (one, every)]
        share = None if None in ends else ends[0] / ends[1]
        add("PSNR inside at the end over that with a keyframe in every window", share, "-", lambda v: None)
    return out


def markdown(report: dict) -> str:
    """Both tables, with what they were measured on."""
    counts = {name: len(rows) for name, rows in report["variants"].items()}
    lines = [
        f"Base {report['base']}, adapters {report['checkpoint']}, {report['steps']} {report['solver']} steps, "
        f"guidance 1 to {report['max_cfg']:g}, {report['clips']} of {report['frames']} frames, noise seed "
        f"{report['seed']}. Clips per row: "
        + ", ".join(f"{name} {count}" for name, count in counts.items()) + ".",
        "",
    ]  # fmt: skip
    rows = promises(report)
    lines += ["| | measured | wanted | |", "|---|---|---|---|"] if rows else []
    for what, value, wanted, kept in rows:
        mark = "-" if kept is None else "reached" if kept else "**not reached**"
        lines.append(f"| {what} | {_shown(value, 2)} | {wanted} | {mark} |")
    lines += [""] if rows else []
    labels = [label.format(**report) for label, _ in COLUMNS.values()]
    lines += ["| | " + " | ".join(labels) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, rows in report["variants"].items():
        against = report["variants"].get(_compared_with(name), {})
        cells = []
        for key, (_, digits) in COLUMNS.items():
            shared = set(rows) & set(against)
            own, other = (mean({s: v[s] for s in shared or rows}, key) if v else None for v in (rows, against))
            difference = "" if own is None or other is None or rows is against else f" ({own - other:+.{digits}f})"
            cells.append(_shown(own, digits) + difference)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    others = "of `two keyframes, clean plate` to `clean plate`, of `inner keyframes` to `two keyframes`, of what is "
    lines += ["", "In brackets: the difference on the same clips to the first row; "
              f"{others}made in large frames to `large frame`."]  # fmt: skip
    return "\n".join(lines)


def _compared_with(name: str) -> str:
    """The variant that another one differs from in one thing."""
    others = {"two keyframes, clean plate": "clean plate", "inner keyframes": "two keyframes"}
    return "large frame" if name.startswith("large") else others.get(name, "as it is")


def put_into(path: Path, text: str) -> None:
    """Replaces what is between the marks of a page. Raises GenPropError for a page without them."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if page.count(FIRST) != 1 or page.count(LAST) != 1:
        raise GenPropError(f"Expected {path} to hold the lines {FIRST} and {LAST} once each. Add them where it goes.")
    before, after = page.split(FIRST)[0], page.split(LAST)[1]
    with atomic(path) as temporary:
        temporary.write_text(f"{before}{FIRST}\n{text}\n{LAST}{after}", encoding="utf-8")
