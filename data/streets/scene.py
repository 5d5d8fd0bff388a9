"""Everything on the street in one frame: vehicles, people, signs and furniture, placed and painted from far to near."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from data.streets.canvas import Canvas, between, chance, pick
from data.streets.city import City, Plan
from data.streets.people import cyclist, parked_bicycle, person
from data.streets.plants import tree
from data.streets.signs import guide_board, lamp_post, sign_post, traffic_light
from data.streets.town import fence
from data.streets.traffic import bus, car, truck

AWAY, TOWARDS = 0.0, math.pi  # headings


def draw_life(canvas: Canvas, city: City, plan: Plan, rng: np.random.Generator) -> None:
    """Street furniture, trees of the verge, vehicles and people."""
    things = []  # (distance of the nearest part, how to paint it)
    for place in (_furniture, _verge, _junction, _parked, _traffic, _people, _bicycles):
        things += place(canvas, city, plan, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()


def _furniture(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """Lamp posts at even distances, signs, a direction board, a railing along the kerb."""
    things = []
    pace, start = between(rng, 15, 22), between(rng, 6, 13)
    for side in (-1, 1):
        x = side * (plan.kerb + 0.55)
        z = start + (pace / 2 if side < 0 else 0)
        while z < 34:
            if plan.free(z, 0.5):
                things.append((z, partial(lamp_post, canvas, city, x, z)))
            z += pace
        for _ in range(1 + int(rng.random() * 2.2)):
            z = between(rng, 6, 16)
            if plan.free(z, 0.3):
                x_sign = side * (plan.kerb + between(rng, 0.5, 0.9))
                things.append((z, partial(sign_post, canvas, city, rng, x_sign, z)))
        if chance(rng, 0.16):
            z = between(rng, 12, 24)
            things.append((z, partial(guide_board, canvas, city, rng, side * (plan.kerb + 2.0), z)))
        if chance(rng, 0.4) and not plan.parking[(side + 1) // 2]:
            z0 = between(rng, 5, 12)
            z1 = min(z0 + between(rng, 5, 9), plan.junction.z - 1 if plan.junction else 40)
            if z1 > z0 + 2:  # one piece per metre, so that people may stand in front of and behind it
                x = side * (plan.kerb + 0.3)
                high, style = between(rng, 1.0, 1.2), pick(rng, ("bars", city.fences[1]))
                things.append((z0, partial(fence, canvas, city, rng, x, z0, z1, style, high)))
    return things


def _verge(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """Street trees."""
    things = []
    for side in (-1, 1):
        z = between(rng, 8, 16)
        while z < 50 and city.verge_trees > 0:
            x = side * (plan.kerb + max(0.9, city.verge / 2))
            if plan.free(z, 2):
                size = between(rng, 5.0, 8.5)
                things.append((z, partial(tree, canvas, city, rng, x, z, city.species[0], size)))
            z += 10 / city.verge_trees * between(rng, 0.8, 1.3)
    return things


def _junction(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """Traffic lights, someone on the crossing, a vehicle that comes out of the side street."""
    j, things = plan.junction, []
    if j is None:
        return things
    if j.signals:
        state = pick(rng, (0, 0, 1, 2, 2))
        for side in (-1, 1):
            x, z = side * (plan.kerb + 0.5), j.z - 0.4
            things.append((z, partial(traffic_light, canvas, city, rng, x, z, city.light_arm and side > 0, state)))
        if chance(rng, 0.4):  # the far side's lights, over the crossing street
            x, z = (plan.kerb + 0.5) * pick(rng, (-1, 1)), j.z + j.width + 0.5
            things.append((z, partial(traffic_light, canvas, city, rng, x, z, False, state)))
    if chance(rng, 0.45):
        x, z = between(rng, -8, 8), j.z + j.width / 2
        kind = pick(rng, (car, car, truck, bus))
        heading = pick(rng, (-1, 1)) * math.pi / 2 + between(rng, -0.1, 0.1)
        things.append((z, partial(kind, canvas, rng, x, z, heading)))
    if j.crossing:
        for _ in range(int(rng.random() * 3.5)):
            x, z = between(rng, -plan.kerb, plan.kerb), j.z - between(rng, 0.9, 3.2)
            things.append((z, partial(person, canvas, rng, x, z)))
        if chance(rng, 0.35):
            x, z = between(rng, -plan.kerb, plan.kerb), j.z - between(rng, 1.2, 3.0)
            things.append((z, partial(cyclist, canvas, rng, x, z)))
    return things


def _parked(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """Cars along the kerb."""
    things = []
    for side, parked in zip((-1, 1), plan.parking):
        z = between(rng, 7, 11)
        while parked and z < 45:
            if chance(rng, 0.7) and plan.free(z, 4):
                x, heading = side * (plan.kerb - 1.15), (AWAY if side > 0 else TOWARDS) + between(rng, -0.03, 0.03)
                kind = car if chance(rng, 0.93) else truck
                things.append((z - 2, partial(kind, canvas, rng, x, z, heading)))
                z += 2.0 if kind is truck else 0.0
            z += between(rng, 5.2, 6.2)
    return things


def _traffic(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """Vehicles that drive, one row per lane, never into each other."""
    things = []
    for lane in range(city.lanes):
        x = (lane + 0.5 - city.lanes / 2) * city.lane_width
        away = lane >= city.lanes // 2
        z = between(rng, 9, 24) if away else between(rng, 7, 22)
        while z < 48:
            kind = pick(rng, (car, car, car, truck, bus, bus) if z < 32 else (car,))
            half = {car: 2.3, truck: 3.6, bus: 5.3}[kind]
            z += half
            if not (plan.junction and plan.junction.z - half < z < plan.junction.z + plan.junction.width + half):
                heading = (AWAY if away else TOWARDS) + between(rng, -0.04, 0.04)
                things.append((z - half, partial(kind, canvas, rng, x + between(rng, -0.25, 0.25), z, heading)))
            z += half + between(rng, 4, 26)
    return things


def _people(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """People on the pavements, alone or in small groups, and cyclists at the edge of the road."""
    things = []
    for _ in range(3 + int(rng.random() * 5)):
        side, z = pick(rng, (-1, 1)), 5.5 + 12 * rng.random() ** 1.4
        x = side * between(rng, plan.pave + 0.7, plan.line - 0.3)
        for k in range(pick(rng, (1, 1, 2, 3))):
            spot, depth = x + k * between(rng, 0.5, 0.8), z + between(rng, -0.4, 0.4)
            things.append((depth, partial(person, canvas, rng, spot, depth)))
    for side in (-1, 1, 1):
        if chance(rng, 0.55):
            z = 5.5 + 8 * rng.random() ** 1.2
            x = side * (plan.kerb - between(rng, 0.5, 0.9) - (2.3 if plan.parking[(side + 1) // 2] else 0))
            things.append((z, partial(cyclist, canvas, rng, x, z)))
    return things


def _bicycles(canvas: Canvas, city: City, plan: Plan, rng) -> list:
    """A rack of bicycles on the pavement."""
    things = []
    for side in (-1, 1):
        if chance(rng, 0.45):
            z, x = between(rng, 6, 13), side * (plan.pave + between(rng, 0.9, max(1.0, city.pavement - 0.6)))
            for k in range(2 + int(rng.random() * 3)):
                things.append((z + k * 0.75, partial(parked_bicycle, canvas, rng, x, z + k * 0.75)))
    return things
