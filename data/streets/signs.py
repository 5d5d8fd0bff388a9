"""Poles, lamp posts, traffic lights and traffic signs of the drawn city; none is thinner than MIN_PX pixels."""

from __future__ import annotations

import numpy as np

from data.streets.canvas import LIGHT, POLE, SIGN, Canvas, between, box, chance, disc, lit, pick
from data.streets.city import City

MIN_PX = 7.0  # least width of a pole or sign on the picture, pixels: still over 3 px at half size
RED, BLUE, WHITE, BLACK, YELLOW, GREEN = (
    (204, 32, 38), (28, 84, 172), (246, 246, 244), (26, 26, 28), (250, 204, 40), (24, 116, 72),
)  # fmt: skip


def post(canvas: Canvas, city: City, x: float, z: float, high: float, foot: float = 0.0) -> tuple[float, float, float]:
    """An upright pole from `foot` to `high` metres; -> (column, row of its top, half its width) in pixels."""
    project = canvas.camera.project
    column, bottom = project(x, foot, z)
    _, top = project(x, high, z)
    half = max(city.pole_width * canvas.camera.scale(z), MIN_PX) / 2
    _bar(canvas, city, column - half, top, column + half, bottom, z)
    if foot == 0.0:
        wide = half / canvas.camera.scale(z)
        stub = bottom - 0.45 * canvas.camera.scale(z)
        left, right = column - half * 1.5, column + half * 1.5
        base = [(left, bottom), (left, stub), (right, stub), (right, bottom)]
        canvas.poly(base, lit(city.pole_colour, 0.75), POLE, z)
        canvas.cast([(x - wide, 0, z), (x - wide, high, z), (x + wide, high, z), (x + wide, 0, z)])
    return column, top, half


def _bar(canvas: Canvas, city: City, x0, y0, x1, y1, z) -> None:
    """A piece of round metal in pixels: lit along one edge, dark along the other."""
    colour = city.pole_colour
    canvas.poly(box(x0, y0, x1, y1), colour, POLE, z)
    if y1 - y0 > x1 - x0:
        third = (x1 - x0) / 3
        canvas.poly(box(x0, y0, x0 + third, y1), lit(colour, 1.3), None)
        canvas.poly(box(x1 - third, y0, x1, y1), lit(colour, 0.7), None)
    else:
        canvas.poly(box(x0, (y0 + y1) / 2, x1, y1), lit(colour, 0.72), None)


def lamp_post(canvas: Canvas, city: City, x: float, z: float) -> None:
    """A street lamp: a lantern, or one or two arms over the road."""
    scale = max(canvas.camera.scale(z), 12.0)  # far lamps are drawn too large, to keep MIN_PX
    column, top, half = post(canvas, city, x, z, 3.8 if city.lamp == "lantern" else 7.5)
    if city.lamp == "lantern":
        heads = [_lantern(canvas, city, column, top, scale, z)]
    else:
        directions = (-1, 1) if city.lamp == "double" else (-1 if x > 0 else 1,)
        heads = [_arm(canvas, city, column, top, half, direction, scale, z) for direction in directions]
    if canvas.lamps:
        for u, v, r in heads:
            canvas.glows.append((u, v, r * 1.6, (236, 190, 110)))


def _lantern(canvas: Canvas, city: City, column, top, scale, z) -> tuple[float, float, float]:
    """-> where its light is, and how far it reaches, in pixels."""
    foot, lid, tip = max(0.16 * scale, MIN_PX / 2), 0.36 * scale, max(0.12 * scale, MIN_PX / 2)
    brim = top - 0.55 * scale
    lamp = [(column - foot, top), (column - 0.3 * scale, brim), (column + 0.3 * scale, brim), (column + foot, top)]
    canvas.poly(lamp, (240, 226, 176), POLE, z, canvas.lamps)
    peak = top - 0.85 * scale
    cap = [(column - lid, brim), (column - tip, peak), (column + tip, peak), (column + lid, brim)]
    canvas.poly(cap, lit(city.pole_colour, 0.8), POLE, z)
    return column, top, 0.28 * scale


def _arm(canvas: Canvas, city: City, column, top, half, direction, scale, z) -> tuple[float, float, float]:
    """An arm with a flat head; -> as `_lantern`."""
    tip = column + direction * 1.7 * scale
    _bar(canvas, city, min(column, tip), top, max(column, tip), top + half * 2, z)

    def slab(low, wide, high, narrow):
        """A slab seen from the side: half widths in metres, heights in half pole widths under the top."""
        w, n = wide * scale, narrow * scale
        under, over = top + half * low, top + half * high
        return [(tip - w, under), (tip - n, over), (tip + n, over), (tip + w, under)]

    canvas.poly(slab(2.0, 0.5, -0.6, 0.35), lit(city.pole_colour, 0.85), POLE, z)
    canvas.poly(slab(2.1, 0.3, 1.4, 0.4), (250, 236, 190), POLE, z, canvas.lamps)
    return tip, top + half, 0.5 * scale


def traffic_light(
    canvas: Canvas, city: City, rng: np.random.Generator, x: float, z: float, arm: bool, state: int
) -> None:
    """A mast with a light at eye height and, with `arm`, one more over the road. state: 0 red, 1 yellow, 2 green."""
    scale = canvas.camera.scale(z)
    inward = -1 if x > 0 else 1
    column, top, half = post(canvas, city, x, z, 5.6 if arm else 3.7)
    if arm:
        reach = inward * between(rng, 3.0, 4.2) * scale
        thick = max(MIN_PX, 0.2 * scale)
        _bar(canvas, city, min(column, column + reach), top, max(column, column + reach), top + thick, z)
        _signal(canvas, city, column + reach, top - 0.25 * scale, scale, z, state)
    _, eye = canvas.camera.project(x, 3.6, z)
    _signal(canvas, city, column, eye, scale, z, state)


def _signal(canvas: Canvas, city: City, column: float, top: float, scale: float, z: float, state: int) -> None:
    """The housing with three lamps, hanging from row `top`."""
    half, high = max(0.32 * scale, MIN_PX / 2 + 1), max(1.45 * scale, 18)
    if city.light_board:
        rim = half * 0.55
        for r, colour in ((rim, WHITE), (rim * 0.55, BLACK)):
            canvas.poly(box(column - half - r, top - r, column + half + r, top + high + r), colour, LIGHT, z)
    canvas.poly(box(column - half, top, column + half, top + high), city.light_colour, LIGHT, z)
    on = ((255, 52, 40), (255, 196, 40), (56, 240, 140))
    off = ((92, 26, 24), (96, 74, 22), (22, 70, 50))
    for i in range(3):
        row, r = top + high * (i + 0.5) / 3, min(half * 0.82, high / 7)
        canvas.poly(disc(column, row, r * 1.15, r * 1.15, 12), BLACK, LIGHT, z)
        canvas.poly(disc(column, row, r, r, 12), on[i] if i == state else off[i], LIGHT, z, i == state)
        if i == state:
            canvas.poly(disc(column, row, r * 0.5, r * 0.5, 9), lit(on[i], 1.3), LIGHT, z, True)
            canvas.glows.append((column, row, r * 2.2, tuple(c * 0.6 for c in on[i])))


def sign_post(canvas: Canvas, city: City, rng: np.random.Generator, x: float, z: float) -> None:
    """One or two traffic signs on a pole."""
    scale = canvas.camera.scale(z)
    radius = max(between(rng, 0.46, 0.58) * scale, MIN_PX * 0.75)
    two = chance(rng, 0.35)
    column, top, _ = post(canvas, city, x, z, 3.5 if two else 2.9)
    faces = [pick(rng, FACES) for _ in range(2 if two else 1)]
    row = top + radius * 0.8
    for face in faces:
        face(canvas, city, rng, column, row, radius, z)
        row += radius * 2.1


def _ring(canvas: Canvas, x, y, r, rim, ground, z) -> None:
    canvas.poly(disc(x, y, r, r, 20), rim, SIGN, z)
    canvas.poly(disc(x, y, r * 0.74, r * 0.74, 18), ground, None)


def _box(canvas: Canvas, x, y, w, h, colour, label, z) -> None:
    canvas.poly(box(x - w, y - h, x + w, y + h), colour, label, z)


def _limit(canvas, city, rng, x, y, r, z) -> None:
    """Speed limit: two block digits in a red ring."""
    _ring(canvas, x, y, r, RED, WHITE, z)
    for side in (-1, 1):
        _box(canvas, x + side * r * 0.28, y, r * 0.2, r * 0.38, BLACK, None, z)
        _box(canvas, x + side * r * 0.28, y + pick(rng, (-1, 1)) * r * 0.16, r * 0.09, r * 0.1, WHITE, None, z)


def _no_entry(canvas, city, rng, x, y, r, z) -> None:
    canvas.poly(disc(x, y, r, r, 20), RED, SIGN, z)
    _box(canvas, x, y, r * 0.68, r * 0.17, WHITE, None, z)


def _must(canvas, city, rng, x, y, r, z) -> None:
    """A white arrow on blue."""
    _ring(canvas, x, y, r, WHITE, BLUE, z)
    canvas.poly(disc(x, y, r * 0.92, r * 0.92, 18), BLUE, None)
    turn = pick(rng, (0, 0, 1, 3))  # quarter turns: straight on, right, left
    arrow = ((0, -0.68), (0.42, -0.12), (0.14, -0.12), (0.14, 0.62), (-0.14, 0.62), (-0.14, -0.12), (-0.42, -0.12))
    for _ in range(turn):
        arrow = [(-v, u) for u, v in arrow]
    canvas.poly([(x + u * r, y + v * r) for u, v in arrow], WHITE, None)


def _warning(canvas, city, rng, x, y, r, z) -> None:
    """A red-rimmed triangle."""
    for size, colour, label in ((1.12, RED, SIGN), (0.74, city.warning, None)):
        w = r * size
        canvas.poly([(x, y - w), (x + w * 0.98, y + w * 0.72), (x - w * 0.98, y + w * 0.72)], colour, label, z)
    _box(canvas, x, y, r * 0.09, r * 0.26, BLACK, None, z)
    _box(canvas, x, y + r * 0.4, r * 0.09, r * 0.08, BLACK, None, z)


def _priority(canvas, city, rng, x, y, r, z) -> None:
    for size, colour, label in ((1.1, WHITE, SIGN), (0.84, YELLOW, None)):
        w = r * size
        canvas.poly([(x, y - w), (x + w, y), (x, y + w), (x - w, y)], colour, label, z)


def _stop(canvas, city, rng, x, y, r, z) -> None:
    canvas.poly(disc(x, y, r * 1.08, r * 1.08, 8, 0.3927), WHITE, SIGN, z)
    canvas.poly(disc(x, y, r * 0.96, r * 0.96, 8, 0.3927), RED, None)
    for i in range(4):  # four letters too far away to read
        _box(canvas, x + (i - 1.5) * r * 0.38, y, r * 0.12, r * 0.24, WHITE, None, z)


def _parking(canvas, city, rng, x, y, r, z) -> None:
    """A white P on a blue square."""
    _box(canvas, x, y, r, r, WHITE, SIGN, z)
    _box(canvas, x, y, r * 0.9, r * 0.9, BLUE, None, z)
    _box(canvas, x - r * 0.26, y, r * 0.12, r * 0.6, WHITE, None, z)
    _box(canvas, x + r * 0.05, y - r * 0.27, r * 0.36, r * 0.33, WHITE, None, z)
    _box(canvas, x + r * 0.08, y - r * 0.27, r * 0.18, r * 0.15, BLUE, None, z)


def _walkers(canvas, city, rng, x, y, r, z) -> None:
    """A crossing: a dark figure in a white triangle on blue."""
    _box(canvas, x, y, r, r, BLUE, SIGN, z)
    canvas.poly([(x, y - r * 0.8), (x + r * 0.8, y + r * 0.7), (x - r * 0.8, y + r * 0.7)], WHITE, None)
    canvas.poly(disc(x, y - r * 0.2, r * 0.12, r * 0.12, 9), BLACK, None)
    legs = [(x, y - r * 0.1), (x + r * 0.3, y + r * 0.6), (x, y + r * 0.3), (x - r * 0.3, y + r * 0.6)]
    canvas.poly(legs, BLACK, None)


FACES = (_limit, _no_entry, _must, _warning, _priority, _stop, _parking, _walkers)


def guide_board(canvas: Canvas, city: City, rng: np.random.Generator, x: float, z: float) -> None:
    """A large direction board on two posts."""
    scale, wide, high = canvas.camera.scale(z), between(rng, 1.1, 1.5), between(rng, 0.6, 0.8)
    for side in (-0.7, 0.7):
        post(canvas, city, x + side * wide, z, 2.8)
    column, row = canvas.camera.project(x, 2.9, z)
    ground = pick(rng, (BLUE, GREEN, YELLOW, WHITE))
    ink = WHITE if ground in (BLUE, GREEN) else BLACK
    _box(canvas, column, row, wide * scale, high * scale, ink, SIGN, z)
    _box(canvas, column, row, (wide - 0.06) * scale, (high - 0.06) * scale, ground, None, z)
    for i, line in enumerate((-0.4, 0.0, 0.4)):
        y, x0 = row + line * high * 1.1 * scale, column - wide * 0.4 * scale
        long = between(rng, 0.5, 1.2) * wide * scale
        canvas.poly(box(x0, y - 0.08 * scale, x0 + long, y + 0.08 * scale), ink, None)
        tip, foot = column - wide * 0.7 * scale, y + 0.1 * scale
        turn = (-1 if i != 1 else 0) * 0.18 * scale
        arrow = [(tip + turn, y - 0.16 * scale), (tip + 0.14 * scale, foot), (tip - 0.14 * scale, foot)]
        canvas.poly(arrow, ink, None)
