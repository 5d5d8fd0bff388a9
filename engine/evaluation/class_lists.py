"""Which classes the rows of a public file's classifier stand for: as it says itself, or as their number tells."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

from data.labels import CAMVID, CITYSCAPES, LabelTable
from data.sets.ade20k import ADE20K
from data.sets.pets import PETS
from data.sets.voc import VOC

# The class lists that public files were trained on, by name. torchvision's COCO files have VOC's 21 classes.
TABLES: dict[str, LabelTable] = {
    "cityscapes": CITYSCAPES, "ade20k": ADE20K, "voc": VOC, "coco-voc21": VOC, "camvid": CAMVID, "pets": PETS,
}  # fmt: skip
# What so many classes mean where the file does not say. Not pets: any network may have three.
BY_NUMBER = {table.num_classes: table for table in (CITYSCAPES, ADE20K, VOC, CAMVID)}


def class_names(meta: dict[str, Any], num_classes: int | None) -> tuple[tuple[str, ...] | None, str]:
    """(names, where they are from) of a file's classes; (None, "") where nothing tells them.

    meta: what stood beside the weights (models/checkpoints/container.py): mmseg writes its class names into the file, the
    Hugging Face hub into config.json.
    """
    for names, origin in ((_mmseg(meta, "classes"), "the file's meta"), (_hub(meta), "config.json")):
        if isinstance(names, list | tuple) and len(names) == num_classes and all(isinstance(n, str) for n in names):
            return tuple(names), origin
    if num_classes in BY_NUMBER:
        return BY_NUMBER[num_classes].class_names, f"assumed from their number, {num_classes}"
    return None, ""


def palette(meta: dict[str, Any], num_classes: int) -> list[tuple[int, int, int]]:
    """A colour for each class: the file's own, that of BY_NUMBER's data set, else distinct hues (class 0 is black)."""
    own = _mmseg(meta, "palette")
    if isinstance(own, list) and len(own) == num_classes and all(_is_colour(c) for c in own):
        return [tuple(c) for c in own]
    if num_classes in BY_NUMBER:
        return [tuple(c) for c in BY_NUMBER[num_classes].palette.tolist()]
    return [(0, 0, 0), *[hue(i) for i in range(num_classes - 1)]]


def hue(i: int) -> tuple[int, int, int]:
    """Steps of the golden ratio around the circle of hues: however many are taken, neighbours lie apart."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.9 - 0.3 * (i % 2), 1 - 0.25 * (i // 2 % 3))
    return round(255 * red), round(255 * green), round(255 * blue)


def same_class(name: str) -> str:
    """A class name as it is compared: "Traffic_Light" and "traffic light" are one."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(index in ours, index in theirs) of every class both have."""
    places = {same_class(name): i for i, name in enumerate(theirs)}
    return [(i, places[same_class(name)]) for i, name in enumerate(ours) if same_class(name) in places]


def _mmseg(meta: dict[str, Any], key: str) -> Any:
    """mmseg 0.x writes meta.CLASSES and meta.PALETTE, 1.x meta.dataset_meta.classes and .palette."""
    inside = meta.get("meta")
    if not isinstance(inside, dict):
        return None
    newer = inside.get("dataset_meta")
    return inside.get(key.upper()) or (newer.get(key) if isinstance(newer, dict) else None)


def _hub(meta: dict[str, Any]) -> list[Any] | None:
    """id2label of a hub's config.json, unless it is the placeholder LABEL_0, LABEL_1, .."""
    config = meta.get("config.json")
    labels = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(len(labels))}:
        return None
    names = [labels[str(i)] for i in range(len(labels))]
    return None if str(names[0]).startswith("LABEL_") else names


def _is_colour(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int and 0 <= v < 256 for v in value)
