"""KITTI's 200 labelled frames (www.cvlibs.net/datasets/kitti/eval_semseg.php), in one of three folder layouts.

    semantics   training/image_2  training/semantic  testing/image_2      Cityscapes ids; the archive as downloaded
    road        training/image    training/label     testing/{image,label}     trainIds; colors.txt: rows of R G B
    mmseg       img_dir/{train,val,test}    ann_dir/{train,val,test}           trainIds

An image and its mask have the same file name (000000_10.png, ...). `data.labels: labelIds` or `labelTrainIds` overrules
what the layout says about the values.

In the first two layouts `test` is `testing`. If `testing` has labels, it is `val` too: the best epoch is then chosen on
the images that are reported, unless `data.sample: [120, 30, 0]` draws another val from `training`. If it has none, val
is the last fifth of `training`. It is the last fifth, not a random one, because neighbouring numbers may be frames of
one drive. For the same reason a group is a block of 10 consecutive frames.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.files import Record, list_images, pair_folders, require_folder
from data.labels import LabelTable
from data.sets.cityscapes import TABLES

SOURCE = "get it from www.cvlibs.net/datasets/kitti (free registration)"
BLOCK = 10  # consecutive frames
LAYOUTS = {  # the two folders by which a layout is recognised, and what its masks hold
    "semantics": ("training/image_2", "training/semantic", "labelIds"),
    "road": ("training/image", "training/label", "labelTrainIds"),
    "mmseg": ("img_dir/train", "ann_dir/train", "labelTrainIds"),
}
LAYOUT = "; or ".join(f"{images} with {labels} ({kind})" for images, labels, kind in LAYOUTS.values())


def kitti(root: Path, split: str, label_files: str = "auto") -> tuple[list[Record], LabelTable]:
    """The records of a split. Raises: UserError where the layout is none of the three, or more than one."""
    require_folder(root, LAYOUT, SOURCE)
    layout = _layout(root)
    images, labels, kind = LAYOUTS[layout]
    table = _with_colours(TABLES[kind if label_files == "auto" else label_files], root / "colors.txt")
    if layout == "mmseg":
        return _records(root / "img_dir" / split, root / "ann_dir" / split), table
    testing = [root / folder.replace("training", "testing") for folder in (images, labels)]
    if split == "test" or (split == "val" and _holds_images(testing[1])):
        return _records(*testing), table
    training = _records(root / images, root / labels)
    if _holds_images(testing[1]):
        return training, table
    fifth = max(1, round(len(training) / 5))
    if len(training) <= fifth:
        raise UserError(f"{root / images}: one image cannot be both train and val, and {testing[1]} holds no labels")
    return (training[:-fifth] if split == "train" else training[-fifth:]), table


def _layout(root: Path) -> str:
    fitting = [name for name, row in LAYOUTS.items() if all((root / folder).is_dir() for folder in row[:2])]
    if len(fitting) > 1:
        raise UserError(f"{root}: found more than one KITTI layout ({', '.join(fitting)}): move all but one away")
    if not fitting:
        inside = sorted(path.name for path in root.iterdir() if path.is_dir())
        nested = [name for name in inside if any((root / name / f).is_dir() for f, _, _ in LAYOUTS.values())]
        hint = f"; did you mean data.root={root / nested[0]}?" if nested else ""
        found = ", ".join(inside) or "nothing"
        raise UserError(f"{root}: no known KITTI layout: expected {LAYOUT}; found {found}{hint}")
    return fitting[0]


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and bool(list_images(folder))


def _records(image_dir: Path, label_dir: Path) -> list[Record]:
    records = pair_folders(image_dir, label_dir if _holds_images(label_dir) else None, LAYOUT, SOURCE)
    return [dataclasses.replace(r, group=f"block {i // BLOCK:02d}") for i, r in enumerate(records)]


def _with_colours(table: LabelTable, path: Path) -> LabelTable:
    """The table with the palette of colors.txt, if that file exists."""
    if not path.is_file():
        return table
    rows = [line.replace(",", " ").split() for line in path.read_text().splitlines() if line.strip()]
    count = table.num_classes
    if len(rows) < count or not all(len(r) == 3 and all(v.isdigit() and int(v) < 256 for v in r) for r in rows):
        raise UserError(f"{path}: expected one row 'R G B' (numbers 0..255) per class, {count} in all")
    palette = np.array(rows[:count], dtype=np.int64).astype(np.uint8)
    return dataclasses.replace(table, palette=palette)
