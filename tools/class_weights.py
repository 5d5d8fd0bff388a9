"""Count the training pixels of each class, and show the loss weights by each rule.

python -m tools.class_weights configs/unet_streets.yaml
python -m tools.class_weights configs/deeplabv3plus_cv.yaml --fold 0 --rule median_frequency enet --plot weights.png

Use a rule with `loss.class_weights: median_frequency` in a config, or paste the numbers that --json writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common import command
from common.console import say
from common.errors import UserError, unknown
from common.files import write_json
from common.tables import format_table
from data import build_dataset
from data.class_weights import RULES, cache_file, class_weights, count_pixels
from data.dataset import SegmentationDataset, limited
from engine.config import Config, load_config
from engine.folds.roles import draw_splits
from engine.report import plots
from engine.report.plots import figure, rgb


def main(args: argparse.Namespace) -> None:
    for rule in args.rule:
        if rule not in RULES:
            raise unknown("rule for class_weights", rule, RULES)
    cfg = load_config(args.config, command.overrides(args))
    dataset, which = training_images(cfg, args.fold)
    counts = count_pixels(dataset)
    weights = {rule: class_weights(rule, counts) for rule in args.rule}
    void = "pixels with a class" if dataset.labels.ignore else "pixels"
    say(f"{which}: {len(dataset)} images, {int(counts.sum())} {void}; counts kept in {cache_file(dataset)}")
    say(table(dataset.class_names, counts, weights))
    if args.json:
        facts = {"classes": list(dataset.class_names), "images": len(dataset), "pixels": counts.sum(0).tolist()}
        write_json(Path(args.json), {**facts, "weights": weights})
        say(f"written: {args.json}")
    if args.plot:
        drawn = plots.available() and plot(dataset, counts.sum(0).tolist(), weights, Path(args.plot), which)
        say(f"written: {drawn}" if drawn else plots.SKIPPED)


def training_images(cfg: Config, fold: int | None) -> tuple[SegmentationDataset, str]:
    """The training images of the config or of one fold, and a name for them."""
    train = build_dataset(cfg, "train", train=True)
    if fold is None:
        return limited(train, cfg.data.limit), train.name
    if not 0 <= fold < cfg.cv.folds:
        raise UserError(f"--fold {fold}: the config has cv.folds {cfg.cv.folds}, so 0..{cfg.cv.folds - 1}")
    roles, folds = draw_splits(cfg, train).indices(train.names)
    start = roles["start"] if cfg.cv.replay_start else []
    return train.subset(sorted({*folds[fold]["train"], *start})), f"{train.name}, fold {fold}"


def table(class_names: Sequence[str], counts: torch.Tensor, weights: dict[str, list[float]]) -> str:
    """One row per class: pixels, share in percent, images that show it, weight by each rule."""
    pixels, images = counts.sum(0), (counts > 0).sum(0)
    shares = 100 * pixels.double() / pixels.sum()
    rows = []
    for c, name in enumerate(class_names):
        row = [name, int(pixels[c]), f"{shares[c]:.3f}", int(images[c])]
        rows.append(row + [f"{w[c]:.4f}" for w in weights.values()])
    return format_table(rows, ["class", "pixels", "share %", "images", *weights])


def plot(data: SegmentationDataset, pixels: list[int], weights: dict[str, list[float]], path: Path, note: str) -> Path:
    """Bars: the share of each class, the commonest on top, and its weight by each rule."""
    order = sorted(range(len(pixels)), key=lambda c: -pixels[c])
    ys, colours = range(len(order)), [rgb(data.palette[c]) for c in order]

    def draw(fig) -> None:
        axes = fig.subplots(1, 1 + len(weights), sharey=True, squeeze=False, width_ratios=[1.4] + [1] * len(weights))[0]
        columns = {"share of the labelled pixels [%]": [100 * n / sum(pixels) for n in pixels], **weights}
        for ax, (title, values) in zip(axes, columns.items()):
            values = [values[c] for c in order]
            ax.barh(ys, values, 0.75, color=colours, edgecolor="#222222", linewidth=0.6)
            for y, value in zip(ys, values):
                ax.annotate(f"{value:.3g}", (value, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
            ax.set_title(title.replace("_", " "), fontsize=10, loc="left")
            ax.grid(axis="y", visible=False)
            ax.margins(x=0.22)
            ax.set_xlim(left=0)
        axes[0].set_yticks(list(ys), [data.class_names[c] for c in order])
        axes[0].set_ylim(len(order) - 0.4, -0.6)

    return figure("Class weights", note, path, 5.2 + 2.1 * len(weights), 1.3 + 0.27 * len(order), draw)


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.class_weights configs/unet_streets.yaml --plot weights.png")
    p.add_argument("config", help="a YAML file under configs/: its data set, labels and splits")
    p.add_argument("--rule", nargs="+", default=list(RULES), metavar="NAME", help=f"of {', '.join(RULES)}; default all")
    p.add_argument("--fold", type=int, metavar="K", help="only the training images of fold K (from 0) of the config")
    p.add_argument("--plot", metavar="FILE", help="draw the table as bars (PNG; needs matplotlib)")
    p.add_argument("--json", metavar="FILE", help="write pixels and weights")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
