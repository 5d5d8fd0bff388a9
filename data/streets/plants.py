"""Trees, hedges and bushes of the drawn city. Trunks and hedges are vegetation, as in Cityscapes."""

from __future__ import annotations

import math

import numpy as np

from data.streets.canvas import VEGETATION, Canvas, Colour, between, disc, lit, pick, upright
from data.streets.city import City, daylight

BARK = [(92, 70, 52), (78, 62, 50), (108, 86, 64)]


def tree(canvas: Canvas, city: City, rng: np.random.Generator, x: float, z: float, species: str, size: float) -> None:
    """A tree `size` metres high standing at (x, z)."""
    leaf = daylight(pick(rng, city.leaves), rng, 0.14)
    bark = (206, 202, 194) if species == "birch" else pick(rng, BARK)
    trunk = size * (0.12 if species == "cone" else 0.34)
    thick = max(0.16, size * 0.032)
    fork, slim = trunk * 1.5, thick * 0.7
    canvas.quad([(x - thick, 0, z), (x - slim, fork, z), (x, fork, z), (x, 0, z)], bark, VEGETATION)
    canvas.quad([(x, 0, z), (x, fork, z), (x + slim, fork, z), (x + thick, 0, z)], lit(bark, 0.72), VEGETATION)
    crown = size - trunk
    wide = crown * {"round": 0.46, "tall": 0.24, "cone": 0.26, "birch": 0.32}[species]
    canvas.cast([(u, v, z) for u, v in disc(x, trunk + crown / 2, wide, crown / 2, 12)], 225)
    if canvas.sun is not None:
        canvas.cast([(x - thick, 0, z), (x - thick, trunk, z), (x + thick, trunk, z), (x + thick, 0, z)], 225)
    if species == "cone":
        _cone(canvas, rng, x, z, trunk, crown, wide, leaf)
    else:
        _crown(canvas, rng, x, z, trunk + crown / 2, wide, crown / 2, leaf)


def _crown(canvas: Canvas, rng, x, z, y, rx, ry, leaf: Colour) -> None:
    """Clumps of leaves: dark ones all over, then lighter ones towards the light (up, and to the sun's side)."""
    scale = canvas.camera.scale(z)
    column, row = canvas.camera.project(x, y, z)
    rx, ry = rx * scale, ry * scale
    side = 0.0 if canvas.sun is None else (-0.3 if canvas.sun[0] > 0 else 0.3)
    clumps = 9 if rx < 8 else 15 if rx < 40 else 24
    canvas.poly(disc(column, row, rx * 0.8, ry * 0.85), lit(leaf, 0.66), VEGETATION, z)
    for shade, spread, lift, share in ((0.7, 0.78, 0.0, 1.0), (0.92, 0.62, -0.16, 0.9), (1.14, 0.45, -0.34, 0.7)):
        for _ in range(int(clumps * share)):
            angle, far = rng.random() * 2 * math.pi, math.sqrt(rng.random()) * spread
            u = column + (math.cos(angle) * far + side * (shade - 0.7)) * rx
            v = row + (math.sin(angle) * far + lift) * ry
            r = between(rng, 0.16, 0.34)
            blob = disc(u, v, r * rx, r * rx * 0.85, 9, rng.random())
            canvas.poly(blob, lit(leaf, shade * between(rng, 0.92, 1.08)), VEGETATION, z)


def _cone(canvas: Canvas, rng, x, z, y, high, wide, leaf: Colour) -> None:
    """A conifer: skirts of branches, each ragged at its hem."""
    project, skirts = canvas.camera.project, 6
    for i in range(skirts):
        bottom, tip = y + high * i / skirts * 0.86, y + high * min(1.0, (i + 2.1) / skirts)
        reach = wide * (1 - i / skirts * 0.86)
        hem = [(x + reach * (t / 4 - 1), bottom + (t % 2) * high * 0.05 + rng.random() * 0.1, z) for t in range(9)]
        dark = lit(leaf, 0.62 + 0.05 * i)
        canvas.poly([project(*p) for p in [*hem, (x, tip, z)]], dark, VEGETATION, z)
        canvas.poly([project(*p) for p in [*hem[1:5], (x, tip, z)]], lit(dark, 1.22), None, z)


def hedge(canvas: Canvas, city: City, rng: np.random.Generator, x: float, z0: float, z1: float, high: float) -> None:
    """A clipped hedge along the street on the plane X = x."""
    leaf = daylight(city.leaves[0], rng, 0.1)
    canvas.cast(upright(x, 0, high, z0, z1))
    out = x + (0.9 if x > 0 else -0.9)
    canvas.quad([(x, 0, z0), (x, high, z0), (out, high, z0), (out, 0, z0)], lit(leaf, 0.8), VEGETATION)
    canvas.quad(upright(x, 0, high, z0, z1), lit(leaf, 0.7), VEGETATION)
    z = z1
    while z > z0:  # lumps that break the straight top
        scale = canvas.camera.scale(z)
        u, v = canvas.camera.project(x, high * between(rng, 0.45, 1.0), z)
        r = between(rng, 0.25, 0.4) * scale
        canvas.poly(disc(u, v, r, r * 0.7, 8), lit(leaf, between(rng, 0.8, 1.15)), VEGETATION, z)
        z -= max(0.35, z * 0.03)


def bush(canvas: Canvas, city: City, rng: np.random.Generator, x: float, z: float, size: float) -> None:
    """A round bush, `size` metres wide."""
    leaf = daylight(pick(rng, city.leaves), rng, 0.14)
    canvas.contact([(x + u, z + v * 0.5) for u, v in disc(0, 0, size * 0.6, size * 0.6, 10)], 150)
    _crown(canvas, rng, x, z, size * 0.38, size * 0.55, size * 0.45, leaf)
