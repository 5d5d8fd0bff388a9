"""Your own data: images/ and labels/ with equal paths inside, and classes.yaml.

    root/classes.yaml
    root/images/train/a.jpg    root/labels/train/a.png      (and val/, test/)
    root/images/a.jpg          root/labels/a.png            (flat: no train/ val/ test/ folder)

A flat folder is split 80/10/10: sorted by a hash of each file's path without suffix, the first 80 % are train, the next
tenth val, the last tenth test (at least one image each if there are three). The split is the same on every machine;
adding files may move a few across a boundary.

classes.yaml:
    names: [background, road, car]                     # class 0, 1, 2; required
    colours: [[0, 0, 0], [128, 64, 128], [0, 0, 142]]  # for colour masks and pictures; optional
    ignore: 255                                        # raw value(s) to ignore, or [[r, g, b]]; default 255
    ids: {7: 1, 26: 2}                                 # raw value -> class; default: raw value = class

A group is the sub-folder an image lies in (images/train/<group>/a.jpg), else the image itself.
"""

from __future__ import annotations

import colorsys
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import yaml

from common.errors import UserError, unknown
from data.files import SPLITS, Record, pair_folders, require_folder
from data.labels import LabelTable

LAYOUT = "images/ and labels/ with equal names inside, and classes.yaml"
SOURCE = "set data.root to your own folder"
KEYS = ("names", "colours", "ignore", "ids")


def folder(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split and the table that classes.yaml describes."""
    require_folder(root, LAYOUT, SOURCE)
    require_folder(root / "images", LAYOUT, SOURCE)
    labels = read_classes(root / "classes.yaml")
    flat = not any((root / "images" / s).is_dir() for s in SPLITS)
    image_dir, label_dir = (root / d if flat else root / d / split for d in ("images", "labels"))
    records = pair_folders(image_dir, label_dir, LAYOUT, SOURCE)
    if flat:
        records = _share(records, split, root)
    return [dataclasses.replace(r, group=r.name.rsplit("/", 1)[0]) for r in records], labels


def _share(records: list[Record], split: str, root: Path) -> list[Record]:
    """This split's part of a flat folder, in the order of names."""
    by_hash = sorted(records, key=lambda r: hashlib.sha256(r.name.encode()).hexdigest())
    total = len(by_hash)
    tenth = max(1, round(total / 10))
    test = total - (tenth if total >= 3 else 0)  # where test begins
    val = test - (tenth if total >= 2 else 0)
    part = {"train": by_hash[:val], "val": by_hash[val:test], "test": by_hash[test:]}[split]
    if not part:
        raise UserError(f"{root / 'images'}: {total} image(s) in a flat folder leave none for split '{split}'")
    return sorted(part, key=lambda r: r.name)


def read_classes(path: Path) -> LabelTable:
    """classes.yaml as a label table. Raises: UserError that names the file and the key at fault."""
    spec = _read_yaml(path)
    for key in spec:
        if key not in KEYS:
            raise unknown(f"key in {path}", key, KEYS)
    names = spec.get("names")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(n, str) and n for n in names):
        raise UserError(f"{path}: names: expected a list of at least two class names, got {names!r}")
    if len(set(names)) != len(names):
        raise UserError(f"{path}: names: '{next(n for n in names if names.count(n) > 1)}' is listed twice")
    if len(names) > 255:
        raise UserError(f"{path}: names: {len(names)} classes, but an 8-bit mask holds at most 255")
    palette = _palette(path, spec.get("colours"), len(names))
    ids = _ids(path, spec.get("ids"), names)
    ignore, ignore_colours = _ignore(path, spec.get("ignore", "255"))
    if "ignore" not in spec:  # the default 255; an id or class 255 wins over it
        ignore = tuple(v for v in ignore if v not in ids)
    elif both := sorted(set(ids) & set(ignore)):
        raise UserError(f"{path}: ignore: raw value {both[0]} is also class '{names[ids[both[0]]]}'")
    return LabelTable(path.parent.name, tuple(names), palette, ids, ignore, ignore_colours)


def _read_yaml(path: Path) -> dict:
    """The mapping in a YAML file, every scalar as text: `names: [on, off]` are words, and tags build no objects."""
    try:
        spec = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it lists the classes, e.g.  names: [background, road, car]") from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{path}: not valid YAML{where}: {getattr(exc, 'problem', None) or 'bad encoding'}") from None
    if not isinstance(spec, dict):
        raise UserError(f"{path}: expected keys {', '.join(KEYS)}, got a {type(spec).__name__}")
    return spec


def _number(path: Path, key: str, text: object) -> int:
    if not isinstance(text, str) or not text.strip().isdigit() or int(text) > 255:
        raise UserError(f"{path}: {key}: expected a whole number 0..255, got {text!r}")
    return int(text)


def _colour(path: Path, key: str, value: object) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(f"{path}: {key}: expected a colour [r, g, b], got {value!r}")
    return tuple(_number(path, key, v) for v in value)


def _palette(path: Path, colours: object, num_classes: int) -> np.ndarray:
    if colours is None:  # hues a golden angle apart: neighbours in the list look unlike
        rgb = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.75, 0.95 if i % 2 else 0.65) for i in range(num_classes)]
        return np.rint(255 * np.array(rgb)).astype(np.uint8)
    if not isinstance(colours, list) or len(colours) != num_classes:
        got = len(colours) if isinstance(colours, list) else repr(colours)
        raise UserError(f"{path}: colours: expected one [r, g, b] for each of the {num_classes} names, got {got}")
    palette = [_colour(path, "colours", c) for c in colours]
    if twice := [c for c in palette if palette.count(c) > 1]:
        raise UserError(f"{path}: colours: {list(twice[0])} is listed for two classes")
    return np.array(palette, np.uint8)


def _ids(path: Path, ids: object, names: list[str]) -> dict[int, int]:
    if ids is None:
        return {i: i for i in range(len(names))}
    if not isinstance(ids, dict) or not ids:
        raise UserError(f"{path}: ids: expected a mapping of raw value to class, got {ids!r}")
    table = {}
    for raw, target in ids.items():
        index = names.index(target) if target in names else _number(path, f"ids: {raw}", target)
        if index >= len(names):
            raise UserError(f"{path}: ids: {raw}: class {index} is not among the {len(names)} names")
        table[_number(path, "ids", raw)] = index
    return table


def _ignore(path: Path, value: object) -> tuple[tuple[int, ...], tuple]:
    """`ignore` as (raw values, colours): one number, a list of numbers, or a list of [r, g, b]."""
    values = value if isinstance(value, list) else [value]
    raw = tuple(_number(path, "ignore", v) for v in values if not isinstance(v, list))
    return raw, tuple(_colour(path, "ignore", v) for v in values if isinstance(v, list))
