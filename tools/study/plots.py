"""Plots that compare several runs: curves by epoch, ROC, confusion matrices, accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.report.plots import GREY, INK, SERIES, figure
from engine.report.score_plots import draw_confusion, place_labels
from engine.report.training_plots import PANELS


def epoch_curves(
    runs: dict[str, Sequence[dict]], path: Path, note: str = "", title: str = "Training and validation by epoch"
) -> Path:
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
        fig.legend(loc="outside lower center", ncols=columns, fontsize=9)

    columns = _columns([*runs, "validation images", "training batches"], 10)
    return figure(title, note, path, 10, 4.4 + 0.22 * -(-(len(runs) + 2) // columns), draw)


def roc_panels(found: dict[str, dict], classes: Sequence[str], path: Path, note: str = "") -> Path:
    """ROC curves: one panel per class, one line per network. The areas are in the lower right corner of each panel.

    found: {network: {"roc": {class: curve or None}, "auc": .., "mean_auc": ..}}.
    """
    wide, high = _grid(len(classes), 6)
    means = {name: probabilities["mean_auc"] for name, probabilities in found.items()}
    labels = [name if mean is None else f"{name}, mean area {mean:.3f}" for name, mean in means.items()]
    width = max(2.5 * wide + 0.6, 7.5)
    columns = _columns(labels, width)

    def draw(fig) -> None:
        for ax, name in zip(_panels(fig, len(classes), wide, high), classes):
            ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            for k, probabilities in enumerate(found.values()):
                curve, area = (probabilities[key].get(name) for key in ("roc", "auc"))
                if curve is not None:
                    ax.plot(curve["fpr"], curve["tpr"], linewidth=1.4, **_line(k))
                if len(found) <= 12:  # lines of text in a panel
                    text, y = ("-" if area is None else f"{area:.3f}"), 0.05 + 0.07 * (len(found) - 1 - k)
                    ax.text(0.97, y, text, fontsize=8, ha="right", color=_line(k)["color"])
            ax.set_title(name, fontsize=10)
            ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("true positive rate", fontsize=9)
        for ax in fig.axes[max(0, len(classes) - wide) : len(classes)]:
            ax.set_xlabel("false positive rate", fontsize=9)
        for k, label in enumerate(labels):
            fig.axes[0].plot([], [], label=label, **_line(k))
        fig.legend(loc="outside lower center", ncols=columns, fontsize=9)

    title, height = "ROC, each class against the rest", 2.6 * high + 1.2 + 0.22 * -(-len(found) // columns)
    return figure(title, note, path, width, height, draw)


def confusion_panels(matrices: dict[str, Sequence], class_names: Sequence[str], path: Path, note: str = "") -> Path:
    """One confusion matrix per network, rows (target) in percent of their pixels. matrices: {network: (C, C)}."""
    n = len(class_names)
    side, names = max(2.0, 0.27 * n), 0.1 + 0.075 * max(map(len, class_names))
    wide, high = _grid(len(matrices), max(1, min(4, int(16 / side))))

    def draw(fig) -> None:
        for ax, (name, matrix) in zip(_panels(fig, len(matrices), wide, high), matrices.items()):
            draw_confusion(ax, matrix, class_names, 8 if n <= 10 else 5.5)
            ax.set_title(name, fontsize=10)
            ax.set_xticks(range(n), class_names, rotation=55, ha="right", rotation_mode="anchor", fontsize=8)
            ax.set_yticks(range(n), class_names, fontsize=8)
        fig.supxlabel("predicted class", fontsize=10)
        fig.supylabel("target class", fontsize=10)

    title, width = "Confusion matrices, rows sum to 100 %", side * wide + names + 0.8
    return figure(title, note, path, max(width, 6.5), (side + 0.35) * high + names + 1.2, draw)


def _columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit: a 9 pt letter is about 0.078 inch wide, the line before it 0.7 inch."""
    return max(1, min(len(labels), int(width / (0.078 * max(map(len, labels)) + 0.7))))


def _grid(n: int, at_most: int) -> tuple[int, int]:
    """(columns, rows) for n panels, with rows of nearly equal length."""
    rows = -(-n // at_most)
    return -(-n // rows), rows


def _panels(fig, n: int, wide: int, high: int) -> list:
    """n axes that share both scales. The lowest axes of each column carry the tick labels."""
    panels = list(fig.subplots(high, wide, sharex=True, sharey=True, squeeze=False).flat)
    for ax in panels[n:]:
        ax.axis("off")
    for ax in panels[max(0, n - wide) : n]:
        ax.tick_params(labelbottom=True)
    return panels[:n]


def _line(k: int) -> dict:
    """Colour and dashes of line k; after all colours the dashes change."""
    return {"color": SERIES[k % len(SERIES)], "linestyle": ("-", (0, (5, 2)), (0, (1, 1)))[k // len(SERIES) % 3]}


def accuracy_by_cost(points: dict[str, tuple[float, float]], path: Path, note: str = "", rule: str = "") -> Path:
    """mIoU (a fraction) against GFLOPs: {name: (gflops, miou)}; overlapping names are moved apart."""

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
        place_labels(fig, ax, [(gflops, 100 * miou, name) for name, (gflops, miou) in points.items()])

    return figure("Accuracy against cost", note, path, 7.5, 5, draw)
