"""The pictures of a report, from plain numbers: no model and no tensor comes in here, only lists and dicts.

Here: the frame of every picture, training and cross-validation; engine/report/score_plots has classes and candidates. The only
module that imports matplotlib, and only inside functions: without it `available()` is False, the caller skips the plots
with one line, and everything else works (the page of sample predictions needs Pillow alone: engine/report/picture_pages).
Colours: Okabe and Ito's palette for series (distinct for colour-blind readers), the data set's own for classes. Scores
come in as fractions and are drawn in percent; None is a class or an epoch without a score.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from engine.report.picture_pages import samples_page

__all__ = ["available", "curves", "folds", "learning_rate", "line", "samples_page", "stages"]

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
    """Whether plots can be drawn here."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:  # not installed, or broken
        return False
    return True


def figure(title: str, note: str, path: Path, width: float, height: float, draw) -> Path:
    """Make a figure with a title and a grey line (data, split, protocol), let `draw(fig)` fill it, write the PNG.

    Figure objects without pyplot: no global state, no window, no display needed.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), dpi=120, layout="constrained")
        FigureCanvasAgg(fig)
        lines = textwrap.wrap(note, int(width * 14.5)) or [""]  # a 9 pt letter is about 1/15 inch wide
        head = (0.46 + 0.17 * len(lines)) / height  # kept free for the text above the axes
        fig.get_layout_engine().set(rect=(0.008, 0.012, 0.984, 0.976 - head), w_pad=0.08, h_pad=0.06)
        fig.text(0.015, 1 - 0.10 / height, title, fontsize=13, fontweight="bold", va="top")
        fig.text(0.015, 1 - 0.37 / height, "\n".join(lines), fontsize=9, color=GREY, va="top")
        draw(fig)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path)
    return path


def percent(values: Sequence[float | None]) -> list[float]:
    """Fractions to percent; None to nan, which matplotlib leaves out."""
    return [float("nan") if v is None else 100 * v for v in values]


def rgb(colour: Sequence[int]) -> tuple[float, ...]:
    """0..255 to 0..1."""
    return tuple(c / 255 for c in colour)


# --- training -------------------------------------------------------------------------------------------------------


def timeline(rows: Sequence[dict]) -> tuple[dict, list[tuple[str, float]]]:
    """log.jsonl rows -> ({(stage, fold): [(x, row), ...]}, [(phase, first x), ...]).

    x counts epochs from the very first one: the starting run, then stage after stage; the folds of a stage run side
    by side. A single run is one series (None, None).
    """
    jobs: dict = {}
    for row in rows:
        fold = "start" if row.get("fold") in ("start", -1) else row.get("fold")
        jobs.setdefault((-1 if fold == "start" else row.get("stage"), fold), []).append(row)
    series, phases, offset = {}, [], 0
    for stage in sorted({s for s, _ in jobs}, key=lambda s: (s is not None, s)):
        members = {key: job for key, job in jobs.items() if key[0] == stage}
        phases.append(("start" if stage == -1 else f"stage {stage}", offset + 0.5))
        for key in sorted(members, key=str):
            series[key] = [(offset + r["epoch"], r) for r in members[key]]
        offset += max(r["epoch"] for job in members.values() for r in job)
    return series, phases


def _name(fold) -> str:
    return "start" if fold == "start" else "run" if fold is None else f"fold {fold}"


def _fold_colour(fold) -> str:
    return INK if fold == "start" else SERIES[(fold or 0) % len(SERIES)]


def _draw_phases(ax, phases: list[tuple[str, float]], names: bool = True) -> None:
    if len(phases) < 2:
        return
    for name, x in phases:
        if x > 0.5:
            ax.axvline(x, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        if names:
            ax.annotate(name, (x, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                        fontsize=8, color=GREY)  # fmt: skip


def _draw_series(ax, series: dict, key: str, scale: float, best: bool = False) -> None:
    for (_, fold), points in series.items():
        kept = [(x, scale * r[key]) for x, r in points if r.get(key) is not None]
        if not kept:
            continue
        xs, ys = zip(*kept)
        ax.plot(xs, ys, color=_fold_colour(fold), linewidth=1.6, marker="." if len(xs) < 3 else None)
        if best:
            x, y = max(kept, key=lambda point: point[1])
            ax.plot([x], [y], "o", color=_fold_colour(fold), markersize=6, markeredgecolor="white", zorder=4)


def _draw_gap(ax, series: dict, key: str, scale: float) -> None:
    """The mean training curve of each phase, for comparison in the validation panel."""
    stages: dict = {}
    for (stage, _), points in series.items():
        for x, r in points:
            if r.get(key) is not None:
                stages.setdefault(stage, {}).setdefault(x, []).append(scale * r[key])
    for means in stages.values():
        xs = sorted(means)
        ax.plot(xs, [sum(means[x]) / len(means[x]) for x in xs], color=GREY, linewidth=1.3, linestyle=(0, (4, 2)))


def curves(rows: Sequence[dict], path: Path, note: str = "") -> Path:
    """Loss and mIoU against epoch from log.jsonl rows, training left and validation right, a colour for each fold.

    The dot marks each fold's best validation epoch; the dashed grey line repeats the mean training curve in the
    validation panel, so that the gap between the two can be read off.
    """
    series, phases = timeline(rows)
    from_rows = [("loss", "train_loss", "val_loss", 1.0), ("mIoU [%]", "train_miou", "val_miou", 100.0)]

    def draw(fig) -> None:
        axes = fig.subplots(2, 2, sharex=True, sharey="row")
        for (label, train, val, scale), (left, right) in zip(from_rows, axes):
            _draw_series(left, series, train, scale)
            _draw_gap(right, series, train, scale)
            _draw_series(right, series, val, scale, best=val == "val_miou")
            left.set_ylabel(label)
        for ax in axes.flat:
            _draw_phases(ax, phases, names=ax in axes[0])
            ax.xaxis.get_major_locator().set_params(integer=True)
        for ax, title in zip(axes[0], ("training batches (augmented)", "validation images")):
            ax.set_title(title, fontsize=10, loc="left", pad=16)
        for ax in axes[1]:
            ax.set_xlabel("epoch")
        axes[1][1].set_ylim(bottom=0)
        names = sorted({fold for _, fold in series}, key=lambda f: (f != "start", str(f)))
        handles = [axes[0][0].plot([], [], color=_fold_colour(f), label=_name(f))[0] for f in names]
        handles.append(axes[0][0].plot([], [], color=GREY, linestyle=(0, (4, 2)), label="mean of training")[0])
        fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=9)

    return figure("Training and validation by epoch", note, path, 11, 7, draw)


def learning_rate(rows: Sequence[dict], path: Path, note: str = "") -> Path:
    """Learning rate at the first iteration of each epoch. Jobs that share a schedule lie on each other."""
    series, phases = timeline(rows)

    def draw(fig) -> None:
        ax = fig.subplots()
        lrs = [r["lr"] for points in series.values() for _, r in points]
        for (_, fold), points in series.items():
            xs = [x for x, _ in points]
            ax.plot(xs, [r["lr"] for _, r in points], color=_fold_colour(fold), marker=".", linewidth=1.4, alpha=0.8)
        positive = [lr for lr in lrs if lr > 0]
        if positive and max(positive) > 30 * min(positive):
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
            ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
        _draw_phases(ax, phases)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="epoch", ylabel="learning rate")

    return figure("Learning rate by epoch", note, path, 8, 3.6, draw)


# --- cross-validation ------------------------------------------------------------------------------------------------


def folds(rows: Sequence[dict], mean: float | None, sd: float | None, path: Path, note: str = "", split="val") -> Path:
    """mIoU of each fold on select as bars, with mean and standard deviation; markers: the reported split and the
    fold's own held-out images. rows: `folds` of results.json."""
    xs = list(range(len(rows)))

    def draw(fig) -> None:
        ax = fig.subplots()
        values = percent([r.get("select_miou") for r in rows])
        heights, colours = [v if v == v else 0 for v in values], [_fold_colour(r["fold"]) for r in rows]
        ax.bar(xs, heights, 0.55, color=colours, alpha=0.85, label="select (bars)")
        for x, v in zip(xs, values):
            if v == v:
                box = {"boxstyle": "round,pad=0.25", "facecolor": INK, "alpha": 0.55, "linewidth": 0}
                ax.text(x, v / 2, f"{v:.1f}", ha="center", va="center", color="white", fontweight="bold", bbox=box)
        left, right = [x - 0.13 for x in xs], [x + 0.13 for x in xs]
        ax.plot(left, percent([r.get("miou") for r in rows]), "o", color=INK, markersize=8, markeredgecolor="white",
                label=f"{split} (reported)")  # fmt: skip
        ax.plot(right, percent([r.get("val_miou") for r in rows]), "D", color=INK, markerfacecolor="white",
                markersize=7, label="the fold's own held-out images")  # fmt: skip
        if mean is not None:
            spread = "" if sd is None else f" ± {100 * sd:.2f}"
            label = f"mean {100 * mean:.2f}{spread}"
            ax.axhline(100 * mean, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label=label)
            if sd is not None:
                ax.axhspan(100 * (mean - sd), 100 * (mean + sd), color=INK, alpha=0.10, linewidth=0)
        ax.set_xticks(xs, [f"fold {r['fold']}" for r in rows])
        ax.set_ylabel("mIoU [%]")
        ax.margins(y=0.1)
        ax.grid(axis="x", visible=False)
        fig.legend(loc="outside lower center", ncols=4, fontsize=9)

    return figure("Folds: mean and standard deviation", note, path, max(7.5, 1.1 * len(rows) + 2), 4.6, draw)


def stages(rows: Sequence[dict], path: Path, note: str = "", split: str = "val") -> Path:
    """The winner's mIoU after each stage. rows: {stage, winner, miou, select_miou, fold_mean, fold_sd}."""
    xs = [r["stage"] for r in rows]

    def draw(fig) -> None:
        ax = fig.subplots()
        ax.plot(xs, percent([r["miou"] for r in rows]), "o-", color=GREEN, linewidth=2, label=f"winner, {split}")
        ax.plot(xs, percent([r["select_miou"] for r in rows]), "D--", color=BLUE, markerfacecolor="white",
                label="winner, select")  # fmt: skip
        means = percent([r["fold_mean"] for r in rows])
        spreads = [100 * (r["fold_sd"] or 0) for r in rows]
        ax.errorbar(
            xs, means, spreads, color=GREY, marker="s", capsize=4, linewidth=1, label="folds, select: mean ± sd"
        )
        top = max(v for r in rows for v in percent([r["miou"], r["select_miou"], r["fold_mean"]]) if v == v)
        for r in rows:
            ax.annotate(r["winner"], (r["stage"], top), (0, 14), textcoords="offset points", ha="center", fontsize=9)
        ax.set_xticks(xs, [f"stage {x}" for x in xs])
        ax.set_ylabel("mIoU [%]")
        ax.margins(x=0.15, y=0.2)
        fig.legend(loc="outside lower center", ncols=3, fontsize=9)

    return figure("The winner after each stage", note, path, max(6.5, 1.3 * len(rows) + 3), 4.2, draw)


def line(data: dict, path: Path, note: str = "") -> Path:
    """mIoU along the straight line between two folds' weights. data: `line` of results.json."""
    a, b = data["folds"]
    ys = percent(data["miou"])

    def draw(fig) -> None:
        ax = fig.subplots()
        ax.plot([0, 1], [ys[0], ys[-1]], color=GREY, linestyle=(0, (4, 3)), label="straight between the ends")
        ax.plot(data["t"], ys, "o-", color=GREEN, linewidth=2, label="averaged weights")
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], [f"fold {a}", "¼", "half-way", "¾", f"fold {b}"])
        ax.set(xlabel="share of the second fold in the average", ylabel="mIoU [%]")
        ax.margins(y=0.25)
        ax.set_ylim(bottom=max(0, ax.get_ylim()[0]))
        fig.legend(loc="outside lower center", ncols=2, fontsize=9)

    return figure(f"Along the line from fold {a} to fold {b}", note, path, 7.5, 4.2, draw)
