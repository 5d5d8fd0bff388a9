"""Class lists by name, and the classes of a public file: what the file says, or what their number suggests."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import unknown
from data.labels import CAMVID, CITYSCAPES, LabelTable
from data.sets.ade20k import ADE20K
from data.sets.folder import read_classes
from data.sets.pets import PETS
from data.sets.voc import VOC

# The class lists that public files were trained on, by name. torchvision's COCO files have VOC's 21 classes.
TABLES: dict[str, LabelTable] = {
    "cityscapes": CITYSCAPES, "ade20k": ADE20K, "voc": VOC, "coco-voc21": VOC, "camvid": CAMVID, "pets": PETS,
}  # fmt: skip
# Which list a number of classes suggests, where the file has no names. Not pets: any network may have three classes.
BY_NUMBER = {table.num_classes: table for table in (CITYSCAPES, ADE20K, VOC, CAMVID)}


def class_list(text: str) -> LabelTable:
    """--classes: a row of TABLES, a classes.yaml, or the folder it is in. Raises: UserError for anything else."""
    path = Path(text)
    path = path / "classes.yaml" if path.is_dir() else path
    if text in TABLES:
        return TABLES[text]
    if not path.is_file():
        raise unknown("class list (--classes: one of these, or a classes.yaml)", text, TABLES)
    return read_classes(path)


def class_names(meta: dict[str, Any], num_classes: int | None) -> tuple[tuple[str, ...] | None, str]:
    """(names, where they come from) of a file's classes; (None, "") if neither the file nor their number says.

    meta: what is beside the weights (models/checkpoints/container.py). mmseg writes its class names into the file, the
    Hugging Face hub into config.json.
    """
    for names, origin in ((_mmseg(meta, "classes"), "the file's meta"), (_hub(meta), "config.json")):
        if isinstance(names, list | tuple) and len(names) == num_classes and all(isinstance(n, str) for n in names):
            return tuple(names), origin
    if num_classes in BY_NUMBER:
        return BY_NUMBER[num_classes].class_names, f"assumed from their number, {num_classes}"
    return None, ""


def palette(meta: dict[str, Any], num_classes: int) -> list[tuple[int, int, int]]:
    """One colour per class: the file's own, else those of the list in BY_NUMBER, else distinct hues (class 0 black)."""
    own = _mmseg(meta, "palette")
    if isinstance(own, list) and len(own) == num_classes and all(_is_colour(c) for c in own):
        return [tuple(c) for c in own]
    if num_classes in BY_NUMBER:
        return [tuple(c) for c in BY_NUMBER[num_classes].palette.tolist()]
    return [(0, 0, 0), *[hue(i) for i in range(num_classes - 1)]]


def hue(i: int) -> tuple[int, int, int]:
    """Colour i of a series: steps of the golden ratio around the colour circle keep any number of hues apart."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.9 - 0.3 * (i % 2), 1 - 0.25 * (i // 2 % 3))
    return round(255 * red), round(255 * green), round(255 * blue)


def same_class(name: str) -> str:
    """A class name in the form used to compare names: "Traffic_Light" and "traffic light" are the same."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(index in ours, index in theirs) of every class that both lists have."""
    places = {same_class(name): i for i, name in enumerate(theirs)}
    return [(i, places[same_class(name)]) for i, name in enumerate(ours) if same_class(name) in places]


def _mmseg(meta: dict[str, Any], key: str) -> Any:
    """mmseg 0.x writes meta.CLASSES and meta.PALETTE; 1.x writes meta.dataset_meta.classes and .palette."""
    inside = meta.get("meta")
    if not isinstance(inside, dict):
        return None
    newer = inside.get("dataset_meta")
    return inside.get(key.upper()) or (newer.get(key) if isinstance(newer, dict) else None)


def _hub(meta: dict[str, Any]) -> list[Any] | None:
    """id2label of the hub's config.json, unless it holds the placeholders LABEL_0, LABEL_1, .."""
    config = meta.get("config.json")
    labels = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(len(labels))}:
        return None
    names = [labels[str(i)] for i in range(len(labels))]
    return None if str(names[0]).startswith("LABEL_") else names


def _is_colour(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int and 0 <= v < 256 for v in value)
