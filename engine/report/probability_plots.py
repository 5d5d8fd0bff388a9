"""Plots of predicted probabilities: the ROC curve of each class, and the reliability diagram (calibration)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.report.plots import BLUE, GREY, ORANGE, figure, rgb


def roc(
    curves: Mapping[str, dict | None], auc: Mapping[str, float | None], palette: Sequence[Sequence[int]], path: Path,
    note: str = "",
) -> Path:  # fmt: skip
    """ROC curve of each class against the rest; the legend has the areas, best first.

    curves: {class: {"fpr": [..], "tpr": [..]}}, None for a class without a curve.
    """
    shown = [n for n in curves if curves[n] is not None and auc.get(n) is not None]
    colours = {n: rgb(palette[i]) for i, n in enumerate(curves)}

    def draw(fig) -> None:
        ax = fig.subplots()
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        for name in sorted(shown, key=lambda n: -auc[n]):
            c = colours[name]
            dark = c if sum(c) < 2.4 else (0.5, 0.5, 0.5)  # white and pale yellow are invisible
            rates = curves[name]["fpr"], curves[name]["tpr"]
            ax.plot(*rates, color=dark, label=f"{name}  {auc[name]:.3f}", linewidth=1.6)
        ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
        ax.set_aspect("equal")
        if shown:
            ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9, title="class, area under curve",
                      ncols=1 + len(shown) // 20)  # fmt: skip

    return figure("ROC, each class against the rest", note, path, 8.6, 5.8, draw)


def reliability(diagram: Mapping[str, Sequence], ece: float, path: Path, note: str = "") -> Path:
    """Reliability diagram: accuracy against confidence in bins; below, the pixels in each bin."""
    upper, pixels = diagram["upper"], diagram["pixels"]
    width, total = upper[0], max(sum(pixels), 1)
    middles = [u - width / 2 for u in upper]
    known = [(m, a, c) for m, a, c in zip(middles, diagram["accuracy"], diagram["confidence"]) if a is not None]

    def draw(fig) -> None:
        top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="perfect calibration")
        top.bar([m for m, _, _ in known], [a for _, a, _ in known], 0.9 * width, color=BLUE, label="accuracy")
        top.plot([m for m, _, _ in known], [c for _, _, c in known], "o", color=ORANGE, label="mean confidence")
        top.set(ylabel="share of right pixels", ylim=(0, 1.02), title="")
        top.legend(fontsize=9, loc="upper left")
        bottom.bar(middles, [100 * n / total for n in pixels], 0.9 * width, color=GREY)
        bottom.set(xlabel="confidence: the largest softmax probability", ylabel="% of pixels")

    return figure(f"Reliability: expected calibration error {100 * ece:.2f} %", note, path, 6.6, 6.2, draw)
