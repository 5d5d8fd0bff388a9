"""Pascal VOC segmentation (Everingham et al., IJCV 2010; host.robots.ox.ac.uk/pascal/VOC) in torchvision's layout.

    VOCdevkit/VOC2012/JPEGImages/NAME.jpg
    VOCdevkit/VOC2012/SegmentationClass/NAME.png                palette PNG: 0 background, 1..20, 255 void
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,test}.txt

data.root: the folder that holds VOCdevkit, VOCdevkit itself, or one year's folder; of several years the latest is read.
The test labels of newer years are not public: such a split can be predicted, not scored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.files import Record, listed, read_names, require_folder
from data.labels import Colour, LabelTable

LAYOUT = "VOCdevkit/VOC2012/ with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt"
SOURCE = "get it from host.robots.ox.ac.uk/pascal/VOC/voc2012 (torchvision.datasets.VOCSegmentation downloads it)"
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_colour(index: int) -> Colour:
    """VOC's colour of a class (VOClabelcolormap.m of its development kit): bits 0, 1, 2 of the index are the highest
    bits of red, green, blue, bits 3, 4, 5 the second highest, and so on. 255 gives void's (224, 224, 192)."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << 7 - bit // 3
    return tuple(channels)


VOC = LabelTable(
    name="voc",
    class_names=CLASSES,
    palette=np.array([voc_colour(i) for i in range(len(CLASSES))], np.uint8),
    ids={i: i for i in range(len(CLASSES))},
    ignore=(255,),
    ignore_colours=(voc_colour(255),),
)


def voc(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split, in the order of its list. Every file is its own group."""
    require_folder(root, LAYOUT, SOURCE)
    root = _year(root)
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        require_folder(root / folder, LAYOUT, SOURCE)
    listing, label_dir = root / "ImageSets" / "Segmentation" / f"{split}.txt", root / "SegmentationClass"
    names = read_names(listing, LAYOUT, SOURCE)
    if split == "test" and not any((label_dir / f"{name}.png").is_file() for name in names):
        label_dir = None
    return listed(names, root / "JPEGImages", label_dir, listing), VOC


def _year(root: Path) -> Path:
    """The folder of one year, from it or from a folder above it."""
    for folder in (root, root / "VOCdevkit", root / "TrainVal" / "VOCdevkit"):  # the last: 2011's archive
        if (folder / "JPEGImages").is_dir():
            return folder
        years = sorted(folder.glob("VOC20[0-9][0-9]"))
        if years:
            return years[-1]
    return root
