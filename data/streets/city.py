"""One drawn city (materials, trees, street, usual weather), and the layout of one frame of it.

All frames of a city share one `City`, so a split by city tests generalisation, and a split by image does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.streets.canvas import Camera, Colour, between, chance, pick

FACADES = {  # families of wall colours; a city builds in one or two of them
    "brick": [(150, 82, 66), (166, 98, 76), (132, 72, 62), (178, 122, 96), (120, 80, 74)],
    "sand": [(206, 186, 148), (192, 168, 130), (216, 200, 168), (176, 152, 118), (222, 204, 160)],
    "pastel": [(214, 172, 152), (172, 186, 196), (226, 206, 158), (190, 172, 188), (216, 188, 184)],
    "render": [(222, 218, 206), (204, 198, 186), (232, 228, 220), (190, 186, 178), (212, 202, 192)],
    "concrete": [(158, 154, 146), (172, 168, 160), (146, 142, 134), (186, 180, 168), (150, 152, 150)],
    "ochre": [(204, 150, 84), (190, 124, 76), (218, 172, 102), (176, 112, 80), (224, 190, 130)],
}
ROOFS = [(128, 66, 52), (146, 82, 60), (84, 84, 92), (98, 78, 70), (112, 104, 100)]
LEAVES = [(66, 112, 42), (82, 124, 48), (54, 98, 48), (98, 130, 52), (74, 106, 62), (110, 126, 44)]
AUTUMN = [(168, 128, 44), (150, 100, 40), (134, 122, 46)]
GRASS = [(124, 158, 70), (140, 164, 80), (112, 148, 72), (152, 162, 88)]
SKIES = ("clear", "cloudy", "overcast", "rain", "fog", "dusk", "night")
CLIMATES = [  # how often each of SKIES occurs
    (0.52, 0.27, 0.09, 0.04, 0.02, 0.05, 0.01),
    (0.32, 0.32, 0.18, 0.08, 0.03, 0.05, 0.02),
    (0.20, 0.28, 0.26, 0.14, 0.06, 0.04, 0.02),
    (0.38, 0.26, 0.10, 0.06, 0.03, 0.12, 0.05),
]
# (shops and flats, gardens, park, walled) and number of floors: what stands along the street
QUARTERS = {
    "centre": ((0.52, 0.14, 0.15, 0.19), (4, 8)),
    "town": ((0.32, 0.30, 0.16, 0.22), (3, 5)),
    "suburb": ((0.10, 0.50, 0.20, 0.20), (1, 3)),
}


@dataclass
class City:
    """What stays the same in every frame of a city. Lengths in metres."""

    quarter: str
    walls: list[Colour]
    roofs: list[Colour]
    gabled: bool
    window: Colour  # frames
    shutters: Colour | None
    species: tuple[str, str]
    leaves: list[Colour]
    grass: Colour
    asphalt: Colour
    paving: Colour
    slab: float  # length of a paving slab
    lane: Colour
    lanes: int  # in all, both directions
    lane_width: float
    pavement: float  # width
    verge: float  # width of the grass between kerb and pavement; 0: none
    verge_trees: float  # trees per 10 m and side
    fences: tuple[str, str]
    fence_colour: Colour
    wall_style: str
    wall_colour: Colour
    pole_colour: Colour
    pole_width: float
    lamp: str
    light_colour: Colour
    light_board: bool
    light_arm: bool
    warning: Colour  # ground of warning signs
    focal: float  # share of the picture's width
    above: float
    horizon: float  # share of the picture's height
    bonnet: Colour | None  # of the car that films
    climate: tuple[float, ...]


def make_city(rng: np.random.Generator) -> City:
    """Draw the character of one city."""
    quarter = pick(rng, ("centre", "town", "town", "suburb"))
    family = pick(rng, sorted(FACADES))
    walls = FACADES[family] + FACADES[pick(rng, sorted(FACADES))][:2]
    grey = between(rng, 84, 118)
    paving = pick(rng, [(190, 182, 170), (200, 186, 166), (184, 178, 172), (198, 172, 152), (186, 170, 162)])
    leaves = [pick(rng, LEAVES), pick(rng, LEAVES), pick(rng, AUTUMN if chance(rng, 0.3) else LEAVES)]
    metal = [(84, 88, 94), (104, 108, 114), (62, 76, 74), (66, 70, 76), (120, 124, 128)]
    return City(
        quarter=quarter,
        walls=walls,
        roofs=[pick(rng, ROOFS), pick(rng, ROOFS)],
        gabled=quarter != "centre" and chance(rng, 0.75),
        window=pick(rng, [(236, 234, 228), (236, 234, 228), (92, 66, 52), (70, 78, 84)]),
        shutters=pick(rng, [None, None, (66, 98, 84), (92, 116, 138), (132, 74, 58)]),
        species=(pick(rng, ("round", "round", "tall", "cone")), pick(rng, ("round", "tall", "birch"))),
        leaves=leaves,
        grass=pick(rng, GRASS),
        asphalt=(int(grey + between(rng, -3, 4)), int(grey), int(grey + between(rng, 0, 8))),
        paving=paving,
        slab=between(rng, 0.8, 1.6),
        lane=pick(rng, [(232, 232, 228), (232, 232, 228), (226, 188, 74)]),
        lanes=pick(rng, (2, 2, 2, 2, 3, 4)),
        lane_width=between(rng, 2.8, 3.3),
        pavement=between(rng, 2.4, 4.4),
        verge=between(rng, 1.0, 2.4) if chance(rng, 0.6 if quarter != "centre" else 0.2) else 0.0,
        verge_trees=pick(rng, (0.25, 0.5, 0.8, 1.1)),
        fences=(pick(rng, ("bars", "picket", "mesh")), pick(rng, ("bars", "picket", "mesh", "rails"))),
        fence_colour=pick(rng, [(240, 238, 230), (150, 100, 60), (40, 66, 56), (240, 238, 230), (128, 88, 62)]),
        wall_style=pick(rng, ("brick", "stone", "slabs")),
        wall_colour=pick(rng, [(104, 100, 124), (120, 118, 142), (92, 96, 118), (128, 116, 136), (110, 112, 132)]),
        pole_colour=pick(rng, metal),
        pole_width=between(rng, 0.26, 0.34),
        lamp=pick(rng, ("arm", "arm", "double", "lantern")),
        light_colour=pick(rng, [(30, 32, 34), (30, 32, 34), (224, 170, 36), (224, 170, 36)]),
        light_board=chance(rng, 0.65),
        light_arm=chance(rng, 0.5),
        warning=pick(rng, [(244, 244, 240), (244, 244, 240), (250, 206, 52)]),
        focal=between(rng, 0.66, 0.80),
        above=between(rng, 1.3, 1.8),
        horizon=between(rng, 0.42, 0.50),
        bonnet=pick(rng, [(40, 44, 52), (96, 100, 106), (60, 22, 26)]) if chance(rng, 0.3) else None,
        climate=pick(rng, CLIMATES),
    )


@dataclass
class Junction:
    """A side street from `z` on, `width` metres wide; `crossing`: stripes for people in front of it."""

    z: float
    width: float
    crossing: bool
    signals: bool


@dataclass
class Lot:
    """A plot along one side (-1 left, 1 right) between z0 and z1."""

    kind: str  # row, garden, park, walled
    side: int
    z0: float
    z1: float


@dataclass
class Plan:
    """Where things are in one frame, lengths in metres across the road: kerb < pave < line (fences, house fronts)."""

    kerb: float
    pave: float  # where the pavement begins: after the verge, if any
    line: float
    junction: Junction | None
    lots: list[Lot]
    parking: tuple[bool, bool]  # cars stand along the left, right kerb

    def free(self, z: float, margin: float = 1.0) -> bool:
        """Whether z is not in the mouth of the side street."""
        j = self.junction
        return j is None or not j.z - margin < z < j.z + j.width + margin


def make_plan(city: City, rng: np.random.Generator) -> Plan:
    """Lay out one frame's street."""
    parking = (chance(rng, 0.35), chance(rng, 0.3))
    kerb = city.lanes * city.lane_width / 2 + 1.0 + (1.9 if any(parking) else 0.0)
    pave = kerb + city.verge
    junction = None
    if chance(rng, 0.8):
        signals = chance(rng, 0.85)
        z = between(rng, 11.5, 23)
        junction = Junction(z, between(rng, 6, 9), signals or chance(rng, 0.6), signals)
    plan = Plan(kerb, pave, pave + city.pavement, junction, [], parking)
    kinds = ("row", "garden", "park", "walled")
    shares = np.cumsum(QUARTERS[city.quarter][0])
    for side in (-1, 1):
        z = -6.0
        while z < 95:
            kind = kinds[min(3, int(np.searchsorted(shares, rng.random())))]
            length = between(rng, 14, 26) if kind != "walled" else between(rng, 9, 16)
            plan.lots += _around(junction, Lot(kind, side, z, z + length))
            z += length
    return plan


def _around(junction: Junction | None, lot: Lot) -> list[Lot]:
    """The lot without the part that the side street takes; pieces under 3 m are dropped."""
    pieces = [(lot.z0, lot.z1)]
    if junction is not None:
        mouth = (junction.z, junction.z + junction.width)
        pieces = [(lot.z0, min(lot.z1, mouth[0])), (max(lot.z0, mouth[1]), lot.z1)]
    return [Lot(lot.kind, lot.side, a, b) for a, b in pieces if b - a > 3]


def make_camera(city: City, plan: Plan, rng: np.random.Generator, height: int, width: int) -> Camera:
    """A camera in the right-hand lane, with a little turn, pitch and bend of the street."""
    lane = city.lane_width * (city.lanes // 2) / 2 if city.lanes > 1 else 0.0
    return Camera(
        height,
        width,
        focal=city.focal * width,
        center=width * between(rng, 0.42, 0.58),
        horizon=height * (city.horizon + between(rng, -0.025, 0.025)),
        above=city.above,
        x=lane + between(rng, -0.6, 0.9),
        curve=between(rng, -0.0016, 0.0016),
    )


def daylight(colour: Colour, rng: np.random.Generator, spread: float = 0.08) -> Colour:
    """The same material, a little brighter or darker, warmer or cooler."""
    factor, warm = between(rng, 1 - spread, 1 + spread), between(rng, -spread, spread) * 0.4
    return tuple(min(255, int(c * factor * (1 + warm * side))) for c, side in zip(colour, (1, 0, -1)))
