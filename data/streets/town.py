"""Fixed parts of a frame: ground, markings, the plots along the street, fences and walls, the background."""

from __future__ import annotations

import math

import numpy as np

from data.streets.buildings import house
from data.streets.canvas import (
    BUILDING,
    FAR,
    FENCE,
    NEAR,
    ROAD,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    WALL,
    Canvas,
    between,
    chance,
    disc,
    lit,
    mixed,
    pick,
    upright,
)
from data.streets.city import QUARTERS, City, Lot, Plan, daylight
from data.streets.plants import bush, hedge, tree


def draw_ground(canvas: Canvas, city: City, plan: Plan, rng: np.random.Generator) -> None:
    """Road, kerbs, verges, pavements and the grass beyond, then the side street and the paint on the road."""
    canvas.strip(-90, 90, NEAR, FAR, city.grass, TERRAIN)
    canvas.strip(-plan.line, plan.line, NEAR, FAR, city.paving, SIDEWALK)
    for side in (-1, 1):
        if city.verge:
            canvas.strip(side * plan.kerb, side * plan.pave, NEAR, FAR, city.grass, TERRAIN)
        stone = lit(city.paving, 1.15)
        canvas.strip(side * plan.kerb, side * (plan.kerb + 0.25), NEAR, FAR, stone, SIDEWALK)
    canvas.strip(-plan.kerb, plan.kerb, NEAR, FAR, city.asphalt, ROAD)
    for side in (-1, 1):  # gutter, and joints between paving slabs while they are wide enough to see
        inner = side * (plan.kerb - 0.22)
        canvas.strip(inner, side * plan.kerb, NEAR, FAR, lit(city.asphalt, 0.8), None)
        z = NEAR + rng.random()
        while z < 22:
            canvas.strip(side * plan.pave, side * plan.line, z, z + 0.05, lit(city.paving, 0.82), None)
            z += city.slab
        middle = side * (plan.pave + plan.line) / 2
        canvas.strip(middle - 0.03, middle + 0.03, NEAR, 22, lit(city.paving, 0.84), None)
    _patches(canvas, city, plan, rng)
    _markings(canvas, city, plan)
    if plan.junction is not None:
        _side_street(canvas, city, plan)


def _patches(canvas: Canvas, city: City, plan: Plan, rng) -> None:
    """Patched asphalt and manhole covers."""
    for _ in range(int(rng.random() * 4)):
        x, z = between(rng, -plan.kerb + 1, plan.kerb - 1), between(rng, 4, 25)
        tone = lit(city.asphalt, pick(rng, (0.86, 0.9, 1.08)))
        canvas.strip(x, x + between(rng, 0.6, 1.6), z, z + between(rng, 1, 5), tone, None)
    for _ in range(2):
        x, z = between(rng, -plan.kerb + 1, plan.kerb - 1), between(rng, 5, 18)
        rim = [canvas.camera.project(x + u, 0, z + v) for u, v in disc(0, 0, 0.36, 0.36)]
        canvas.poly(rim, lit(city.asphalt, 0.66), None)


def _markings(canvas: Canvas, city: City, plan: Plan) -> None:
    lane = city.lane_width
    edge = city.lanes * lane / 2
    for i in range(1, city.lanes):
        x = -edge + i * lane
        middle = 2 * i == city.lanes or (city.lanes == 3 and i == 1)
        if middle and city.lanes > 2:  # a double line separates the directions
            for dx in (-0.15, 0.15):
                canvas.strip(x + dx - 0.06, x + dx + 0.06, NEAR, 80, city.lane, None)
            continue
        z = 1.0
        while z < 70:
            canvas.strip(x - 0.08, x + 0.08, z, z + 2.6, city.lane, None)
            z += 6.0
    for side, parked in zip((-1, 1), plan.parking):
        if parked:
            canvas.strip(side * (edge + 0.2), side * (edge + 0.32), NEAR, 80, city.lane, None)


def _side_street(canvas: Canvas, city: City, plan: Plan) -> None:
    j = plan.junction
    for side in (-1, 1):
        inner, outer = side * (plan.kerb - 0.3), side * 70
        canvas.strip(side * plan.pave, outer, j.z - 2.0, j.z + j.width + 2.0, city.paving, SIDEWALK)
        canvas.strip(inner, outer, j.z, j.z + j.width, city.asphalt, ROAD)
    canvas.strip(-plan.kerb, plan.kerb, j.z - 0.3, j.z + j.width + 0.3, city.asphalt, None)
    if j.crossing:
        x = -plan.kerb + 0.5
        while x < plan.kerb - 0.6:
            canvas.strip(x, x + 0.55, j.z - 3.6, j.z - 0.6, (228, 228, 224), None)
            x += 1.15
        canvas.strip(0.2, plan.kerb - 0.4, j.z - 5.0, j.z - 4.6, (228, 228, 224), None)


def draw_backdrop(canvas: Canvas, city: City, rng: np.random.Generator, sky) -> None:
    """The background: hazy roofs and tree tops along the horizon."""
    camera = canvas.camera
    base = camera.horizon + camera.focal * camera.above / FAR + 1
    haze = tuple(int(c) for c in sky[max(0, int(camera.horizon) - 2)].mean(axis=0))
    x = -10.0
    while x < camera.width:  # far blocks
        w, h = between(rng, 14, 40), between(rng, 5, 26) * (1.4 if city.quarter == "centre" else 0.8)
        tone = mixed(pick(rng, city.walls), haze, 0.55)
        canvas.poly([(x, base), (x, base - h), (x + w, base - h), (x + w, base)], tone, BUILDING, 100)
        for k in range(int(h / 4)):
            y = base - h + 2 + 4 * k
            canvas.poly([(x + 2, y), (x + w - 2, y), (x + w - 2, y + 1), (x + 2, y + 1)], lit(tone, 0.85), None)
        x += w * between(rng, 0.6, 1.5)
    x = -10.0
    while x < camera.width:  # far trees
        r = between(rng, 6, 16)
        leaf = mixed(pick(rng, city.leaves), haze, 0.35)
        canvas.poly(disc(x, base - r * 0.4, r, r * 0.7, 10), lit(leaf, 0.85), VEGETATION, 90)
        canvas.poly(disc(x - r * 0.2, base - r * 0.6, r * 0.6, r * 0.35, 9), leaf, None)
        x += r * between(rng, 0.5, 2.2)


def draw_lots(canvas: Canvas, city: City, plan: Plan, rng: np.random.Generator) -> None:
    """All plots, painted from far to near, so that nearer ones hide those behind."""
    for lot in sorted(plan.lots, key=lambda lot: -lot.z0):
        LOTS[lot.kind](canvas, city, plan, lot, rng)


def _row(canvas: Canvas, city: City, plan: Plan, lot: Lot, rng) -> None:
    """Houses wall to wall on the line of the pavement."""
    low, high = QUARTERS[city.quarter][1]
    canvas.strip(lot.side * plan.line, lot.side * (plan.line + 12), lot.z0, lot.z1, city.paving, SIDEWALK)
    z = lot.z1
    while z > lot.z0 + 3:
        start = max(lot.z0, z - between(rng, 7, 13))
        if start - lot.z0 < 4:
            start = lot.z0
        floors = int(between(rng, max(2, low), high + 1))
        house(canvas, city, rng, lot.side, plan.line, start, z, floors, shops=chance(rng, 0.6))
        z = start


def _garden(canvas: Canvas, city: City, plan: Plan, lot: Lot, rng) -> None:
    """A house set back behind grass, a tree, and a fence, hedge or low wall."""
    back = between(rng, 4, 7)
    low, high = QUARTERS[city.quarter][1]
    canvas.strip(lot.side * plan.line, lot.side * (plan.line + 40), lot.z0, lot.z1, city.grass, TERRAIN)
    inset = (lot.z1 - lot.z0) * 0.12
    floors = int(between(rng, low, min(high, 4) + 1))
    house(canvas, city, rng, lot.side, plan.line + back, lot.z0 + inset, lot.z1 - inset, floors, shops=False)
    for z in sorted((between(rng, lot.z0, lot.z1) for _ in range(2)), reverse=True):
        x = lot.side * (plan.line + between(rng, 1.2, back))
        if chance(rng, 0.6):
            bush(canvas, city, rng, x, z, between(rng, 0.8, 1.6))
        elif z > 9:
            tree(canvas, city, rng, x, z, city.species[1], between(rng, 3.5, 7))
    _border(canvas, city, plan, lot, rng, (0.55, 0.8))


def _park(canvas: Canvas, city: City, plan: Plan, lot: Lot, rng) -> None:
    """Grass and many trees, mostly behind a fence."""
    canvas.strip(lot.side * plan.line, lot.side * 80, lot.z0, lot.z1, city.grass, TERRAIN)
    count = int((lot.z1 - lot.z0) * between(rng, 0.35, 0.6))
    spots = [(between(rng, 2, 16), between(rng, lot.z0, lot.z1)) for _ in range(count)]
    for x, z in sorted(spots, key=lambda s: -s[1]):
        if z < 7:
            continue
        if chance(rng, 0.3):
            bush(canvas, city, rng, lot.side * (plan.line + x * 0.6), z, between(rng, 0.9, 2.0))
        else:
            tree(canvas, city, rng, lot.side * (plan.line + x), z, pick(rng, city.species), between(rng, 6, 11))
    _border(canvas, city, plan, lot, rng, (0.62, 0.72))


def _walled(canvas: Canvas, city: City, plan: Plan, lot: Lot, rng) -> None:
    """A high wall with tree tops or roofs behind it."""
    canvas.strip(lot.side * plan.line, lot.side * 60, lot.z0, lot.z1, city.grass, TERRAIN)
    if chance(rng, 0.5):
        house(canvas, city, rng, lot.side, plan.line + 6, lot.z0 + 1, lot.z1 - 1, 2, shops=False)
    for z in sorted((between(rng, lot.z0, lot.z1) for _ in range(2)), reverse=True):
        if z > 9:
            tree(canvas, city, rng, lot.side * (plan.line + 3), z, pick(rng, city.species), between(rng, 6, 9))
    wall(canvas, city, rng, lot.side * plan.line, lot.z0, lot.z1, between(rng, 2.2, 3.1))


LOTS = {"row": _row, "garden": _garden, "park": _park, "walled": _walled}


def _border(canvas: Canvas, city: City, plan: Plan, lot: Lot, rng, shares) -> None:
    """What runs along the front of a plot: a fence below shares[0], a hedge below shares[1], else a wall."""
    x, dice = lot.side * plan.line, rng.random()
    if dice < shares[0]:
        fence(canvas, city, rng, x, lot.z0, lot.z1, pick(rng, city.fences), between(rng, 1.3, 2.1))
    elif dice < shares[1]:
        hedge(canvas, city, rng, x, max(lot.z0, NEAR), lot.z1, between(rng, 1.0, 1.7))
    else:
        wall(canvas, city, rng, x, lot.z0, lot.z1, between(rng, 1.0, 1.6))


def fence(canvas: Canvas, city: City, rng, x: float, z0: float, z1: float, style: str, high: float) -> None:
    """A see-through fence along X = x. Its whole outline is fence, as annotators draw it."""
    z0 = max(z0, NEAR)
    if z1 - z0 < 0.5:
        return
    colour = daylight(city.fence_colour, rng)
    canvas.quad(upright(x, 0.03, high, z0, z1), (*colour, 140), FENCE)
    posts = 1.0 if style == "rails" else 2.4
    step = {"bars": 0.24, "picket": 0.24, "mesh": 0.32, "rails": 1.0}[style]
    thick = {"bars": 0.055, "picket": 0.14, "mesh": 0.03, "rails": 0.07}[style]
    levels = {"bars": (0.15, 0.92), "picket": (0.3, 0.75), "mesh": (0.98,), "rails": (0.3, 0.62, 0.95)}[style]
    for level in levels:
        top = high * level + (0.08 if style != "mesh" else 0.05)
        canvas.quad(upright(x, high * level, top, z0, z1), lit(colour, 0.9), None)
    project = canvas.camera.project
    z = z1
    while z > z0:
        scale = canvas.camera.scale(z)
        gap = abs(x - canvas.camera.x) * scale * step / z  # from bar to bar on the screen, pixels
        if gap > 1.2 or style == "rails":
            top = high * (1.0 if style != "picket" else 1.04)
            canvas.quad(upright(x, 0.05, top, z, z - thick), colour, None)
            if style == "mesh":
                a, b = project(x, 0.05, z), project(x, high, max(z - high, z0))
                c, d = project(x, high, z), project(x, 0.05, max(z - high, z0))
                canvas.stroke([a, b], (*colour, 200), 0.5)
                canvas.stroke([c, d], (*colour, 200), 0.5)
        z -= step if gap > 1.2 else step * 3
    for i in range(int((z1 - z0) / posts) + 1):
        z = z1 - i * posts
        canvas.quad(upright(x, 0, high + 0.06, z, z - 0.12), lit(colour, 0.8), None)
    canvas.cast(upright(x, 0, high, z0, z1), 110)


def wall(canvas: Canvas, city: City, rng, x: float, z0: float, z1: float, high: float) -> None:
    """A solid wall along X = x: bricks, stones or slabs under a coping."""
    z0 = max(z0, NEAR)
    if z1 - z0 < 0.5:
        return
    colour = daylight(city.wall_colour, rng)
    out = x + (0.35 if x > 0 else -0.35)
    canvas.cast(upright(x, 0, high, z0, z1))
    canvas.quad([(x, 0, z0), (out, 0, z0), (out, high, z0), (x, high, z0)], lit(colour, 0.9), WALL)
    canvas.quad(upright(x, 0, high, z0, z1), colour, WALL)
    course, length = {"brick": (0.16, 0.45), "stone": (0.34, 0.7), "slabs": (high, 2.0)}[city.wall_style]
    joint, project = lit(colour, 0.74 if city.wall_style != "brick" else 1.3), canvas.camera.project
    for i in range(1, math.ceil(high / course)):
        canvas.stroke([project(x, i * course, z0), project(x, i * course, z1)], (*joint, 130), 0.5)
    for row in range(math.ceil(high / course)):
        z = z1 - (length / 2 if row % 2 else 0)
        while z > z0 and abs(x - canvas.camera.x) * canvas.camera.scale(z) * length / z > 3:
            top = min(high, (row + 1) * course)
            if city.wall_style == "stone" and chance(rng, 0.5):
                block = upright(x, row * course, top, z, max(z0, z - length))
                canvas.quad(block, lit(colour, between(rng, 0.80, 1.18)), None)
            canvas.stroke([project(x, row * course, z), project(x, top, z)], (*joint, 130), 0.5)
            z -= length
    cap = lit(colour, 1.18)
    canvas.quad(upright(x, high, high + 0.14, z0, z1), cap, WALL)
    canvas.quad([(x, high, z0), (x, high + 0.14, z0), (out, high + 0.14, z0), (out, high, z0)], lit(cap, 0.9), WALL)
