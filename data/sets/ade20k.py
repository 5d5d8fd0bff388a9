"""ADE20K, 150 classes, as the scene parsing benchmark publishes it (Zhou et al., CVPR 2017;
sceneparsing.csail.mit.edu).

    images/{training,validation}/NAME.jpg    annotations/{training,validation}/NAME.png    images/testing/NAME.jpg

data.root may also be the folder in which the archive unpacks `ADEChallengeData2016/`. In the masks 0 is "other
objects", which is ignored, and class c has the value c + 1 (README of github.com/CSAILVision/sceneparsing).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.files import Record, pair_folders, require_folder
from data.labels import LabelTable

LAYOUT = "images/training/*.jpg with annotations/training/*.png, and the same for validation"
SOURCE = "get it from sceneparsing.csail.mit.edu"
FOLDER = "ADEChallengeData2016"
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}

# Name and colour (RGB, hexadecimal) of classes 0..149: the first name in each row of objectInfo150.txt of
# github.com/CSAILVision/sceneparsing, and the usual colours, as mmsegmentation's mmseg/datasets/ade.py lists them
# (road and skyscraper share a grey there; the masks hold numbers, so no pixel is affected).
_CLASSES = """
wall 787878, building b47878, sky 06e6e6, floor 503232, tree 04c803, ceiling 787850, road 8c8c8c, bed cc05ff,
windowpane e6e6e6, grass 04fa07, cabinet e005ff, sidewalk ebff07, person 96053d, earth 787846, door 08ff33,
table ff0652, mountain 8fff8c, plant ccff04, curtain ff3307, chair cc4603, car 0066c8, water 3de6fa,
painting ff0633, sofa 0b66ff, shelf ff0747, house ff09e0, sea 0907e6, mirror dcdcdc, rug ff095c, field 7009ff,
armchair 08ffd6, seat 07ffe0, fence ffb806, desk 0aff47, rock ff290a, wardrobe 07ffff, lamp e0ff08, bathtub 6608ff,
railing ff3d06, cushion ffc207, base ff7a08, box 00ff14, column ff0829, signboard ff0599, chest of drawers 0633ff,
counter eb0cff, sand a09614, sink 00a3ff, skyscraper 8c8c8c, fireplace fa0a0f, refrigerator 14ff00,
grandstand 1fff00, path ff1f00, stairs ffe000, runway 99ff00, case 0000ff, pool table ff4700, pillow 00ebff,
screen door 00adff, stairway 1f00ff, river 0bc8c8, bridge ff5200, bookcase 00fff5, blind 003dff,
coffee table 00ff70, toilet 00ff85, flower ff0000, book ffa300, hill ff6600, bench c2ff00, countertop 008fff,
stove 33ff00, palm 0052ff, kitchen island 00ff29, computer 00ffad, swivel chair 0a00ff, boat adff00, bar 00ff99,
arcade machine ff5c00, hovel ff00ff, bus ff00f5, towel ff0066, light ffad00, truck ff0014, tower ffb8b8,
chandelier 001fff, awning 00ff3d, streetlight 0047ff, booth ff00cc, television 00ffc2, airplane 00ff52,
dirt track 000aff, apparel 0070ff, pole 3300ff, land 00c2ff, bannister 007aff, escalator 00ffa3, ottoman ff9900,
bottle 00ff0a, buffet ff7000, poster 8fff00, stage 5200ff, van a3ff00, ship ffeb00, fountain 08b8aa,
conveyer belt 8500ff, canopy 00ff5c, washer b800ff, plaything ff001f, swimming pool 00b8ff, stool 00d6ff,
barrel ff0070, basket 5cff00, waterfall 00e0ff, tent 70e0ff, bag 46b8a0, minibike a300ff, cradle 9900ff,
oven 47ff00, ball ff00a3, food ffcc00, step ff008f, tank 00ffeb, trade name 85ff00, microwave ff00eb, pot f500ff,
animal ff007a, bicycle fff500, lake 0abed4, dishwasher d6ff00, screen 00ccff, blanket 1400ff, sculpture ffff00,
hood 0099ff, sconce 0029ff, vase 00ffcc, traffic light 2900ff, tray 29ff00, ashcan ad00ff, fan 00f5ff, pier 4700ff,
crt screen 7a00ff, plate 00ffb8, monitor 005cff, bulletin board b8ff00, shower 0085ff, radiator ffd600,
glass 19c2c2, clock 66ff00, flag 5c00ff
"""
_ROWS = [row.strip().rpartition(" ") for row in _CLASSES.split(",")]

ADE20K = LabelTable(
    name="ade20k",
    class_names=tuple(name for name, _, _ in _ROWS),
    palette=np.array([tuple(bytes.fromhex(colour)) for *_, colour in _ROWS], np.uint8),
    ids={i + 1: i for i in range(len(_ROWS))},
    ignore=(0,),
)


def ade20k(root: Path, split: str) -> tuple[list[Record], LabelTable]:
    """The records of a split; `test` has no labels: it can be predicted, not scored. Every file is its own group."""
    if not (root / "images").is_dir() and (root / FOLDER).is_dir():
        root = root / FOLDER
    require_folder(root, LAYOUT, SOURCE)
    part = FOLDERS[split]
    return pair_folders(root / "images" / part, root / "annotations" / part, LAYOUT, SOURCE), ADE20K
