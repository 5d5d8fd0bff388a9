"""Pictures of several runs in one: their curves, and accuracy against cost. See engine/plots for the frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.plots import INK, SERIES, figure

PANELS = (("loss", "train_loss", "val_loss", 1.0), ("mIoU [%]", "train_miou", "val_miou", 100.0))


def curves(runs: dict[str, Sequence[dict]], path: Path, note: str = "") -> Path:
    """Loss and mIoU by epoch of several single runs: {name: rows of log.jsonl}. Training dashed, validation solid."""

    def draw(fig) -> None:
        for ax, (label, train, val, scale) in zip(fig.subplots(1, 2), PANELS):
            for k, (name, rows) in enumerate(runs.items()):
                colour = SERIES[k % len(SERIES)]
                for key, style in ((train, (0, (4, 2))), (val, "-")):
                    points = [(r["epoch"], scale * r[key]) for r in rows if r.get(key) is not None]
                    if points:
                        label_of = name if key == val and ax.get_subplotspec().is_first_col() else None
                        marker = "o" if key == val else None
                        ax.plot(*zip(*points), color=colour, linestyle=style, linewidth=1.6, marker=marker,
                                markersize=4, label=label_of)  # fmt: skip
            ax.set(xlabel="epoch", ylabel=label)
            ax.set_ylim(bottom=0)
            ax.xaxis.get_major_locator().set_params(integer=True)
        fig.axes[0].plot([], [], color=INK, linestyle=(0, (4, 2)), label="training batches")
        fig.axes[0].plot([], [], color=INK, label="validation images")
        fig.legend(loc="outside lower center", ncols=min(len(runs) + 2, 6), fontsize=9)

    return figure("Training and validation by epoch", note, path, 10, 4.6, draw)


def scatter(points: dict[str, tuple[float, float]], path: Path, note: str = "", rule: str = "") -> Path:
    """mIoU (a fraction) against GFLOPs: {name: (gflops, miou)}; names that would lie on each other are moved apart."""

    def draw(fig) -> None:
        ax = fig.subplots()
        for k, (gflops, miou) in enumerate(points.values()):
            ax.plot(gflops, 100 * miou, "o", color=SERIES[k % len(SERIES)], markersize=8, markeredgecolor="white")
        costs = [g for g, _ in points.values()]
        if max(costs) > 8 * min(costs):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        ax.set(xlabel=f"GFLOPs of one image ({rule})", ylabel="mIoU [%]")
        ax.margins(0.18, 0.14)
        _write_names(fig, ax, points)

    return figure("Accuracy against cost", note, path, 7.5, 5, draw)


def _write_names(fig, ax, points: dict[str, tuple[float, float]]) -> None:
    """Each name right of its point, or as far below it as keeps it off the names already written."""
    fig.draw_without_rendering()
    taken: list[tuple[float, float]] = []
    for name, (gflops, miou) in sorted(points.items(), key=lambda item: -item[1][1]):
        x, y = ax.transData.transform((gflops, 100 * miou))
        while any(abs(y - b) < 16 and abs(x - a) < 180 for a, b in taken):  # pixels: one line of text
            y -= 4
        taken.append((x, y))
        dx, dy = 9, (y - ax.transData.transform((gflops, 100 * miou))[1]) * 72 / fig.dpi
        ax.annotate(name, (gflops, 100 * miou), (dx, dy), textcoords="offset points", fontsize=9, va="center")
