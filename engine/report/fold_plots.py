"""Plots of a cross-validation: folds, stages, averaged candidates, and the line between two folds' weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.report.plots import BLUE, GREEN, GREY, INK, ORANGE, PALE, figure, fold_colour, percent


def folds(rows: Sequence[dict], mean: float | None, sd: float | None, path: Path, note: str = "", split="val") -> Path:
    """mIoU of each fold: bars on select, with mean and standard deviation; markers on the reported split and on the
    fold's held-out images. rows: `folds` of results.json."""
    xs = list(range(len(rows)))

    def draw(fig) -> None:
        ax = fig.subplots()
        values = percent([r.get("select_miou") for r in rows])
        heights, colours = [v if v == v else 0 for v in values], [fold_colour(r["fold"]) for r in rows]
        ax.bar(xs, heights, 0.55, color=colours, alpha=0.85, label="select (bars)")
        for x, v in zip(xs, values):
            if v == v:
                box = {"boxstyle": "round,pad=0.25", "facecolor": INK, "alpha": 0.55, "linewidth": 0}
                ax.text(x, v / 2, f"{v:.1f}", ha="center", va="center", color="white", fontweight="bold", bbox=box)
        left, right = [x - 0.13 for x in xs], [x + 0.13 for x in xs]
        ax.plot(left, percent([r.get("miou") for r in rows]), "o", color=INK, markersize=8, markeredgecolor="white",
                label=f"{split} (reported)")  # fmt: skip
        ax.plot(right, percent([r.get("val_miou") for r in rows]), "D", color=INK, markerfacecolor="white",
                markersize=7, label="held-out images of the fold")  # fmt: skip
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
        label = "folds, select: mean ± sd"
        ax.errorbar(xs, means, spreads, color=GREY, marker="s", capsize=4, linewidth=1, label=label)
        for r in rows:
            ax.annotate(r["winner"], (r["stage"], 1), (0, -12), xycoords=("data", "axes fraction"),
                        textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
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
        ax.plot([0, 1], [ys[0], ys[-1]], color=GREY, linestyle=(0, (4, 3)), label="straight line between the ends")
        ax.plot(data["t"], ys, "o-", color=GREEN, linewidth=2, label="averaged weights")
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], [f"fold {a}", "¼", "half-way", "¾", f"fold {b}"])
        ax.set(xlabel="share of the second fold in the average", ylabel="mIoU [%]")
        ax.margins(y=0.25)
        ax.set_ylim(bottom=max(0, ax.get_ylim()[0]))
        fig.legend(loc="outside lower center", ncols=2, fontsize=9)

    return figure(f"Along the line from fold {a} to fold {b}", note, path, 7.5, 4.2, draw)


def candidates(rows: Sequence[dict], path: Path, note: str = "", split: str = "val") -> Path:
    """Candidates: mIoU on select, on the reported split, and there with merely averaged BatchNorm statistics; on the
    right the difference to the best single fold with its 95 % interval. rows: `candidates` of results.json."""
    ys = list(range(len(rows)))
    column = lambda key: percent([r.get(key) for r in rows])  # noqa: E731

    def draw(fig) -> None:
        left, right = fig.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for y, a, b, c in zip(ys, column("select_miou"), column("miou"), column("miou_raw")):
            known = [v for v in (a, b, c) if v == v]
            left.plot([min(known, default=0), max(known, default=0)], [y, y], color=PALE, linewidth=4, zorder=1)
        marks = [("miou_raw", "x", ORANGE, f"{split}, BatchNorm statistics merely averaged"),
                 ("select_miou", "D", BLUE, "select (ranks)"), ("miou", "o", GREEN, f"{split} (reported)")]  # fmt: skip
        for key, marker, colour, label in marks:
            hollow = {"markerfacecolor": "white"} if marker == "D" else {}
            left.plot(column(key), ys, marker, color=colour, markersize=8, markeredgewidth=1.8, label=label, **hollow)
        left.set_yticks(ys, [r["name"] for r in rows])
        left.set(xlabel="mIoU [%]", ylim=(len(rows) - 0.5, -0.5))
        left.margins(x=0.08)
        for y, row in zip(ys, rows):
            _draw_interval(right, y, row)
        right.axvline(0, color=INK, linewidth=1)
        right.set(xlabel=f"{split} mIoU minus best single fold\n[points, 95 % interval]")
        right.margins(x=0.12)
        fig.legend(loc="outside lower left", ncols=3, fontsize=9)

    return figure("Candidates compared", note, path, 10.5, 2.3 + 0.42 * len(rows), draw)


def _draw_interval(ax, y: int, row: dict) -> None:
    bootstrap = row.get("bootstrap")
    if not bootstrap:
        text = "reference" if row["name"] == "best" else "no interval"
        ax.annotate(text, (0, y), (6, 0), textcoords="offset points", va="center", fontsize=8, color=GREY)
        return
    low, middle, high = (100 * bootstrap[k] for k in ("low", "difference", "high"))
    colour = GREEN if low > 0 else ORANGE if high < 0 else GREY
    ax.plot([low, high], [y, y], color=colour, linewidth=3, solid_capstyle="round", alpha=0.55)
    ax.plot([middle], [y], "o", color=colour, markersize=7)
