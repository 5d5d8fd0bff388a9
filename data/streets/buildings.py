"""Houses of the drawn city: a front along the street, an end wall towards the camera, windows, doors, roofs."""

from __future__ import annotations

import numpy as np

from data.streets.canvas import BUILDING, NEAR, Canvas, Colour, between, chance, lit, mixed, pick, upright
from data.streets.city import City, daylight

GLASS = [(92, 112, 128), (70, 84, 98), (112, 134, 150), (58, 66, 76)]
LAMPLIGHT = [(255, 214, 138), (255, 196, 110), (240, 226, 188), (206, 222, 236)]
AWNINGS = [(176, 52, 48), (46, 98, 78), (44, 74, 128), (214, 168, 70), (120, 60, 96)]


def house(
    canvas: Canvas,
    city: City,
    rng: np.random.Generator,
    side: int,
    x: float,
    z0: float,
    z1: float,
    floors: int,
    shops: bool,
    ends: bool = True,
) -> None:
    """One house with its front on the plane X = side * x between z0 and z1; `ends`: also the wall facing the camera."""
    floor = between(rng, 2.8, 3.3)
    top = floors * floor + between(rng, 0.3, 1.0) + (0.8 if shops else 0.0)
    deep = between(rng, 8, 12)
    wall = daylight(pick(rng, city.walls), rng)
    sunny = 1.0 if canvas.sun is None else (1.08 if canvas.sun[0] * side > 0 else 0.84)
    z0 = max(z0, NEAR)
    if z1 - z0 < 1:
        return
    # The front casts its shadow away from the sun; it reaches the street only on the side that the sun is behind.
    canvas.cast(upright(side * x, 0, top, z0, z1))
    roof = daylight(pick(rng, city.roofs), rng) if city.gabled and floors <= 4 else None
    style = _style(city, rng, wall, floor, floors, shops)
    if ends:
        _end_wall(canvas, rng, side, x, z0, deep, top, roof, {**style, "wall": lit(wall, 0.93), "shops": False})
    if roof is not None:
        _roof(canvas, side, x, z0, z1, deep, top, lit(roof, sunny))

    def front(u: float, v: float):
        return canvas.camera.project(side * x, v, z0 + u)

    _face(canvas, rng, front, z1 - z0, top, (z0 + z1) / 2, canvas.camera.scale((z0 + z1) / 2), style, sunny)


def _style(city: City, rng, wall: Colour, floor: float, floors: int, shops: bool) -> dict:
    """The choices that a house's walls share."""
    return {
        "wall": wall,
        "floor": floor,
        "floors": floors,
        "shops": shops,
        "pitch": between(rng, 2.0, 3.2),  # metres from window to window
        "width": between(rng, 0.95, 1.4),
        "tall": between(rng, 1.4, 1.9),
        "frame": city.window,
        "shutters": city.shutters if chance(rng, 0.7) else None,
        "glass": pick(rng, GLASS),
        "awning": pick(rng, AWNINGS),
        "balcony": chance(rng, 0.25),
    }


def _end_wall(canvas: Canvas, rng, side, x, z0, deep, top, roof, style) -> None:
    """The wall that faces the camera, with its gable."""

    def end(u: float, v: float):
        return canvas.camera.project(side * (x + u), v, z0)

    scale = canvas.camera.scale(z0)
    if roof is not None:
        ridge = top + deep * 0.33
        points = [end(-0.3, top - 0.15), end(deep / 2, ridge + 0.2), end(deep + 0.3, top - 0.15)]
        canvas.poly(points, lit(roof, 0.7), BUILDING, z0)
        canvas.poly([end(0, top), end(deep / 2, ridge), end(deep, top)], style["wall"], BUILDING, z0)
    _face(canvas, rng, end, deep, top, z0, scale, {**style, "pitch": style["pitch"] * 1.4}, 1.0, door=False)


def _roof(canvas: Canvas, side, x, z0, z1, deep, top, roof: Colour) -> None:
    """The slope towards the street, with rows of tiles and a chimney."""

    def slope(t: float, z: float):
        return (side * (x + t * deep / 2 - 0.3 * (1 - t)), top - 0.15 + t * deep * 0.33, z)

    chimney = z0 + (z1 - z0) * 0.7
    cx, cy = side * (x + deep * 0.4), top + deep * 0.2
    canvas.quad(upright(cx, cy, cy + 2, chimney, chimney + 0.9), lit(roof, 0.7), BUILDING)
    canvas.quad([slope(0, z0), slope(1, z0), slope(1, z1), slope(0, z1)], roof, BUILDING)
    for a, b in ((i / 7, i / 7 + 0.03) for i in range(1, 7)):
        canvas.quad([slope(a, z0), slope(b, z0), slope(b, z1), slope(a, z1)], lit(roof, 0.86), None)


def _face(canvas: Canvas, rng, at, length, top, z, scale, style, light, door=True) -> None:
    """One wall given by `at(u, v)` -> pixel, u along the wall and v up, both in metres."""

    def box(u0, v0, u1, v1, colour, label=None, shines=False):
        canvas.poly([at(u0, v0), at(u1, v0), at(u1, v1), at(u0, v1)], colour, label, z, shines)

    wall = lit(style["wall"], light)
    box(0, 0, length, top, wall, BUILDING)
    box(0, 0, length, 0.5, lit(wall, 0.8))  # plinth
    box(0, top - 0.45, length, top, lit(wall, 0.86))  # cornice
    box(0, top - 0.12, length, top, lit(wall, 1.12))
    first = 1 if style["shops"] else 0
    base = style["floor"] + 0.8 if style["shops"] else 0.0
    if style["shops"]:
        _shop(canvas, rng, box, length, style, light)
    if style["width"] * scale < 2:
        return  # windows would be thinner than two pixels
    columns = max(1, int(length / style["pitch"]))
    step = length / columns
    door_at = int(rng.random() * columns) if door and not style["shops"] else -1
    for k in range(first, style["floors"]):
        v = base + (k - first) * style["floor"] + 0.95
        if k == first and k > 0:
            box(0, v - 0.95, length, v - 0.75, lit(wall, 0.88))
        for c in range(columns):
            u = (c + 0.5) * step
            if k == 0 and c == door_at:
                box(u - 0.65, 0, u + 0.65, 2.5, lit(style["frame"], 0.9 * light))
                box(u - 0.5, 0, u + 0.5, 2.3, lit(style["awning"], 0.7 * light))
            else:
                _window(canvas, rng, box, u, v, style, light, scale)
        if style["balcony"] and k > first and scale > 8:
            for c in range(0, columns, 2):
                u = (c + 0.5) * step
                box(u - 0.9, v - 0.5, u + 0.9, v - 0.35, lit(wall, 0.7))
                box(u - 0.9, v - 0.35, u + 0.9, v + 0.5, (*lit(style["frame"], 0.6), 130))


def _window(canvas: Canvas, rng, box, u, v, style, light, scale) -> None:
    w, h = style["width"] / 2, style["tall"]
    shines = canvas.lamps and chance(rng, 0.45)
    glass = pick(rng, LAMPLIGHT) if shines else lit(mixed(style["glass"], (150, 170, 190), rng.random() * 0.5), light)
    if style["shutters"] is not None:
        box(u - w - 0.45, v, u + w + 0.45, v + h, lit(style["shutters"], light))
    box(u - w, v - 0.08, u + w, v + h + 0.08, lit(style["frame"], light))
    box(u - w + 0.1, v + 0.05, u + w - 0.1, v + h - 0.05, glass, None, shines)
    if scale > 9:
        if not shines:
            box(u - w + 0.1, v + h * 0.55, u + w - 0.1, v + h - 0.05, lit(glass, 1.2))  # the sky in the upper half
        box(u - 0.05, v, u + 0.05, v + h, lit(style["frame"], light))
        box(u - w - 0.1, v - 0.16, u + w + 0.1, v - 0.04, lit(style["wall"], 1.15 * light))  # sill
    if shines:  # labels only, for the light bit: picture-only polygons do not set it
        box(u - w + 0.1, v + 0.05, u + w - 0.1, v + h - 0.05, None, BUILDING, True)


def _shop(canvas: Canvas, rng, box, length, style, light) -> None:
    """Shop windows on the ground floor, a sign board and striped awnings."""
    high = style["floor"]
    box(0, 0, length, high + 0.5, lit(style["wall"], 0.72 * light))
    shops = max(1, int(length / 5))
    for i in range(shops):
        a, b = length * i / shops + 0.3, length * (i + 1) / shops - 0.3
        colour = pick(rng, AWNINGS)
        shines = canvas.lamps and chance(rng, 0.7)
        glass = pick(rng, LAMPLIGHT) if shines else lit((84, 98, 108), light)
        box(a, 0.5, b, high - 0.5, glass)
        if shines:
            box(a, 0.5, b, high - 0.5, None, BUILDING, True)
        else:
            box(a, 0.5, a + (b - a) * 0.4, high - 0.5, lit(glass, 1.25))
        middle = (a + b) / 2
        box(middle - 0.5, 0, middle + 0.5, high - 0.6, lit(colour, 0.6 * light))
        box(a, high - 0.4, b, high + 0.35, lit(colour, light))
        if chance(rng, 0.6):
            stripes = 8
            for s in range(stripes):
                c = lit(colour if s % 2 else (236, 232, 222), light)
                box(a + (b - a) * s / stripes, high - 1.0, a + (b - a) * (s + 1) / stripes, high - 0.4, c)
