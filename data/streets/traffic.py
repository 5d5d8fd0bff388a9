"""Cars, trucks and buses of the drawn city: a side outline pulled out to its width, with windows and lights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data.streets.canvas import BUS, CAR, NEAR, TRUCK, Canvas, Colour, between, box, lit, pick

PAINT = [
    (196, 40, 38), (38, 78, 150), (232, 232, 234), (40, 42, 46), (150, 154, 158), (98, 104, 110),
    (226, 226, 222), (24, 84, 72), (70, 150, 160), (120, 30, 44), (92, 136, 178), (182, 176, 162),
]  # fmt: skip
CARGO = [(236, 236, 232), (226, 226, 220), (206, 212, 218), (92, 128, 184), (112, 148, 196)]
LIVERY = [(242, 184, 30), (240, 128, 32), (248, 200, 48), (228, 148, 40)]
GLASS, TYRE = (52, 64, 76), (26, 26, 28)

# Side outlines from the rear bumper over the roof to the front: (metres forward, metres up, what the face from here
# to the next corner is made of). Side windows: lists of (forward, up).
BODIES = {
    "hatch": (
        [(-2.0, 0.3, "b"), (-2.05, 0.95, "g"), (-1.65, 1.46, "b"), (0.35, 1.5, "g"), (1.1, 0.98, "b"),
         (1.95, 0.8, "b"), (2.0, 0.3, "b")],
        [[(-1.75, 0.98), (-1.5, 1.36), (-0.5, 1.4), (-0.5, 0.98)],
         [(-0.38, 0.98), (-0.38, 1.4), (0.28, 1.4), (0.9, 0.98)]],
        1.75, (-1.25, 1.25),
    ),
    "sedan": (
        [(-2.25, 0.3, "b"), (-2.3, 0.95, "b"), (-1.6, 1.0, "g"), (-1.0, 1.42, "b"), (0.3, 1.46, "g"), (1.1, 0.98, "b"),
         (2.2, 0.8, "b"), (2.25, 0.3, "b")],
        [[(-1.4, 0.98), (-0.95, 1.33), (-0.4, 1.36), (-0.4, 0.98)],
         [(-0.28, 0.98), (-0.28, 1.36), (0.25, 1.36), (0.9, 0.98)]],
        1.8, (-1.35, 1.35),
    ),
    "estate": (
        [(-2.3, 0.35, "b"), (-2.35, 1.05, "g"), (-2.1, 1.66, "b"), (0.3, 1.7, "g"), (1.1, 1.1, "b"),
         (2.15, 0.95, "b"), (2.25, 0.35, "b")],
        [[(-2.1, 1.1), (-1.95, 1.56), (-0.5, 1.6), (-0.5, 1.1)],
         [(-0.38, 1.1), (-0.38, 1.6), (0.25, 1.6), (0.9, 1.1)]],
        1.88, (-1.35, 1.35),
    ),
    "van": (
        [(-2.4, 0.35, "b"), (-2.45, 2.15, "b"), (0.9, 2.15, "g"), (1.6, 1.25, "b"), (2.35, 1.0, "b"), (2.4, 0.35, "b")],
        [[(0.1, 1.25), (0.1, 1.85), (0.85, 1.85), (1.35, 1.25)]],
        1.95, (-1.5, 1.5),
    ),
}  # fmt: skip


@dataclass
class Pose:
    """Where a vehicle stands: world (x, z) of its middle and heading, 0 = away from the camera, radians clockwise."""

    x: float
    z: float
    heading: float

    def at(self, forward: float, up: float, right: float) -> tuple[float, float, float]:
        """A point of the vehicle in world coordinates, metres."""
        s, c = math.sin(self.heading), math.cos(self.heading)
        return self.x + forward * s + right * c, up, max(NEAR, self.z + forward * c - right * s)


def _facing(points) -> bool:
    """Whether a face whose corners run clockwise on the screen (rows grow downwards) faces the camera."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]])) > 0


def hull(canvas: Canvas, pose: Pose, outline, wide: float, colours: dict[str, Colour], label: int) -> list[int]:
    """Paint a body given by its side outline; -> which sides (-1 left, 1 right) show."""
    project, half = canvas.camera.project, wide / 2
    faces = []
    for (f0, u0, kind), (f1, u1, _) in zip(outline, outline[1:]):
        corners = [pose.at(f0, u0, -half), pose.at(f1, u1, -half), pose.at(f1, u1, half), pose.at(f0, u0, half)]
        pixels = [project(*p) for p in corners]
        if _facing(pixels):
            slope = abs(f1 - f0) / max(1e-6, math.hypot(f1 - f0, u1 - u0))  # 1: flat top, 0: upright
            tone = (0.84 + 0.34 * slope) if kind == "b" else (0.9 + 0.5 * slope)
            faces.append((sum(p[2] for p in corners) / 4, pixels, lit(colours[kind], tone)))
    for z, pixels, colour in sorted(faces, key=lambda face: -face[0]):
        canvas.poly(pixels, colour, label, z)
    shown = []
    for side in (-1, 1):
        pixels = [project(*pose.at(f, u, side * half)) for f, u, _ in outline]
        if _facing(pixels if side > 0 else pixels[::-1]):
            sunny = 0.95 if canvas.sun is None else (1.04 if (canvas.sun[0] > 0) == (side < 0) else 0.8)
            canvas.poly(pixels, lit(colours["b"], sunny), label, pose.z)
            shown.append(side)
    return shown


def patch(canvas: Canvas, pose: Pose, points, right: float, colour, label=None, shines: bool = False) -> None:
    """A polygon of (forward, up) points on the plane `right` of the middle."""
    canvas.poly([canvas.camera.project(*pose.at(f, u, right)) for f, u in points], colour, label, pose.z, shines)


def strip(forward0: float, up0: float, forward1: float, up1: float):
    """Corners of a rectangle on the side of a vehicle, for `patch`."""
    return [(forward0, up0), (forward0, up1), (forward1, up1), (forward1, up0)]


def plate(canvas: Canvas, pose: Pose, forward, up0, up1, right0, right1, colour, label=None, shines=False) -> None:
    """A rectangle across the vehicle, on the upright plane `forward` of its middle."""
    corners = [(up0, right0), (up1, right0), (up1, right1), (up0, right1)]
    pixels = [canvas.camera.project(*pose.at(forward, u, r)) for u, r in corners]
    canvas.poly(pixels, colour, label, pose.z, shines)


def wheels(canvas: Canvas, pose: Pose, axles, half: float, shown, radius: float, label: int) -> None:
    """Round wheels on the sides that show."""
    ring = [(math.cos(a * math.pi / 8), math.sin(a * math.pi / 8)) for a in range(16)]
    for side in shown:
        for axle in axles:
            for size, colour in ((1.18, (18, 18, 20)), (1.0, TYRE), (0.62, (150, 152, 156)), (0.2, (70, 72, 76))):
                points = [(axle + radius * size * c, max(0.0, radius + radius * size * s)) for c, s in ring]
                patch(canvas, pose, points, side * (half + 0.01), colour, label if size <= 1 else None)


def _ground_shadow(canvas: Canvas, pose: Pose, long: float, wide: float, high: float) -> None:
    spots = [pose.at(f * long / 2, 0, r * wide / 2) for f, r in box(-1.04, -1.06, 1.04, 1.06)]
    canvas.contact([(x, z) for x, _, z in spots], 255)
    if canvas.sun is not None:
        for f in (-0.4, 0.4):
            top = [pose.at(f * long - d, high, r * wide / 2) for d, r in ((-0.1, -1), (0.1, 1))]
            foot = [pose.at(f * long - d, 0, r * wide / 2) for d, r in ((0.1, 1), (-0.1, -1))]
            canvas.cast([*top, *foot])
        for r in (-1, 1):
            canvas.cast([pose.at(f * long * 0.42, u, r * wide / 2) for f, u in strip(-1, 0, 1, high)])


def _lights(canvas: Canvas, pose: Pose, rear: float, front: float, half: float, up: float, label: int) -> None:
    """Red lamps behind or white ones in front, whichever end we see."""
    behind = math.cos(pose.heading) > 0
    forward, colour = (rear, (206, 28, 26)) if behind else (front, (250, 246, 224))
    for r in (-half + 0.05, half - 0.4):
        plate(canvas, pose, forward, up, up + 0.22, r, r + 0.35, colour, label, canvas.lamps)
        if canvas.lamps:
            x, y, z = pose.at(forward, up + 0.1, r + 0.17)
            canvas.glow(x, y, z, 0.26 if behind else 0.4, (170, 24, 18) if behind else (190, 184, 152))


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A car of one of BODIES."""
    outline, windows, wide, axles = BODIES[pick(rng, ("hatch", "hatch", "sedan", "sedan", "estate", "estate", "van"))]
    pose, half, paint = Pose(x, z, heading), wide / 2, pick(rng, PAINT)
    rear, front = outline[0][0], outline[-1][0]
    _ground_shadow(canvas, pose, front - rear, wide, 1.3)
    end = rear if math.cos(heading) > 0 else front
    plate(canvas, pose, end * 0.93, 0.05, 0.5, -half * 0.9, half * 0.9, (22, 22, 24), CAR)  # dark under the floor
    for r in (-half + 0.02, half - 0.24):
        plate(canvas, pose, end * 0.93, 0.0, 0.45, r, r + 0.22, TYRE, CAR)
    shown = hull(canvas, pose, outline, wide, {"b": paint, "g": GLASS}, CAR)
    for side in shown:
        for window in windows:
            patch(canvas, pose, window, side * (half + 0.01), GLASS)
        patch(canvas, pose, strip(rear * 0.96, 0.3, front * 0.96, 0.42), side * (half + 0.01), lit(paint, 0.5))
        patch(canvas, pose, strip(-0.02, 0.42, 0.03, 0.95), side * (half + 0.01), lit(paint, 0.6))
    wheels(canvas, pose, axles, half, shown, 0.33, CAR)
    if abs(math.cos(heading)) > 0.3:
        out = end * 1.015
        plate(canvas, pose, out, 0.3, 0.48, -half, half, lit(paint, 0.55))
        plate(canvas, pose, out, 0.52, 0.66, -0.26, 0.26, (238, 236, 214))
        if end == front:
            plate(canvas, pose, out, 0.5, 0.72, -half * 0.5, half * 0.5, (28, 30, 34))
            plate(canvas, pose, out, 0.54, 0.64, -0.26, 0.26, (238, 236, 214))
        _lights(canvas, pose, rear * 1.02, front * 1.015, half, 0.66, CAR)


def truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A delivery truck: a tall box on a chassis behind a cab."""
    pose, half, high = Pose(x, z, heading), 1.2, between(rng, 3.0, 3.5)
    cargo, paint = pick(rng, CARGO), pick(rng, PAINT)
    _ground_shadow(canvas, pose, 7.0, 2.4, 2.8)
    cab = [(1.5, 0.45, "b"), (1.5, 2.5, "b"), (2.9, 2.55, "g"), (3.3, 1.45, "b"), (3.4, 0.45, "b")]
    box = [(-3.5, 0.95, "b"), (-3.5, high, "b"), (1.4, high, "b"), (1.4, 0.95, "b")]
    chassis = [(-3.4, 0.4, "b"), (-3.4, 0.95, "b"), (1.5, 0.95, "b"), (1.5, 0.4, "b")]

    def draw_cab():
        shown = hull(canvas, pose, cab, 2.2, {"b": paint, "g": GLASS}, TRUCK)
        for side in shown:
            patch(canvas, pose, [(2.0, 1.45), (2.0, 2.2), (2.8, 2.2), (3.1, 1.45)], side * 1.11, GLASS)

    def draw_box():
        hull(canvas, pose, chassis, 2.1, {"b": (36, 36, 40), "g": GLASS}, TRUCK)
        for side in hull(canvas, pose, box, 2.4, {"b": cargo, "g": GLASS}, TRUCK):
            stripe = pick(rng, LIVERY)
            patch(canvas, pose, [(-3.3, 1.5), (-3.3, 2.0), (1.2, 2.3), (1.2, 1.8)], side * 1.21, stripe)
            for f in (-2.3, -1.1, 0.1):
                patch(canvas, pose, strip(f, 0.95, f + 0.05, high), side * 1.21, lit(cargo, 0.8))

    behind = math.cos(heading) > 0
    for part in (draw_cab, draw_box) if behind else (draw_box, draw_cab):
        part()
    shown = [s for s in (-1, 1) if _side_shows(canvas, pose, s * half)]
    wheels(canvas, pose, (-2.3, 2.3), half - 0.05, shown, 0.48, TRUCK)
    if behind:
        for r in (-half + 0.06, 0.03):  # two doors with bars and hinges
            plate(canvas, pose, -3.52, 1.05, high - 0.12, r, r + half - 0.09, lit(cargo, 0.92))
            plate(canvas, pose, -3.53, 1.05, high - 0.12, r + half * 0.7, r + half * 0.7 + 0.06, (96, 98, 102))
        for i in range(8):  # red and white chevrons on the bumper
            colour = (204, 40, 36) if i % 2 else (238, 238, 234)
            plate(canvas, pose, -3.53, 0.62, 0.86, -half + i * half / 4, -half + (i + 1) * half / 4, colour, TRUCK)
        for r in (-0.95, 0.6):
            plate(canvas, pose, -3.4, 0.02, 0.6, r, r + 0.35, TYRE, TRUCK)
    else:
        plate(canvas, pose, 3.42, 0.5, 1.0, -1.0, 1.0, (44, 46, 50))
    _lights(canvas, pose, -3.53, 3.43, half - 0.1, 0.95 if not behind else 0.42, TRUCK)


def _side_shows(canvas: Canvas, pose: Pose, right: float) -> bool:
    pixels = [canvas.camera.project(*pose.at(f, u, right)) for f, u in strip(-2, 0, 2, 1)]
    return _facing(pixels if right > 0 else pixels[::-1])


def bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A city bus: long rows of windows, a band of colour, a lit line number."""
    pose, half, paint, band = Pose(x, z, heading), 1.25, pick(rng, LIVERY), (244, 242, 234)
    _ground_shadow(canvas, pose, 10.5, 2.5, 2.7)
    corners = ((-5.2, 0.35), (-5.25, 3.0), (-5.0, 3.1), (5.1, 3.1), (5.25, 2.95), (5.25, 0.35))
    body = [(forward, up, "b") for forward, up in corners]
    shown = hull(canvas, pose, body, 2.5, {"b": paint, "g": GLASS}, BUS)
    for side in shown:
        r = side * (half + 0.01)
        patch(canvas, pose, strip(-5.1, 0.95, 5.2, 1.2), r, band)
        for i in range(7):
            a = -4.9 + i * 1.45
            glass = (240, 222, 170) if canvas.lamps else GLASS
            patch(canvas, pose, strip(a, 1.4, a + 1.3, 2.65), r, glass, BUS, canvas.lamps)
        for a in (-0.6, 3.6):
            patch(canvas, pose, strip(a, 0.5, a + 1.2, 2.6), r, (70, 84, 96))
    wheels(canvas, pose, (-3.1, 2.7), half, shown, 0.5, BUS)
    behind = math.cos(heading) > 0
    f = -5.27 if behind else 5.27
    plate(canvas, pose, f, 1.45 if behind else 1.05, 2.5, -1.08, 1.08, GLASS)
    plate(canvas, pose, f, 1.95 if behind else 1.7, 2.5, -1.08, 1.08, lit(GLASS, 1.35))
    plate(canvas, pose, f * 1.001, 2.58, 2.92, -0.8, 0.8, (22, 22, 24))
    left = -0.7
    for width in (0.16, 0.1, 0.3, 0.12, 0.22, 0.16):
        plate(canvas, pose, f * 1.002, 2.65, 2.85, left, left + width, (255, 176, 44), BUS, True)
        left += width + 0.07
    plate(canvas, pose, f, 0.95, 1.2, -half, half, band)
    plate(canvas, pose, f, 0.35, 0.6, -half, half, (40, 40, 44))
    for r in (-1.1, 0.75):
        plate(canvas, pose, f * 0.97, 0.0, 0.4, r, r + 0.35, TYRE, BUS)
    _lights(canvas, pose, -5.28, 5.28, half, 0.66, BUS)
