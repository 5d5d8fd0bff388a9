"""Camera and canvas of the drawn city. The canvas holds picture, labels and depth at once.

World axes in metres: X to the right (0 is the middle of the road), Y up (0 is the road), Z away from the camera.
Every shape is a polygon with integer corners on a grid twice as fine as the picture. The picture is averaged 2x2 (soft
edges); the labels are picked from the same polygons (hard edges, at most half a pixel away).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

FINE = 2  # drawing grid cells per pixel, along each axis
NEAR = 1.2  # nothing nearer than this is drawn, metres
FAR = 120.0

# Cityscapes labelIds of everything that is drawn.
EGO = 1
ROAD, SIDEWALK, BUILDING, WALL, FENCE = 7, 8, 11, 12, 13
POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = 17, 19, 20, 21, 22, 23
PERSON, RIDER, CAR, TRUCK, BUS, BICYCLE = 24, 25, 26, 27, 28, 33
GROUND = (ROAD, SIDEWALK, TERRAIN)

Colour = tuple[int, int, int]


@dataclass
class Camera:
    """Pinhole camera; `curve` bends the street sideways by curve * Z**2 metres."""

    height: int  # picture size in pixels
    width: int
    focal: float  # pixels
    center: float  # column of the vanishing point
    horizon: float  # row of the horizon
    above: float  # height of the camera over the road, metres
    x: float  # position of the camera across the road, metres
    curve: float

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """World point (metres) -> (column, row) in pixels."""
        z = max(z, NEAR)
        column = self.center + self.focal * ((x - self.x) / z + self.curve * z)
        return column, self.horizon + self.focal * (self.above - y) / z

    def scale(self, z: float) -> float:
        """Pixels per metre at distance z."""
        return self.focal / max(z, NEAR)

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """World (X, Z) of every pixel as if it showed the road, each (H, W) float32; FAR above the horizon."""
        rows = np.arange(self.height, dtype=np.float32)[:, None] + 0.5
        columns = np.arange(self.width, dtype=np.float32)[None] + 0.5
        drop = np.maximum(rows - self.horizon, 1e-3)
        z = np.minimum(self.focal * self.above / drop, FAR)
        x = (columns - self.center) * z / self.focal + self.x - self.curve * z * z
        return x, np.broadcast_to(z, x.shape)


@dataclass
class Canvas:
    """Picture, label, depth and light of one frame, painted from far to near."""

    camera: Camera
    sun: tuple[float, float] | None = None  # shadow of a point one metre up falls this far in (X, Z); None: no sun
    lamps: bool = False  # windows and lamps are lit (dusk, night)
    glows: list[tuple[float, float, float, Colour]] = field(default_factory=list)  # (column, row, radius px, colour)

    def __post_init__(self) -> None:
        size = (self.camera.width * FINE, self.camera.height * FINE)  # PIL: (W, H)
        self.picture = Image.new("RGB", size)
        self.code = Image.new("I", size, SKY | 255 << 8 | 1 << 16)  # label | 2 * depth << 8 | shines << 16
        self.shade = Image.new("L", (self.camera.width, self.camera.height))  # shadows on the ground, 0..255
        self._opaque = ImageDraw.Draw(self.picture)
        self._glaze = ImageDraw.Draw(self.picture, "RGBA")
        self._label = ImageDraw.Draw(self.code)
        self._shadow = ImageDraw.Draw(self.shade)

    def background(self, sky: np.ndarray) -> None:
        """Lay a (H, W, 3) uint8 sky under everything."""
        self.picture.paste(Image.fromarray(sky.repeat(FINE, 0).repeat(FINE, 1)))

    def poly(self, points, colour, label: int | None, z: float = 0.0, shines: bool = False) -> None:
        """Fill a polygon of (column, row) pixels. colour None: labels only; label None: picture only.

        A colour with four entries is blended over what is there.
        """
        corners = [(math.floor(x * FINE + 0.5), math.floor(y * FINE + 0.5)) for x, y in points]
        if colour is not None:
            (self._glaze if len(colour) == 4 else self._opaque).polygon(corners, fill=colour)
        if label is not None:
            self._label.polygon(corners, fill=label | min(255, int(2 * z)) << 8 | int(shines) << 16)

    def quad(self, points3, colour, label: int | None, shines: bool = False) -> None:
        """Fill a polygon of world points (X, Y, Z)."""
        z = sum(p[2] for p in points3) / len(points3)
        self.poly([self.camera.project(*p) for p in points3], colour, label, z, shines)

    def stroke(self, points, colour, width: float) -> None:
        """A line through (column, row) pixels; picture only, `width` in pixels."""
        corners = [(math.floor(x * FINE + 0.5), math.floor(y * FINE + 0.5)) for x, y in points]
        draw = self._glaze if len(colour) == 4 else self._opaque
        draw.line(corners, fill=colour, width=max(1, round(width * FINE)), joint="curve")

    def strip(self, xa: float, xb: float, z0: float, z1: float, colour, label: int | None, y: float = 0.0) -> None:
        """A ribbon of ground from z0 to z1 between xa and xb that follows the street's bend."""
        z0, z1 = max(z0, NEAR), min(z1, FAR)
        if z1 <= z0:
            return
        steps = max(2, round(8 * math.log(z1 / z0)))
        zs = [z0 * (z1 / z0) ** (i / steps) for i in range(steps + 1)]
        project = self.camera.project
        points = [project(xa, y, z) for z in zs] + [project(xb, y, z) for z in reversed(zs)]
        self.poly(points, colour, label, (z0 + z1) / 2)

    def cast(self, points3, strength: int = 255) -> None:
        """Shadow on the ground of a flat shape given by world points, if there is sun."""
        if self.sun is not None:
            sx, sz = self.sun
            self.contact([(x + sx * y, z + sz * y) for x, y, z in points3], strength)

    def contact(self, points2, strength: int = 255) -> None:
        """Darken a patch of ground given by (X, Z) points, in any weather."""
        pixels = [self.camera.project(x, 0.0, z) for x, z in points2]
        self._shadow.polygon([(round(u), round(v)) for u, v in pixels], fill=strength)

    def glow(self, x: float, y: float, z: float, radius: float, colour: Colour) -> None:
        """A halo of light around a world point, `radius` in metres."""
        column, row = self.camera.project(x, y, z)
        self.glows.append((column, row, radius * self.camera.scale(z), colour))

    def layers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """-> picture (H, W, 3) float32 0..255, labelIds (H, W) uint8, depth (H, W) float32 m, shines (H, W) bool."""
        fine = np.asarray(self.picture, dtype=np.float32)
        picture = (fine[0::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 0::2] + fine[1::2, 1::2]) * 0.25
        code = np.asarray(self.code)[1::FINE, 1::FINE]
        depth = (code >> 8 & 255).astype(np.float32) * 0.5
        return picture, (code & 255).astype(np.uint8), depth, (code >> 16).astype(bool)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, options):
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability."""
    return rng.random() < probability


def lit(colour, factor: float) -> Colour:
    """The colour, brighter (> 1) or darker (< 1)."""
    return tuple(min(255, max(0, int(c * factor))) for c in colour)


def mixed(a, b, share: float) -> Colour:
    """Colour between a (share 0) and b (share 1)."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b))


def box(x0: float, y0: float, x1: float, y1: float):
    """Corners of a rectangle on the screen, (column, row)."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def upright(x: float, y0: float, y1: float, z0: float, z1: float):
    """Corners of a rectangle along the street on the plane X = x, (X, Y, Z)."""
    return [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]


def disc(x: float, y: float, rx: float, ry: float, corners: int = 14, turn: float = 0.0):
    """Corners of an ellipse around (x, y)."""
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]
