"""Plots of scores: IoU of each class, confusion matrix, IoU against class frequency, mIoU of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.report.plots import BLUE, GREY, INK, figure, rgb


def class_iou(
    class_names: Sequence[str], palette: Sequence[Sequence[int]], scores: Mapping[str, Mapping[str, float | None]],
    path: Path, note: str = "",
) -> Path:  # fmt: skip
    """IoU of each class as bars in the class's colour, best class on top, for up to three candidates.

    scores: {candidate: {class: IoU or None}}; the first candidate gives the order and the large numbers.
    """
    names, first = list(scores)[:3], next(iter(scores))
    ious = [-1.0 if (v := scores[first].get(name)) is None else v for name in class_names]  # absent classes last
    order = sorted(range(len(class_names)), key=ious.__getitem__, reverse=True)
    shades, hatches = (1.0, 0.55, 0.25), ("", "////", "....")
    thick = 0.78 / len(names)

    def draw(fig) -> None:
        ax = fig.subplots()
        for k, name in enumerate(names):
            ys = [row - 0.39 + thick * (k + 0.5) for row in range(len(order))]
            values = [scores[name].get(class_names[c]) for c in order]
            colours = [(*rgb(palette[c]), shades[k]) for c in order]
            ax.barh(ys, [100 * (v or 0) for v in values], thick * 0.92, color=colours, edgecolor=INK,
                    linewidth=0.6, hatch=hatches[k])  # fmt: skip
            for y, v in zip(ys, values):
                text = "absent" if v is None else f"{100 * v:.1f}"
                ax.text(100 * (v or 0) + 0.8, y, text, va="center", fontsize=8 if k == 0 else 6.5,
                        color=INK if k == 0 else GREY)  # fmt: skip
            sample = (0.5, 0.5, 0.5, shades[k])  # grey patch of the legend: the shade without a class colour
            ax.bar([0], [0], color=sample, edgecolor=INK, linewidth=0.6, hatch=hatches[k], label=name)
        ax.set_yticks(range(len(order)), [class_names[c] for c in order])
        ax.set(xlim=(0, 106), ylim=(len(order) - 0.4, -0.6), xlabel="IoU [%]")
        ax.grid(axis="y", visible=False)
        if len(names) > 1:
            fig.legend(loc="outside lower center", ncols=3, fontsize=9)

    height = 1.7 + len(order) * (0.24 + 0.1 * len(names))
    return figure("IoU of each class", note, path, 8.5, height, draw)


def confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: Path, note: str = "") -> Path:
    """The confusion matrix, each row (target) in percent of its pixels; readable up to 34 classes."""
    n = len(class_names)
    size, small = 2.6 + 0.46 * n, 8 if n <= 20 else 7

    def draw(fig) -> None:
        ax = fig.subplots()
        image = draw_confusion(ax, matrix, class_names, small)
        ax.set_xticks(range(n), class_names, rotation=55, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n), class_names)
        ax.set(xlabel="predicted class", ylabel="target class")
        bar = fig.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
        bar.set_label("% of the target's pixels")
        bar.outline.set_visible(False)

    return figure("Confusion matrix, rows sum to 100 %", note, path, max(size + 1.6, 7), max(size, 4.5), draw)


def draw_confusion(ax, matrix: Sequence[Sequence[int]], class_names: Sequence[str], fontsize: float):
    """The cells and their numbers in `ax`, without class names; returns the image."""
    n = len(class_names)
    shares = [[100 * v / sum(row) if sum(row) else float("nan") for v in row] for row in matrix]
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for i, row in enumerate(shares):
        for j, v in enumerate(row):
            if v >= 0.5 or (i == j and v == v):
                colour = "white" if v > 55 else INK
                ax.text(j, i, f"{v:.0f}", ha="center", va="center", fontsize=fontsize, color=colour)
        if row[0] != row[0]:
            ax.text(n / 2 - 0.5, i, "no such pixels", ha="center", va="center", fontsize=fontsize, color=GREY)
    ax.set_xticks([k - 0.5 for k in range(1, n)], minor=True)
    ax.set_yticks([k - 0.5 for k in range(1, n)], minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="#F0F0F0", linewidth=0.7)
    ax.tick_params(which="minor", length=0)
    return image


def frequency_iou(
    frequency: Mapping[str, float], per_class: Mapping[str, float | None], palette: Sequence[Sequence[int]], path: Path,
    note: str = "",
) -> Path:  # fmt: skip
    """IoU of each class against its share of the training pixels (log axis)."""
    points = [(100 * frequency[n], 100 * v, n, rgb(palette[c])) for c, (n, v) in enumerate(per_class.items())
              if v is not None and frequency.get(n, 0) > 0]  # fmt: skip

    def draw(fig) -> None:
        ax = fig.subplots()
        ax.set_xscale("log")
        for x, y, _, colour in points:
            ax.plot([x], [y], "o", color=colour, markersize=9, markeredgecolor=INK, markeredgewidth=0.7)
        ax.set(xlabel="share of the labelled training pixels [%]", ylabel="IoU [%]", ylim=(-4, 104))
        ax.margins(x=0.12)
        low, high = ax.get_xlim()
        if high < 16 * low:  # show at least a decade, so that the axis has ticks
            low, high = (low * high) ** 0.5 / 4, (low * high) ** 0.5 * 4
            ax.set_xlim(low, high)
        between = "25" if high < 1000 * low else ""  # which ticks between the powers of ten get a number
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        ax.xaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in between else "")
        place_labels(fig, ax, [p[:3] for p in points])

    return figure("IoU against class frequency", note, path, 8.5, 5.6, draw)


def place_labels(fig, ax, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each name next to its point (x, y), at the nearest of 8 directions and 5 distances that covers no point and
    no earlier name. A thin line leads to names that are far away."""
    fig.canvas.draw()  # fixes the layout, so that labels can be placed in pixels
    fig.set_layout_engine("none")
    frame, scale = ax.get_window_extent(), fig.dpi / 72  # pixels per point
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    centres = [ax.transData.transform((x, y)) for x, y, _ in points]
    taken = [(cx - 9, cy - 9, cx + 9, cy + 9) for cx, cy in centres]
    for (x, y, name), (cx, cy) in zip(points, centres):
        style = {"textcoords": "offset points", "ha": "center", "va": "center"}
        text = ax.annotate(name, (x, y), (0, 0), fontsize=8.5, **style)
        size = text.get_window_extent()
        places = []  # (boxes covered, reach, offset in points, box in pixels)
        for reach in (9, 16, 26, 40, 60):
            for side in sides:
                dx, dy = (d * (reach * scale + n / 2) for d, n in zip(side, (size.width, size.height)))
                x0, y0 = cx + dx - size.width / 2, cy + dy - size.height / 2
                x1, y1 = x0 + size.width, y0 + size.height
                outside = x0 < frame.x0 or x1 > frame.x1 or y0 < frame.y0 or y1 > frame.y1
                covered = sum(x0 < c and a < x1 and y0 < d and b < y1 for a, b, c, d in taken)
                places.append((3 * outside + covered, reach, (dx / scale, dy / scale), (x0, y0, x1, y1)))
        _, reach, offset, box = min(places, key=lambda place: place[0])  # the first, nearest of the best
        text.set_position(offset)
        taken.append(box)
        if reach > 9:
            ax.annotate("", (x, y), offset, zorder=1, **style,
                        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6})  # fmt: skip


def histogram(mious: Sequence[float], width: int = 5) -> list[tuple[float, float, int]]:
    """(from, to, images) of bins `width` points wide, from the bin of the worst image to that of the best. A score of
    1 is in the last bin."""
    places = [min(int(100 * m // width), 100 // width - 1) for m in mious]
    bins = range(min(places), max(places) + 1)
    return [(k * width / 100, (k + 1) * width / 100, places.count(k)) for k in bins]


def per_image(row: Mapping, path: Path, note: str = "") -> Path:
    """Histogram of the images' own mIoU, with the two means that papers quote. row: of results.json."""
    named = sorted((v, n) for n, v in zip(row["per_image"]["names"], row["per_image"]["miou"]) if v is not None)
    bins = histogram([v for v, _ in named])

    def draw(fig) -> None:
        ax = fig.subplots()
        for low, high, n in bins:
            ax.bar(50 * (low + high), n, 95 * (high - low), color=BLUE, alpha=0.85)
        means = ("miou_per_image", "-", "mean of the images"), ("miou", ":", "mIoU of the whole set")
        for key, style, label in means:
            if row.get(key) is not None:
                ax.axvline(100 * row[key], color=INK, linestyle=style, label=f"{label} {100 * row[key]:.1f}")
        for word, (miou, name) in (("worst", named[0]), ("best", named[-1])):
            ax.plot([], [], " ", label=f"{word}: {name} {100 * miou:.1f}")
        ax.set(xlabel="mIoU of the image [%]", ylabel="images")
        ax.yaxis.get_major_locator().set_params(integer=True)
        fig.legend(loc="outside lower left", ncols=2, fontsize=9)

    return figure(f"{len(named)} images by their own mIoU", note, path, 8.5, 4.6, draw)
