"""Pictures of checked data: class frequencies, and masks in the colours of the palette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.console import say
from common.drawing import colourise
from common.errors import UserError
from common.spread import evenly_spaced
from data.check.whole_set import Checked
from data.files import read_image, read_mask
from data.labels import LabelTable
from engine.report import plots
from engine.report.picture_pages import predictions_page

SHOWN = 6  # pairs on the palette page


def frequency_plot(shares: dict[str, np.ndarray], labels: LabelTable, path: Path) -> Path | None:
    """Bars of each class's share of the labelled pixels (logarithmic), one row per class, one mark per further
    split."""
    if not plots.available():
        say(plots.SKIPPED)
        return None
    if not shares:
        return None
    first = next(iter(shares))
    order = np.argsort(shares[first], kind="stable")  # the commonest on top

    def draw(fig) -> None:
        axes = fig.subplots()
        low = min((v for row in shares.values() for v in row if v > 0), default=1e-4)
        floor = 100 * low / 3
        colours = [plots.rgb(labels.palette[i]) for i in order]
        axes.barh(range(len(order)), 100 * shares[first][order], color=colours, edgecolor=plots.GREY, linewidth=0.5)
        for k, (split, row) in enumerate(list(shares.items())[1:]):
            known = [(y, 100 * row[i]) for y, i in enumerate(order) if row[i] > 0]
            axes.plot(
                [v for _, v in known], [y for y, _ in known], "dos"[k], color=plots.INK, mec="white", label=split, ms=6
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(floor, 130)
        axes.set_yticks(range(len(order)), [labels.class_names[i] for i in order], fontsize=9 if len(order) < 40 else 5)
        axes.set_xlabel("share of the labelled pixels in % (logarithmic)")
        axes.grid(axis="y", visible=False)
        if len(shares) > 1:
            axes.legend(loc="lower right")

    note = f"bars: {first}" + (f"; marks: {', '.join(list(shares)[1:])}" if len(shares) > 1 else "")
    return plots.figure(f"Classes of {labels.name}", note, path, 8, max(2.5, 0.26 * len(order) + 1.6), draw)


def palette_page(checked: Checked, path: Path, count: int = SHOWN) -> Path | None:
    """A few pairs spread over the data: image, mask in the palette's colours (black: ignored), and both blended.

    Files that no loader would read are left out; None if nothing can be shown.
    """
    usable = [f for f in checked.facts if f.image_hw and f.image_hw == f.label_hw]
    images, masks, blends = [], [], []
    for k in evenly_spaced(len(usable), count):
        try:
            image, target = read_image(usable[k].image), read_mask(usable[k].label, checked.labels)
        except UserError:
            continue
        coloured = Image.fromarray(colourise(target, checked.labels.palette))
        images.append(image)
        masks.append(target)
        blends.append(np.asarray(Image.blend(Image.fromarray(image), coloured, 0.5)))
    if not images:
        return None
    columns = {"image": images, "mask (black: ignored)": masks, "image + mask": blends}
    return predictions_page(columns, checked.labels.palette, checked.labels.class_names, path)
