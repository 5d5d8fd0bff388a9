"""Cityscapes' folder layout (arXiv 1604.01685). The drawn city uses it too.

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png   (or .jpg)
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png    (or _gtFine_labelTrainIds.png)

Groups are cities: frames of one city share streets, light and camera.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.errors import UserError
from data.files import Record, list_images, pair, require_folder
from data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, LabelTable

LAYOUT = "leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png"
SOURCE = "get it from www.cityscapes-dataset.com (free registration)"
TABLES = {"labelIds": CITYSCAPES, "labelTrainIds": CITYSCAPES_TRAIN_IDS}


def cityscapes(root: Path, split: str, label_files: str = "auto") -> tuple[list[Record], LabelTable]:
    """The records of a split. `label_files`: labelIds, labelTrainIds, or auto (labelIds where there are any).

    A split without any label file gives records without labels: they can be predicted, not scored.
    """
    require_folder(root, LAYOUT, SOURCE)
    image_dir, label_dir = root / "leftImg8bit" / split, root / "gtFine" / split
    require_folder(image_dir, LAYOUT, SOURCE)
    images = list_images(image_dir, "_leftImg8bit")
    kinds = list(TABLES) if label_files == "auto" else [label_files]
    found = {kind: list_images(label_dir, f"_gtFine_{kind}") if label_dir.is_dir() else {} for kind in kinds}
    kind = next((k for k in kinds if found[k]), kinds[0])
    if not found[kind] and label_files != "auto" and label_dir.is_dir():
        raise UserError(f"{label_dir}: no *_gtFine_{kind}.png files (data.labels: {kind}); try data.labels: auto")
    records = pair(images, found[kind] or None, image_dir, label_dir)
    return [dataclasses.replace(r, group=r.name.split("/")[0]) for r in records], TABLES[kind]
