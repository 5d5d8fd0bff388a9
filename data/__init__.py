"""Data sets: `build_dataset(cfg, split, train)` turns a config into samples.

To add a data set, write a function `(cfg.data, split) -> (records, labels)` and add a row to `DATASETS`.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError, unknown
from data.augment.copy_paste import build_copy_paste
from data.augment.transforms import build_transform
from data.dataset import SegmentationDataset, data_hash
from data.files import SPLITS, Record
from data.labels import LabelTable
from data.remap import remap
from data.sets.ade20k import ade20k
from data.sets.camvid import camvid
from data.sets.cityscapes import cityscapes
from data.sets.folder import folder
from data.sets.kitti import kitti
from data.sets.pets import pets
from data.sets.voc import voc
from data.splits import draw_sample

__all__ = ["DATASETS", "LabelTable", "Record", "SegmentationDataset", "build_dataset", "data_hash", "sampled_names"]


def _streets(data, split: str):
    from data import streets  # imported late: other data sets do not need the generator

    return cityscapes(streets.ensure(Path(data.root) if data.root else None), split, "labelIds")


DATASETS = {
    "streets": _streets,
    "cityscapes": lambda data, split: cityscapes(_root(data), split, _label_files(data)),
    "kitti": lambda data, split: kitti(_root(data), split, _label_files(data)),
    "pets": lambda data, split: pets(_root(data), split),
    "voc": lambda data, split: voc(_root(data), split),
    "ade20k": lambda data, split: ade20k(_root(data), split),
    "camvid": lambda data, split: camvid(_root(data), split),
    "folder": lambda data, split: folder(_root(data), split),
}


def _label_files(data) -> str:
    """Which Cityscapes label files `data.labels` asks for; `auto` if it is a mapping of classes."""
    return data.labels if isinstance(data.labels, str) else "auto"


def _root(data) -> Path:
    if not data.root:
        raise UserError(f"data.root is not set: where is '{data.name}'? e.g. --set data.root=path/to/{data.name}")
    return Path(data.root).expanduser()


def _is_sampled(data, split: str) -> bool:
    """Whether `data.sample` draws this split; for a count of 0 the data set's own split is used."""
    return bool(data.sample) and split in SPLITS and data.sample[SPLITS.index(split)] > 0


def _records(data, split: str) -> tuple[list[Record], LabelTable]:
    """The data set's own split, or the part of its training split that `data.sample` draws."""
    if not _is_sampled(data, split):
        return DATASETS[data.name](data, split)
    records, labels = DATASETS[data.name](data, "train")
    return [records[i] for i in _sample(data, records)[split]], labels


def _sample(data, records: list[Record]) -> dict[str, list[int]]:
    names = [r.name for r in records]
    groups = [r.group for r in records] if data.sample_by == "group" else names
    return draw_sample(names, groups, data.sample, data.sample_seed)


def sampled_names(data) -> dict[str, list[str]]:
    """{val, test: image names} that `data.sample` draws, for splits.json; empty without `data.sample`."""
    if not data.sample:
        return {}
    records, _ = DATASETS[data.name](data, "train")
    drawn = _sample(data, records)
    return {s: [records[i].name for i in drawn[s]] for s in ("val", "test") if _is_sampled(data, s)}


def configured_labels(data, labels: LabelTable) -> LabelTable:
    """The data set's own table with `data.label_map`, `data.labels` and `data.background` applied."""
    labels = labels.with_label_map(data.label_map)
    if isinstance(data.labels, dict) or data.background == "ignore":
        labels = remap(labels, data.labels, data.background)
    return labels


def build_dataset(cfg, split: str, train: bool) -> SegmentationDataset:
    """The data set of a config. train: samples are augmented (`data.augment`, `data.crop`); else only resized.

    Of `cfg` it reads the section `data`, `seed`, and `eval.native`: if that is set and not `train`, targets keep their
    own size while images are resized to `data.size`.
    Raises: UserError for an unknown name or split, a missing folder, an empty split, an unpaired image or label.
    """
    if cfg.data.name not in DATASETS:
        raise unknown("data set (data.name)", cfg.data.name, DATASETS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    size = tuple(cfg.data.size)
    if train:
        transform = build_transform(cfg.data.augment, size, crop=cfg.data.crop)
    else:
        transform = build_transform("none", size, native_target=cfg.eval.native)
    records, labels = _records(cfg.data, split)
    labels = configured_labels(cfg.data, labels)
    name = f"{cfg.data.name} {split}" + (" (sampled)" if _is_sampled(cfg.data, split) else "")
    d, paste = cfg.data, None
    if train:
        paste = build_copy_paste(d.copy_paste, d.paste_classes, d.paste_exclude, d.paste_edge, labels.class_names)
    return SegmentationDataset(records, labels, transform, cfg.seed, d.cache, name, split, paste)
