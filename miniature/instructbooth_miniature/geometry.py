"""Outlines of shapes and mascots as polygons in a local frame: x to the right, y down, about -1..1."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from .world import Mascot

Points = npt.NDArray[np.float64]
"""Corners of a closed polygon, [corners, 2]."""

Paint = Literal["main", "accent", "outline", "white", "mouth"]
Part = tuple[Points, Paint]
"""A polygon and which of the mascot's colours fills it."""


def ellipse(x: float, y: float, radius_x: float, radius_y: float, corners: int = 28) -> Points:
    """An ellipse round (x, y)."""
    angle = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def _polar(radius: Points, angle: Points) -> Points:
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _star(inner: float) -> Points:
    angle = np.arange(10) * np.pi / 5
    return _polar(np.where(np.arange(10) % 2 == 0, 1.0, inner), angle)


def _heart() -> Points:
    t = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.0, y / 16.0 + 0.1], axis=1)


def _petals(count: int, depth: float) -> Points:
    angle = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    return _polar(1.0 - depth + depth * np.abs(np.cos(count * angle / 2)), angle)


def _ghost() -> Points:
    top = np.linspace(np.pi, 2 * np.pi, 22)
    dome = np.stack([0.8 * np.cos(top), -0.2 + 0.8 * np.sin(top)], axis=1)
    x = np.linspace(0.8, -0.8, 25)
    hem = np.stack([x, 0.84 + 0.14 * np.cos(x / 0.8 * 3 * np.pi + np.pi)], axis=1)
    return np.concatenate([dome, hem])


def _drop() -> Points:
    t = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    return np.stack([0.95 * np.sin(t) * np.sin(t / 2) ** 1.1, -np.cos(t)], axis=1)


def _pear() -> Points:
    t = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    width = 0.66 - 0.26 * np.cos(t)
    return np.stack([width * np.sin(t), -np.cos(t)], axis=1)


def _cloud() -> Points:
    angle = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    radius = 0.86 + 0.14 * np.abs(np.sin(3.5 * angle))
    points = _polar(radius, angle)
    stretched: Points = points * np.array([1.12, 0.8])
    return stretched


def _box(half: float) -> Points:
    return np.array([[-half, -half], [half, -half], [half, half], [-half, half]])


def _cross() -> Points:
    a, b = 0.34, 0.95
    return np.array(
        [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]
    )


@cache
def shape_outline(shape: str) -> Points:
    """The polygon of a plain object, centred on its bounding box, longer side 2.

    Raises KeyError for a word that is not in SHAPES.
    """
    outlines = {
        "circle": ellipse(0, 0, 1, 1, 48),
        "square": _box(1.0),
        "triangle": np.array([[0.0, -0.9], [1.0, 0.85], [-1.0, 0.85]]),
        "star": _star(0.42),
        "heart": _heart(),
        "cross": _cross(),
    }
    return centred(outlines[shape])


@cache
def body_outline(body: str) -> Points:
    """The polygon of a mascot's body, longer side 2. Raises KeyError for a word that is not in BODIES."""
    outlines = {
        "round": ellipse(0, 0, 1, 1, 48),
        "square": _rounded_box(),
        "triangle": np.array(
            [[0.0, -1.0], [0.14, -0.94], [1.02, 0.74], [0.9, 0.9], [-0.9, 0.9], [-1.02, 0.74], [-0.14, -0.94]]
        ),
        "star": _star(0.55),
        "heart": _heart(),
        "cloud": _cloud(),
        "drop": _drop(),
        "ghost": _ghost(),
        "flower": _petals(6, 0.3),
        "pear": _pear(),
    }
    return centred(outlines[body])


def _rounded_box() -> Points:
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    power = 0.36  # a superellipse: a box with soft corners
    return np.stack([np.sign(cosine) * np.abs(cosine) ** power, np.sign(sine) * np.abs(sine) ** power], axis=1) * 0.92


def centred(points: Points) -> Points:
    """The same polygon with its bounding box round (0, 0) and a longer side of 2."""
    low, high = points.min(axis=0), points.max(axis=0)
    moved: Points = (points - (low + high) / 2) * (2.0 / float((high - low).max()))
    return moved


def _top(body: Points, x: float) -> float:
    """Height (y) of the body's upper edge near a given x: where a crest is planted."""
    closed = np.concatenate([body, body[:1]])
    crossings = [
        y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        for (x0, y0), (x1, y1) in itertools.pairwise(closed)
        if (x0 - x) * (x1 - x) <= 0 and x0 != x1
    ]
    return float(min(crossings, default=0.0))


def _bottom(body: Points, x: float) -> float:
    return -_top(body * np.array([1.0, -1.0]), x)


def parts_behind(mascot: Mascot) -> list[Part]:
    """Crest and feet, drawn before the body."""
    body = body_outline(mascot.body)
    parts: list[Part] = []
    for side in (-1.0, 1.0):
        x = 0.45 * side
        y = _top(body, x)
        if mascot.crest == "eared":
            parts.append((ellipse(x * 1.25, y + 0.02, 0.3, 0.3), "accent"))
        elif mascot.crest == "horned":
            parts.append((np.array([[x - 0.2, y + 0.25], [x + 0.22 * side, y - 0.5], [x + 0.2, y + 0.25]]), "accent"))
        elif mascot.crest == "antennaed":
            stalk = np.array(
                [[x * 0.6 - 0.07, y + 0.3], [x - 0.07, y - 0.4], [x + 0.07, y - 0.4], [x * 0.6 + 0.07, y + 0.3]]
            )
            parts += [(stalk, "outline"), (ellipse(x, y - 0.45, 0.2, 0.2), "accent")]
        if mascot.feet:
            parts.append((ellipse(x, _bottom(body, x) + 0.04, 0.28, 0.18), "main"))
    if mascot.crest == "sprouting":
        y = _top(body, 0.0)
        parts.append(
            (
                np.array(
                    [
                        [0.0, y + 0.2],
                        [-0.14, y - 0.2],
                        [-0.5, y - 0.5],
                        [-0.06, y - 0.42],
                        [0.1, y - 0.7],
                        [0.28, y - 0.3],
                    ]
                ),
                "accent",
            )
        )
    return parts


def parts_before(mascot: Mascot) -> list[Part]:
    """Eyes and mouth, drawn over the body."""
    drop = {"triangle": 0.3, "drop": 0.3, "pear": 0.1, "heart": -0.1, "star": 0.02}.get(mascot.body, -0.05)
    parts: list[Part] = []
    if mascot.eyes == 1:
        parts += [(ellipse(0, drop - 0.12, 0.36, 0.36), "white"), (ellipse(0.03, drop - 0.1, 0.19, 0.19), "outline")]
    else:
        for side in (-1.0, 1.0):
            x = 0.28 * side
            parts += [
                (ellipse(x, drop - 0.12, 0.235, 0.27), "white"),
                (ellipse(x * 0.9, drop - 0.09, 0.125, 0.14), "outline"),
            ]
    y = drop + 0.36
    if mascot.mouth == "open":
        parts.append((ellipse(0, y, 0.17, 0.13), "mouth"))
    elif mascot.mouth == "flat":
        parts.append((np.array([[-0.22, y - 0.05], [0.22, y - 0.05], [0.22, y + 0.05], [-0.22, y + 0.05]]), "mouth"))
    else:
        t = np.linspace(0.15 * np.pi, 0.85 * np.pi, 10)
        outer = np.stack([0.3 * np.cos(t), y - 0.18 + 0.3 * np.sin(t)], axis=1)
        inner = np.stack([0.3 * np.cos(t), y - 0.2 + 0.16 * np.sin(t)], axis=1)[::-1]
        parts.append((np.concatenate([outer, inner]), "mouth"))
    return parts
