"""Show the input of the network: the first training batches of a config as a picture, and their label values.

python -m tools.show_batch configs/unet_streets.yaml
python -m tools.show_batch configs/unet_streets.yaml --set data.augment=road --images 12 --epoch 3 --out road.png

For a run without folds these are exactly its batches; for a cross-validation those of stage 0, fold 0.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common import command
from common.console import say
from common.seeds import derive_seed
from common.tables import format_table
from data import build_dataset
from data.augment.transforms import denormalise
from data.check.scan import classes_of, mask_facts
from data.dataset import SegmentationDataset, limited
from data.loader import build_loader
from engine.config import Config, load_config
from engine.folds.cross_validation import fold_job
from engine.folds.roles import Study, draw_splits
from engine.report.picture_pages import batch_page
from engine.training.job import Job


def main(args: argparse.Namespace) -> None:
    command.check_at_least(1, images=args.images, epoch=args.epoch)
    cfg = load_config(args.config, command.overrides(args))
    job = first_job(cfg)
    keys, images, targets = zip(*samples(job, args.images, args.epoch - 1))
    data = job.train
    names = [data.names[key[1]] for key in keys]
    path = Path(args.out)
    batch_page(
        [denormalise(x).permute(1, 2, 0).numpy() for x in images], [y.numpy() for y in targets],
        captions(names, keys, data.class_names), data.palette, data.class_names, path, data.ignore_index,
    )  # fmt: skip
    say(f"{data.name}: {job.title()}, epoch {args.epoch}, {len(keys)} of {len(data)} images; {describe(job.cfg)}")
    say(value_table(data, sorted({key[1] for key in keys}), targets))
    say(f"written: {path}")


def first_job(cfg: Config) -> Job:
    """The training job whose batches are shown, as train.py makes it. Writes nothing."""
    train = build_dataset(cfg, "train", train=True)
    if cfg.cv.folds:
        roles, folds = draw_splits(cfg, train).indices(train.names)
        plain = train.plain()
        return fold_job(Study(cfg, Path(), torch.device("cpu"), plain, train, plain, roles, folds), 0, 0, None)
    train, seed = limited(train, cfg.data.limit), derive_seed(cfg.seed, "single")
    return Job(Path(), cfg, train.subset(range(len(train)), seed=seed), train.plain(), seed)


def samples(job: Job, count: int, epoch: int) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """(key, image, target) of the first `count` samples of an epoch, counted from 0, in the order of training."""
    data = job.cfg.data
    rare = data.sampling_temperature if data.sampling == "rare_class" else None
    loader = build_loader(job.train, job.cfg.train.batch_size, True, job.seed, rare_temperature=rare)
    loader.batch_sampler.set_epoch(epoch)
    keys = [key for batch in loader.batch_sampler for key in batch]
    for key in keys[:count]:
        yield key, *job.train[key]


def captions(names: Sequence[str], keys: Sequence[tuple[int, ...]], class_names: Sequence[str]) -> list[str]:
    """Caption of each row: the image's name, and with rare-class sampling the class it was drawn for."""
    return [f"{n} (drawn for {class_names[k[3]]})" if len(k) > 3 else n for n, k in zip(names, keys)]


def describe(cfg: Config) -> str:
    d = cfg.data
    parts = [f"size {d.size[0]}x{d.size[1]}", f"augment {d.augment}"]
    parts += [f"crop {d.crop[0]}x{d.crop[1]}"] if d.crop else []
    parts += [f"copy_paste {d.copy_paste:g}"] if d.copy_paste else []
    parts += [f"sampling {d.sampling}"] if d.sampling != "uniform" else []
    return ", ".join(parts)


def value_table(data: SegmentationDataset, images: Sequence[int], targets: Sequence[Tensor]) -> str:
    """Label values before and after augmentation: in the mask files, their classes, and in the network's targets.

    Shares are of all pixels in the files, and of all pixels in the targets shown.
    """
    before: Counter = Counter()
    found: dict[int, set] = {}
    for i in images:
        facts = mask_facts(data.records[i], data.split)
        before.update(classes_of(facts, data.labels))
        for value, index in (data.labels.index_of_raw | data.labels.index_of_colour).items():
            if value in facts.values or value in facts.colours:
                found.setdefault(index, set()).add(value)
    counts = sum(torch.bincount(y.flatten(), minlength=256) for y in targets).double()
    total = sum(before.values())
    rows = []
    for c in [*range(data.num_classes), data.ignore_index]:
        name = "ignored" if c == data.ignore_index else data.class_names[c]
        here = ", ".join(str(v) for v in sorted(found.get(c, ())))
        rows.append((c, name, here or "-", f"{100 * before[c] / total:.2f}", f"{100 * counts[c] / counts.sum():.2f}"))
    return format_table(rows, ("value", "class", "in the files", "before %", "after %"))


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.show_batch configs/unet_streets.yaml --out batch.png")
    p.add_argument("config", help="a YAML file under configs/")
    p.add_argument("--out", default="batch.png", metavar="FILE.png", help="the picture to write (default: batch.png)")
    p.add_argument("--images", type=int, default=8, metavar="N", help="samples to show (default: 8)")
    p.add_argument("--epoch", type=int, default=1, metavar="E", help="of this epoch, counted from 1 (default: 1)")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
