"""Sky, light, weather and lens of the drawn city, applied to the flat colours of the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.streets.canvas import GROUND, ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION, Canvas, Colour, between
from data.streets.city import SKIES, City

TILE = 128  # side of the noise tiles, cells


@dataclass
class Weather:
    """Light and air of one frame. Colours are 0..255, gains multiply, `fog` is 1/m."""

    sky: str
    top: Colour  # sky overhead
    low: Colour  # sky at the horizon
    gain: tuple[float, float, float]  # light on everything that does not shine
    clouds: float  # share of the sky, 0..1
    colourful: float  # 1: as painted, 0: grey
    fog: float
    shadow: float  # darkness of cast shadows, 0..1
    sun: tuple[float, float] | None  # see Canvas.sun
    sun_at: float  # column of the sun, share of the width
    lamps: bool
    wet: bool


# top, low, gain, clouds, colourful, fog, shadow
LOOKS = {
    "clear": ((74, 132, 206), (186, 214, 236), (1.06, 1.03, 0.97), 0.22, 1.08, 0.0005, 0.56),
    "cloudy": ((112, 152, 204), (204, 218, 230), (0.99, 0.99, 0.98), 0.60, 1.0, 0.001, 0.36),
    "overcast": ((176, 184, 192), (214, 218, 222), (0.88, 0.90, 0.92), 0.85, 0.82, 0.002, 0.0),
    "rain": ((138, 146, 156), (182, 188, 194), (0.76, 0.79, 0.83), 0.90, 0.78, 0.006, 0.0),
    "fog": ((200, 204, 208), (216, 219, 221), (0.92, 0.93, 0.94), 0.2, 0.8, 0.012, 0.0),
    "dusk": ((74, 84, 142), (250, 172, 112), (0.90, 0.76, 0.72), 0.45, 1.0, 0.0015, 0.22),
    "night": ((16, 20, 44), (52, 54, 84), (0.46, 0.48, 0.60), 0.3, 0.8, 0.001, 0.0),
}


def make_weather(city: City, rng: np.random.Generator) -> Weather:
    """Draw the weather of one frame from the city's climate."""
    index = min(len(SKIES) - 1, int(np.searchsorted(np.cumsum(city.climate), rng.random())))
    top, low, gain, clouds, colourful, fog, shadow = LOOKS[SKIES[index]]
    bright = between(rng, 0.93, 1.07)
    side = -1 if rng.random() < 0.5 else 1
    sun = (side * between(rng, 0.35, 1.1), between(rng, -0.4, 0.7)) if shadow else None
    return Weather(
        SKIES[index],
        top,
        low,
        tuple(g * bright for g in gain),
        clouds * between(rng, 0.5, 1.1),
        colourful,
        fog * between(rng, 0.7, 1.4),
        shadow,
        sun,
        0.5 - side * between(rng, 0.15, 0.6),
        SKIES[index] in ("dusk", "night", "rain"),
        SKIES[index] == "rain",
    )


def _stretch(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement of a small grid to (height, width)."""
    for axis, size in enumerate((height, width)):
        at = np.linspace(0, grid.shape[axis] - 1.001, size, dtype=np.float32)
        low = at.astype(np.int64)
        share = (at - low).reshape(-1, 1) if axis == 0 else (at - low)
        grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, low + 1, axis) * share
    return grid.astype(np.float32)


def _cloud_field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise of four octaves in 0..1, wider than high."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = 3 * 2**octave
        total += _stretch(rng.random((cells + 2, cells + 2), dtype=np.float32), height, width) * 0.5**octave
    return (total - total.min()) / (total.max() - total.min())


def paint_sky(weather: Weather, rng: np.random.Generator, height: int, width: int, horizon: float) -> np.ndarray:
    """The sky as (height, width, 3) uint8: gradient, sun or moon, clouds, stars."""
    rows = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None, None]
    top, low = np.float32(weather.top), np.float32(weather.low)
    sky = np.broadcast_to(top + (low - top) * rows**1.3, (height, width, 3)).copy()
    y = np.arange(height, dtype=np.float32)[:, None] - horizon * (0.75 if weather.sky == "dusk" else 0.22)
    x = np.arange(width, dtype=np.float32)[None] - weather.sun_at * width
    far = np.sqrt(x * x + y * y)
    if weather.sky == "night":
        stars = rng.random((height, width)) < 0.0012
        sky[stars] = 190
        sky += np.clip(9 - far, 0, 1)[..., None] * np.float32((215, 212, 190))
    elif weather.sun is not None:
        sky += np.exp(-far / (0.16 * width))[..., None] * np.float32((70, 58, 30))
        sky += np.clip(11 - far, 0, 1)[..., None] * 120
    field = _cloud_field(rng, height, width)[..., None]
    cover = np.clip((field - (1 - weather.clouds) * 0.85) * 4, 0, 1) * 0.85
    white = np.float32((248, 248, 250)) * np.float32(max(0.16, min(1.0, weather.gain[1])))
    if weather.sky == "dusk":
        white = np.float32((238, 166, 140))
    cloud = white * (0.80 + 0.2 * field) if weather.sky not in ("overcast", "rain") else low * (0.78 + 0.25 * field)
    return np.clip(sky + (cloud - sky) * cover, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Two tiles of noise about 0, (TILE, TILE) float32: fine grain, and blotches a few cells wide."""
    rng = np.random.Generator(np.random.PCG64(20))
    fine = rng.random((TILE, TILE), dtype=np.float32) - 0.5
    blotch = rng.random((TILE, TILE), dtype=np.float32) - 0.5
    for axis in (0, 1):
        blotch = sum(np.roll(blotch, shift, axis) for shift in range(-3, 4)) / 7
    return fine, blotch / blotch.std() * 0.3


def _texture(canvas: Canvas, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gain per pixel, (H, W): grain of asphalt, stone and grass in the ground's own perspective, leaves, plaster."""
    fine, blotch = _tiles()
    height, width = label.shape
    shift = [int(v) for v in rng.integers(0, TILE, 4)]
    rows, columns = np.arange(height)[:, None] + shift[0], np.arange(width)[None] + shift[1]
    screen = fine[rows % TILE, columns % TILE]
    clumps = blotch[(rows * 2) % TILE, (columns * 2) % TILE]
    x, z = canvas.camera.ground()
    cell = (np.floor(x * 14).astype(np.int64) % TILE, np.floor(z * 7).astype(np.int64) % TILE)
    stain = blotch[(cell[0] >> 1) % TILE, (cell[1] + shift[2]) % TILE]
    grain = fine[cell]
    near = np.clip(14 / z, 0.15, 1)
    gain = np.ones(label.shape, np.float32) + 0.05 * screen
    for ids, add in (
        (ROAD, 0.13 * grain * near + 0.10 * stain),
        (SIDEWALK, 0.07 * grain * near + 0.05 * stain),
        (TERRAIN, 0.34 * screen + 0.22 * stain * near + 0.10 * clumps),
        (VEGETATION, 0.42 * screen + 0.34 * clumps),
    ):
        gain = np.where(label == ids, gain + add, gain)
    return np.where(label == SKY, 1.0, gain)


def _soften(field: np.ndarray, radius: int) -> np.ndarray:
    """Box blur along both axes with repeated borders."""
    span = 2 * radius + 1
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(field.ndim)]
        padded = np.swapaxes(np.pad(field, pad, mode="edge"), 0, axis)
        size = field.shape[axis]
        total = padded[:size].copy()
        for shift in range(1, span):
            total += padded[shift : shift + size]
        field = np.swapaxes(total, 0, axis) / np.float32(span)
    return field


def develop(canvas: Canvas, weather: Weather, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Finish a painted canvas -> picture (H, W, 3) uint8, labelIds (H, W) uint8."""
    picture, label, depth, shines = canvas.layers()
    ground = np.isin(label, GROUND)
    depth = np.where(ground, canvas.camera.ground()[1], depth)
    picture *= _texture(canvas, label, rng)[..., None]
    shade = _soften(np.asarray(canvas.shade, dtype=np.float32) / 255, 1)
    picture *= np.where(ground, 1 - max(weather.shadow, 0.42) * shade, 1)[..., None]
    dark = np.where(shines, 1.0, 0.0)[..., None].astype(np.float32)
    picture *= dark + (1 - dark) * np.float32(weather.gain)
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * weather.colourful
    if weather.wet:
        picture = _reflect(picture, label, canvas.camera.horizon)
    haze = np.where(label == SKY, 0.0, 1 - np.exp(-depth * weather.fog))[..., None].astype(np.float32)
    picture += (np.float32(weather.low) * min(1.0, weather.gain[1] + 0.1) - picture) * haze
    for column, row, radius, colour in canvas.glows:
        _add_glow(picture, column, row, radius, colour, 0.75 if weather.lamps else 0.25)
    if weather.wet:
        picture = _rain(picture, rng)
    return _lens(picture, rng), label


def _reflect(picture: np.ndarray, label: np.ndarray, horizon: float) -> np.ndarray:
    """Wet asphalt: mix in the scene mirrored at the horizon, smeared downwards."""
    rows = np.clip(2 * int(horizon) - np.arange(len(picture)) - 4, 0, len(picture) - 1)
    mirror = _soften(picture[rows], 4)
    share = np.where(label == ROAD, 0.42, np.where(label == SIDEWALK, 0.2, 0.0))[..., None].astype(np.float32)
    return picture * (1 - share * 0.85) + mirror * share


def _add_glow(picture: np.ndarray, column: float, row: float, radius: float, colour: Colour, strength: float) -> None:
    """Add light that falls off from (column, row), in place."""
    radius = min(max(radius, 2.0), 60.0)
    y0, y1 = max(0, int(row - 3 * radius)), min(picture.shape[0], int(row + 3 * radius) + 1)
    x0, x1 = max(0, int(column - 3 * radius)), min(picture.shape[1], int(column + 3 * radius) + 1)
    if y0 >= y1 or x0 >= x1:
        return
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - row
    x = np.arange(x0, x1, dtype=np.float32)[None] - column
    light = np.exp(-(x * x + y * y) / (radius * radius)) * strength
    picture[y0:y1, x0:x1] += light[..., None] * np.float32(colour)


def _rain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slanted streaks of rain."""
    height, width = picture.shape[:2]
    drops = (rng.random((height, width), dtype=np.float32) < 0.004).astype(np.float32)
    streaks = np.zeros_like(drops)
    for i in range(9):
        streaks += np.roll(drops, (i, -(i // 4)), (0, 1))
    return picture + np.minimum(streaks, 1)[..., None] * 22


def _lens(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A little blur, darker corners, exposure and sensor noise; -> uint8."""
    height, width = picture.shape[:2]
    soft = between(rng, 0.0, 0.2)
    picture = picture * (1 - soft) + _soften(picture, 1) * soft
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    picture = picture * ((1 - 0.10 * (x * x + y * y)) * between(rng, 0.96, 1.06))[..., None]
    grain = rng.integers(-6, 7, (height, width, 1), dtype=np.int8).astype(np.float32)
    return np.clip(picture + grain * between(rng, 0.3, 1.0) + 0.5, 0, 255).astype(np.uint8)
