"""Plots of a training: loss, mIoU and learning rate by epoch, from the rows of log.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.report.plots import GREY, figure, fold_colour

# label, training and validation key in log.jsonl, factor
PANELS = (("loss", "train_loss", "val_loss", 1.0), ("mIoU [%]", "train_miou", "val_miou", 100.0))


def timeline(rows: Sequence[dict]) -> tuple[dict, list[tuple[str, float]]]:
    """log.jsonl rows -> ({(stage, fold): [(x, row), ...]}, [(phase, first x), ...]).

    x counts epochs from the first one on: the common start, then stage after stage; the folds of a stage are side by
    side. A single run is one series (None, None).
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
        ax.plot(xs, ys, color=fold_colour(fold), linewidth=1.6, marker="." if len(xs) < 3 else None)
        if best:
            x, y = max(kept, key=lambda point: point[1])
            ax.plot([x], [y], "o", color=fold_colour(fold), markersize=6, markeredgecolor="white", zorder=4)


def _draw_gap(ax, series: dict, key: str, scale: float) -> None:
    """The mean training curve of each phase, dashed."""
    stages: dict = {}
    for (stage, _), points in series.items():
        for x, r in points:
            if r.get(key) is not None:
                stages.setdefault(stage, {}).setdefault(x, []).append(scale * r[key])
    for means in stages.values():
        xs = sorted(means)
        ax.plot(xs, [sum(means[x]) / len(means[x]) for x in xs], color=GREY, linewidth=1.3, linestyle=(0, (4, 2)))


def curves(rows: Sequence[dict], path: Path, note: str = "") -> Path:
    """Loss and mIoU by epoch, training on the left, validation on the right, one colour per fold.

    A dot marks each fold's best validation epoch. The dashed grey line repeats the mean training curve in the
    validation panel, so that the gap between the two is visible.
    """
    series, phases = timeline(rows)

    def draw(fig) -> None:
        axes = fig.subplots(2, 2, sharex=True, sharey="row")
        for (label, train, val, scale), (left, right) in zip(PANELS, axes):
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
        labels = {f: {"start": "start", None: "run"}.get(f, f"fold {f}") for f in names}
        handles = [axes[0][0].plot([], [], color=fold_colour(f), label=labels[f])[0] for f in names]
        handles.append(axes[0][0].plot([], [], color=GREY, linestyle=(0, (4, 2)), label="mean of training")[0])
        fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=9)

    return figure("Training and validation by epoch", note, path, 11, 7, draw)


def learning_rate(rows: Sequence[dict], path: Path, note: str = "") -> Path:
    """Learning rate at the first iteration of each epoch. Jobs with the same schedule overlap."""
    series, phases = timeline(rows)

    def draw(fig) -> None:
        ax = fig.subplots()
        lrs = [r["lr"] for points in series.values() for _, r in points]
        for (_, fold), points in series.items():
            xs = [x for x, _ in points]
            ax.plot(xs, [r["lr"] for _, r in points], color=fold_colour(fold), marker=".", linewidth=1.4, alpha=0.8)
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
