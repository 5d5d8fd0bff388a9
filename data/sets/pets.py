"""Oxford-IIIT Pet (Parkhi et al., CVPR 2012) in torchvision's folder layout: cats and dogs with trimaps.

    images/NAME.jpg   annotations/trimaps/NAME.png   annotations/{trainval,test}.txt: rows of 'NAME class species breed'

data.root may also be the folder above, torchvision's `root`, which holds `oxford-iiit-pet/`. Trimap values 1, 2, 3 are
the classes pet, background, border (the strip that the annotators left undecided). All three are trained, unless
`data.labels: {pet: pet, background: background, ignore: border}` says otherwise.

The data set does not split trainval. Here val is a fifth of it, chosen by a hash of the name, so it is the same on
every machine. test is the data set's test list.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data.files import Record, listed, read_names, require_folder
from data.labels import LabelTable

LAYOUT = "images/NAME.jpg, annotations/trimaps/NAME.png, annotations/trainval.txt and test.txt"
SOURCE = "get it: python -m tools.get_data pets"
FOLDER = "oxford-iiit-pet"  # torchvision's

PETS = LabelTable(
    name="oxford-iiit-pet",
    class_names=("pet", "background", "border"),
    palette=np.array([(220, 120, 40), (40, 60, 90), (240, 230, 140)], np.uint8),
    ids={1: 0, 2: 1, 3: 2},
    ignore=(),
)


def pets(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split, in the order of the lists. Every file is its own group."""
    if not (root / "images").is_dir() and (root / FOLDER).is_dir():
        root = root / FOLDER
    require_folder(root, LAYOUT, SOURCE)
    for folder in ("images", "annotations/trimaps"):
        require_folder(root / folder, LAYOUT, SOURCE)
    listing = root / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
    names = read_names(listing, LAYOUT, SOURCE)
    if split != "test":
        names = _share(names, split)
    return listed(names, root / "images", root / "annotations" / "trimaps", listing), PETS


def _share(names: list[str], split: str) -> list[str]:
    """A fifth of the names, those with the highest hashes, is val; the order of the list stays."""
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    val = set(by_hash[len(by_hash) - round(len(by_hash) / 5) :])
    return [name for name in names if (name in val) == (split == "val")]
