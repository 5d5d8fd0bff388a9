"""The frame that every plot shares: figure, title, colours. Drawn with matplotlib, from plain lists and dicts.

This is the only module that imports matplotlib, and only inside functions. Without matplotlib `available()` is False,
the caller prints `SKIPPED`, and everything else works (pictures of predictions need Pillow alone: picture_pages.py).
Colours: the palette of Okabe and Ito for series (distinct for colour-blind readers), the data set's own for classes.
Scores come in as fractions and are drawn in percent; None is a class or an epoch without a score.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

SKIPPED = "plots skipped: matplotlib is not installed"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SERIES = [BLUE, "#E69F00", GREEN, PURPLE, "#56B4E9", ORANGE, "#8C6D31", "#000000", "#7F7F7F", "#B8A800"]
INK, GREY, PALE = "#222222", "#666666", "#D9D9D9"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "xtick.color": GREY, "ytick.color": GREY,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False,
}  # fmt: skip


def available() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:  # not installed, or broken
        return False
    return True


def figure(title: str, note: str, path: Path, width: float, height: float, draw) -> Path:
    """Make a figure with a title and a grey note (data, split, protocol), let `draw(fig)` fill it, write the PNG.

    It uses Figure without pyplot: no global state, no window, no display.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), dpi=120, layout="constrained")
        FigureCanvasAgg(fig)
        lines = textwrap.wrap(note, int(width * 14.5)) or [""]  # a 9 pt letter is about 1/15 inch wide
        head = (0.46 + 0.17 * len(lines)) / height  # share of the height for the text above the axes
        fig.get_layout_engine().set(rect=(0.008, 0.012, 0.984, 0.976 - head), w_pad=0.08, h_pad=0.06)
        fig.text(0.015, 1 - 0.10 / height, title, fontsize=13, fontweight="bold", va="top")
        fig.text(0.015, 1 - 0.37 / height, "\n".join(lines), fontsize=9, color=GREY, va="top")
        draw(fig)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path)
    return path


def percent(values: Sequence[float | None]) -> list[float]:
    """Fractions to percent; None to nan, which matplotlib does not draw."""
    return [float("nan") if v is None else 100 * v for v in values]


def rgb(colour: Sequence[int]) -> tuple[float, ...]:
    """0..255 to 0..1."""
    return tuple(c / 255 for c in colour)


def fold_colour(fold: int | str | None) -> str:
    """A fold's colour in every plot; the common start is black, a single run has the first colour."""
    return INK if fold == "start" else SERIES[(fold or 0) % len(SERIES)]
