"""Charts of report.html as SVG text: lines, a unit square, bars. What is pointed at tells its value."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 460, 280  # of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 28  # what axes and their numbers take

Place = Callable[[float, float], tuple[float, float]]


def frame(
    x: tuple[float, float], top: float, step: float, ticks: Sequence[float], label: str
) -> tuple[list[str], Place]:
    """(the opening of an SVG with its axes, at): x from and to, y from 0 to `top` by `step`; `at` places a point."""
    low, high = x

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">']
    for k in range(round(top / step) + 1):
        _, py = at(low, step * k)
        out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{step * k:.3g}</text>')
    for tick in ticks:
        out.append(f'<text x="{at(tick, 0)[0]:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{tick:g}</text>')
    return out, at


def by_epoch(lines: Sequence[tuple[list, str, str]], label: str) -> str:
    """Lines of (epoch, value) points, each with a colour and a dash pattern; y from 0, x from the first epoch to the
    last."""
    xs = [x for points, _, _ in lines for x, _ in points]
    most = max(y for points, _, _ in lines for _, y in points)
    low, high, step = min(xs), max(max(xs), min(xs) + 1), round_step(most)
    ticks = list(dict.fromkeys([low, round((low + high) / 2), high]))
    out, at = frame((low, high), step * math.ceil(max(most, 1e-9) / step), step, ticks, f"{label} by epoch")
    for points, colour, dash in lines:
        out.append(polyline(points, at, colour, dash))
        for x, y in points:
            px, py = at(x, y)
            title = f"<title>epoch {x:g}: {y:.4g}</title>"
            out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{2 if dash else 3}" fill="{colour}">{title}</circle>')
    return "".join(out) + "</svg>"


def unit_square(label: str) -> tuple[list[str], Place]:
    """A frame from 0 to 1 both ways, with its diagonal."""
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    out, at = frame((0, 1), 1, 0.2, ticks, label)
    return [*out, polyline([(0, 0), (1, 1)], at, "#808080", "4 3", 1)], at


def polyline(points: Sequence, at: Place, colour: str, dash: str = "", width: float = 1.8, title: str = "") -> str:
    path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
    stroke = f'stroke="{colour}" stroke-width="{width}" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
    end = f"><title>{html.escape(title)}</title></polyline>" if title else "/>"
    return f'<polyline points="{path}" {stroke}{end}'


def bar(x: tuple[float, float], y: float, at: Place, colour: str, title: str) -> str:
    """A bar from x to x, as high as y."""
    (left, top), (right, bottom) = at(x[0], y), at(x[1], 0)
    size = f'x="{left + 0.8:.1f}" y="{top:.1f}" width="{right - left - 1.6:.1f}" height="{bottom - top:.1f}"'
    return f'<rect {size} fill="{colour}"><title>{html.escape(title)}</title></rect>'


def round_step(most: float) -> float:
    """A round number of which three to six make the axis."""
    unit = 10 ** math.floor(math.log10(max(most, 1e-9) / 4))
    return next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= max(most, 1e-9) / 5)
