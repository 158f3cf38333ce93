"""Small charts as SVG text, coloured by the page's CSS classes so that they follow its light or dark scheme."""

from html import escape

WIDTH, LEFT, RIGHT = 360, 104, 10  # in SVG units; the page scales them


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from within low..high."""
    step = (high - low) / count
    magnitude = 10 ** len(str(int(1 / step))) if step < 1 else 1
    nice = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1e9) if s >= step * magnitude) / magnitude
    first = -(-low // nice) * nice
    return [round(first + i * nice, 10) for i in range(int((high - first) / nice) + 1)]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _svg(height: int, label: str, parts: list[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def dots(label: str, groups: dict[str, list[tuple[float, str]]], digits: int) -> str:
    """One row of dots per group, one dot per clip, with a bar at the mean. groups: name -> [(value, clip)]."""
    groups = {name: pairs for name, pairs in groups.items() if pairs}
    low, high = _range([v for pairs in groups.values() for v, _ in pairs])
    row, bottom = 22, 22 * len(groups) + 8

    def x(value):
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 13}" text-anchor="middle">{tick:g}</text>')
    for index, (name, pairs) in enumerate(groups.items()):
        y, kind = 4 + row * index + row / 2, "own" if name == "result" else "other"
        text = f'<text class="name {kind}" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
        parts.append(text + f"{escape(name.replace('_', ' '))}</text>")
        for n, (value, clip) in enumerate(pairs):
            jitter = (n * 7 % 11 - 5) * 0.7  # dots of one value stay apart, the same way every time
            parts.append(
                f'<circle class="{kind}" cx="{x(value):.1f}" cy="{y + jitter:.1f}" r="2.4">'
                f"<title>{escape(clip)}: {value:.{digits}f}</title></circle>"
            )
        mean = sum(v for v, _ in pairs) / len(pairs)
        parts.append(f'<line class="mean {kind}" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 8}" y2="{y + 8}"/>')
    return _svg(bottom + 18, label, parts)


def lines(label: str, series: dict[str, list], digits: int = 1) -> str:
    """Curves over the frames of a clip. series: name -> one value per frame, None where there is none."""
    series = {name: values for name, values in series.items() if any(v is not None for v in values)}
    low, high = _range([v for values in series.values() for v in values if v is not None])
    frames = max(len(values) for values in series.values())
    left, top, bottom = 30, 8, 150

    def at(frame, value):
        x = left + frame / max(1, frames - 1) * (WIDTH - left - 100)
        return x, bottom - (value - low) / (high - low) * (bottom - top)

    parts = []
    for tick in _ticks(low, high):
        y = at(0, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 100}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for frame in sorted({0, frames // 2, frames - 1}):
        x = at(frame, low)[0]
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{frame}</text>')
    ends = []
    for index, (name, values) in enumerate(series.items()):
        kind = "own" if name == "result" else f"line{index % 6}"
        points = [at(f, v) for f, v in enumerate(values) if v is not None]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="curve {kind}" d="{path}"/>')
        ends.append([points[-1][1], name, kind])
    for previous, end in zip([None, *sorted(ends)], sorted(ends)):  # labels at the curves' ends, kept apart
        end[0] = end[0] if previous is None else max(end[0], previous[0] + 12)
        y, name, kind = end
        label_text = escape(name.replace("_", " "))
        parts.append(f'<text class="name {kind}" x="{WIDTH - 95}" y="{y + 4:.1f}">{label_text}</text>')
    height = max(bottom + 20, int(max(y for y, *_ in ends)) + 12)
    return _svg(height, label, parts)
