"""People, cyclists and bicycles of the drawn city: flat figures that stand upright and face the camera."""

from __future__ import annotations

import math

import numpy as np

from data.streets.canvas import BICYCLE, PERSON, RIDER, Canvas, Colour, between, chance, disc, lit, pick

SKIN = [(236, 198, 168), (216, 170, 136), (172, 124, 92), (124, 84, 60), (90, 62, 46)]
HAIR = [(42, 32, 28), (84, 58, 38), (168, 128, 74), (120, 116, 114), (28, 26, 28)]
TOPS = [
    (214, 48, 60), (64, 116, 204), (244, 240, 234), (206, 72, 130), (232, 112, 104), (120, 170, 222), (150, 84, 170),
]  # fmt: skip
LEGS = [(44, 58, 110), (58, 76, 138), (74, 96, 150), (40, 44, 84)]
VESTS = [(214, 240, 40), (250, 130, 28), (236, 246, 60)]  # cyclists dress to be seen
HELMETS = [(236, 236, 236), (224, 60, 48), (240, 196, 44), (44, 116, 190)]
FRAMES = [(206, 44, 40), (36, 104, 160), (40, 44, 48), (226, 226, 222), (46, 132, 96)]


class Figure:
    """A pencil for one upright figure: points are (metres to the side, metres up) from where it stands at (x, z).

    `squeeze` < 1 turns it away from us, `mirror` lets it look the other way.
    """

    def __init__(self, canvas: Canvas, x: float, z: float, squeeze: float = 1.0, mirror: bool = False):
        self.canvas, self.z = canvas, z
        self.column, self.row = canvas.camera.project(x, 0.0, z)
        self.up = canvas.camera.scale(z)
        self.across = self.up * squeeze * (-1 if mirror else 1)

    def at(self, point) -> tuple[float, float]:
        return self.column + point[0] * self.across, self.row - point[1] * self.up

    def poly(self, points, colour, label: int | None) -> None:
        self.canvas.poly([self.at(p) for p in points], colour, label, self.z)

    def limb(self, points, width: float, colour, label: int) -> None:
        """A bent limb through the points; its width in metres does not shrink when the figure turns."""
        pixels = [self.at(p) for p in points]
        half = max(width * self.up / 2, 0.6)
        for (ax, ay), (bx, by) in zip(pixels, pixels[1:]):
            long = max(1e-6, math.hypot(bx - ax, by - ay))
            nx, ny = -(by - ay) / long * half, (bx - ax) / long * half
            corners = [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)]
            self.canvas.poly(corners, colour, label, self.z)

    def ball(self, center, rx: float, ry: float, colour, label: int | None) -> None:
        column, row = self.at(center)
        self.canvas.poly(disc(column, row, rx * self.up, ry * self.up, 12), colour, label, self.z)


def _foot_shadow(canvas: Canvas, x: float, z: float, wide: float, high: float) -> None:
    canvas.contact([(x + u, z + v) for u, v in disc(0, 0, wide, wide * 0.5, 10)], 200)
    low, top = wide * 0.6, wide * 0.7
    canvas.cast([(x - low, 0, z), (x - top, high, z), (x + top, high, z), (x + low, 0, z)], 220)


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone standing or walking."""
    size = between(rng, 0.98, 1.12) if chance(rng, 0.88) else between(rng, 0.62, 0.78)
    f = Figure(canvas, x, z, between(rng, 0.75, 1.1), chance(rng, 0.5))
    top, legs, skin, hair = (pick(rng, options) for options in (TOPS, LEGS, SKIN, HAIR))
    stride = between(rng, 0.04, 0.3)
    _foot_shadow(canvas, x, z, 0.3, 1.7 * size)

    def s(*points):
        return [(px * size, py * size) for px, py in points]

    dress = chance(rng, 0.25)
    f.limb(s((-0.05, 0.86), (-stride * 0.3 - 0.06, 0.45), (-stride - 0.06, 0.06)), 0.17 * size, lit(legs, 0.8), PERSON)
    f.limb(s((0.06, 0.86), (stride * 0.6 + 0.06, 0.46), (stride * 0.9 + 0.06, 0.05)), 0.17 * size, legs, PERSON)
    for at, toe in ((-stride - 0.14, 0.07), (stride - 0.04, 0.06)):
        f.poly(s((at, 0.0), (at, 0.09), (at + 0.24, toe), (at + 0.26, 0.0)), (30, 28, 30), PERSON)
    swing = stride * 0.8
    f.limb(s((0.2, 1.4), (0.27 - swing * 0.4, 1.12), (0.25 - swing, 0.88)), 0.12 * size, lit(top, 0.7), PERSON)
    hem = 0.55 if dress else 0.82
    spread = 0.28 if dress else 0.19
    f.poly(s((-spread, hem), (-0.25, 1.42), (-0.12, 1.5), (0.12, 1.5), (0.25, 1.42), (spread, hem)), top, PERSON)
    f.poly(s((0.04, hem), (0.08, 1.5), (0.25, 1.42), (spread, hem)), lit(top, 0.84), None)
    if chance(rng, 0.3):  # a bag on the back
        f.poly(s((-0.36, 0.98), (-0.4, 1.36), (-0.18, 1.42), (-0.16, 0.98)), pick(rng, TOPS), PERSON)
    f.limb(s((-0.22, 1.4), (-0.28 + swing * 0.4, 1.12), (-0.24 + swing, 0.88)), 0.12 * size, lit(top, 0.9), PERSON)
    f.ball(((-0.24 + swing) * size, 0.86 * size), 0.06 * size, 0.07 * size, skin, PERSON)
    f.limb(s((0, 1.46), (0, 1.58)), 0.11 * size, lit(skin, 0.85), PERSON)
    f.ball((0, 1.66 * size), 0.115 * size, 0.14 * size, skin, PERSON)
    head = s((-0.13, 1.62), (-0.13, 1.74), (-0.06, 1.82), (0.06, 1.82), (0.13, 1.74), (0.1, 1.7), (-0.08, 1.72))
    f.poly(head, hair, PERSON)


def _bicycle(f: Figure, paint: Colour, label: int = BICYCLE) -> None:
    """A bicycle from the side; wheels and the space in the frame are labelled as one, as annotators do."""
    hubs = ((-0.54, 0.35), (0.54, 0.35))
    for hub in hubs:
        ring = [f.at((hub[0] + 0.36 * math.cos(a), hub[1] + 0.36 * math.sin(a))) for a in _TURNS]
        f.canvas.poly(ring, (70, 72, 76, 90), label, f.z)
        f.canvas.stroke([*ring, ring[0]], (24, 24, 26), max(0.8, 0.07 * f.up))
    crank, seat, head, bar = (-0.06, 0.32), (-0.2, 0.82), (0.36, 0.84), (0.34, 1.0)
    f.canvas.poly([f.at(p) for p in (crank, seat, head)], None, label, f.z)
    rear, front = hubs
    for a, b in (
        (rear, crank), (crank, seat), (seat, head), (crank, head), (rear, seat), (head, front), (head, bar),
    ):  # fmt: skip
        f.limb([a, b], 0.065, paint, label)
    f.limb([(0.26, 1.02), (0.46, 1.0)], 0.05, (30, 30, 32), label)
    f.limb([(-0.34, 0.9), (-0.1, 0.9)], 0.08, (30, 28, 28), label)


_TURNS = [2 * math.pi * i / 16 for i in range(16)]


def parked_bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bicycle that leans on its stand."""
    _foot_shadow(canvas, x, z, 0.6, 0.7)
    _bicycle(Figure(canvas, x, z, between(rng, 0.6, 1.0), chance(rng, 0.5)), pick(rng, FRAMES))


def cyclist(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A rider with a helmet on a bicycle."""
    f = Figure(canvas, x, z, between(rng, 0.45, 1.0), chance(rng, 0.5))
    top, skin, helmet = (pick(rng, options) for options in (VESTS, SKIN, HELMETS))
    legs = lit(top, 0.72)
    _foot_shadow(canvas, x, z, 0.7, 1.6)
    _bicycle(f, pick(rng, FRAMES))
    knee = between(rng, 0.55, 0.75)
    f.limb([(-0.14, 0.94), (0.12, 1.2 - knee), (-0.1, 0.2)], 0.17, lit(legs, 0.75), RIDER)
    f.limb([(-0.14, 0.94), (0.18, knee), (0.02, 0.34)], 0.17, legs, RIDER)
    f.limb([(0.0, 0.32), (0.16, 0.3)], 0.09, (34, 30, 30), RIDER)
    f.poly([(-0.32, 0.9), (-0.2, 1.3), (0.04, 1.52), (0.24, 1.48), (0.12, 1.2), (0.02, 0.88)], top, RIDER)
    f.poly([(-0.32, 0.9), (-0.2, 1.3), (0.04, 1.52), (-0.04, 1.26), (-0.14, 0.9)], lit(top, 0.84), None)
    f.limb([(0.14, 1.42), (0.26, 1.16), (0.38, 1.04)], 0.11, lit(top, 0.92), RIDER)
    f.ball((0.4, 1.03), 0.06, 0.06, skin, RIDER)
    f.ball((0.22, 1.62), 0.12, 0.14, skin, RIDER)
    f.poly([(0.06, 1.64), (0.07, 1.76), (0.16, 1.82), (0.28, 1.81), (0.37, 1.72), (0.38, 1.66)], helmet, RIDER)
    f.poly([(0.1, 1.7), (0.12, 1.74), (0.34, 1.73), (0.36, 1.69)], lit(helmet, 0.7), None)
