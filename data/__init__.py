"""Data sets: `build_dataset(cfg, split, train)` turns a config into samples; `DATASETS` is the list of what there is.

A new data set is one function `(cfg.data, split) -> (records, labels)` and one row of the table below.
"""

from __future__ import annotations

from pathlib import Path

from data.camvid import camvid
from data.cityscapes import cityscapes
from data.copy_paste import build_copy_paste
from data.dataset import SegmentationDataset, data_hash
from data.files import Record
from data.folder import folder
from data.labels import LabelTable
from data.transforms import build_transform
from engine.config_keys import Config, DataConfig
from engine.errors import UserError, unknown

__all__ = ["DATASETS", "LabelTable", "Record", "SegmentationDataset", "build_dataset", "data_hash"]


def _streets(data: DataConfig, split: str):
    from data import streets  # only here: the generator is not needed to read other data

    return cityscapes(streets.ensure(Path(data.root) if data.root else None), split, "labelIds")


DATASETS = {
    "streets": _streets,
    "cityscapes": lambda data, split: cityscapes(_root(data), split, data.labels),
    "camvid": lambda data, split: camvid(_root(data), split),
    "folder": lambda data, split: folder(_root(data), split),
}


def _root(data: DataConfig) -> Path:
    if not data.root:
        raise UserError(f"data.root is not set: where is '{data.name}'? e.g. --set data.root=path/to/{data.name}")
    return Path(data.root).expanduser()


def build_dataset(cfg: Config, split: str, train: bool) -> SegmentationDataset:
    """The data set of a config. `train`: with `data.augment` and `data.crop`; else only resized to `data.size`.

    With `eval.native` and not `train`, targets keep their own size while images are resized to `data.size`.
    Raises: UserError for an unknown name, a missing folder, an empty split, an orphan image or label.
    """
    if cfg.data.name not in DATASETS:
        raise unknown("data set (data.name)", cfg.data.name, DATASETS)
    size = tuple(cfg.data.size)
    if train:
        transform = build_transform(cfg.data.augment, size, crop=cfg.data.crop)
    else:
        transform = build_transform("none", size, native_target=cfg.eval.native)
    records, labels = DATASETS[cfg.data.name](cfg.data, split)
    labels = labels.with_label_map(cfg.data.label_map)
    name = f"{cfg.data.name} {split}"
    d, paste = cfg.data, None
    if train:
        paste = build_copy_paste(d.copy_paste, d.paste_classes, d.paste_exclude, d.paste_edge, labels.class_names)
    return SegmentationDataset(records, labels, transform, cfg.seed, d.cache, name, split, paste)
