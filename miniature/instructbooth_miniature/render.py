"""Draws scenes: 4x supersampled, then averaged, so that edges are smooth and colours flat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .geometry import Points, body_outline, parts_before, parts_behind, shape_outline
from .world import MASCOT_PALETTE, OUTLINE, PALETTE, PICTURE_SIZE, Mascot, PlainObject, Pose, Rgb, Scene

SUPERSAMPLING = 4
_WHITE: Rgb = (255, 255, 255)
_MOUTH: Rgb = (92, 24, 40)
_LINE_PIXELS = 1.5
"""Width of a mascot's outline in picture pixels at medium size."""


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """The picture of a scene, uint8 [64, 64, 3]."""
    side = PICTURE_SIZE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), PALETTE[scene.background])
    if scene.second is not None and scene.second_pose is not None:
        _draw_object(canvas, scene.second, scene.second_pose)
    if isinstance(scene.subject, Mascot):
        _draw_mascot(canvas, scene.subject, scene.subject_pose)
    else:
        _draw_object(canvas, scene.subject, scene.subject_pose)
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def _place(points: Points, pose: Pose, scale: float, centre: Points) -> Points:
    """Local corners to supersampled pixels; `centre` is the local point that lands on the pose's (x, y)."""
    return (np.array([pose.x, pose.y]) + (_turn(points, pose) - centre) * scale) * SUPERSAMPLING


def _turn(points: Points, pose: Pose) -> Points:
    angle = np.deg2rad(pose.rotation)
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _corners(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _draw_object(canvas: Image.Image, thing: PlainObject, pose: Pose) -> None:
    points = _place(shape_outline(thing.shape), pose, pose.size / 2, np.zeros(2))
    ImageDraw.Draw(canvas).polygon(_corners(points), fill=PALETTE[thing.colour])


def _draw_mascot(canvas: Image.Image, mascot: Mascot, pose: Pose) -> None:
    body = body_outline(mascot.body)
    behind = parts_behind(mascot)
    everything = _turn(np.concatenate([body, *(points for points, _ in behind)]), pose)
    low, high = everything.min(axis=0), everything.max(axis=0)
    centre, extent = (low + high) / 2, float((high - low).max())
    line = _LINE_PIXELS * (pose.size / 30.0) ** 0.5
    scale = (pose.size - line) / extent
    main, accent = (MASCOT_PALETTE[colour] for colour in mascot.colours)
    paints = {"main": main, "accent": accent, "outline": OUTLINE, "white": _WHITE, "mouth": _MOUTH}
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(line * SUPERSAMPLING))
    for points, paint in behind:
        corners = _corners(_place(points, pose, scale, centre))
        draw.polygon(corners, fill=paints[paint])
        _outline(draw, corners, width)
    corners = _corners(_place(body, pose, scale, centre))
    left, top = (int(edge) for edge in np.floor(np.min(corners, axis=0)))
    right, bottom = (int(edge) + 1 for edge in np.ceil(np.max(corners, axis=0)))
    mask = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in corners], fill=255)
    box = (left, top, right, bottom)
    canvas.paste(_patterned(mascot.pattern, main, accent, pose, scale, centre, box), (left, top), mask)
    _outline(draw, corners, width)
    for points, paint in parts_before(mascot):
        corners = _corners(_place(points, pose, scale, centre))
        draw.polygon(corners, fill=paints[paint])
        if paint == "white":
            _outline(draw, corners, max(2, width // 2))


def _outline(draw: ImageDraw.ImageDraw, corners: list[tuple[float, float]], width: int) -> None:
    draw.line([*corners, corners[0], corners[1]], fill=OUTLINE, width=width, joint="curve")


def _patterned(
    pattern: str, main: Rgb, accent: Rgb, pose: Pose, scale: float, centre: Points, box: tuple[int, int, int, int]
) -> Image.Image:
    """The two-tone pattern inside a box (left, top, right, bottom) of the supersampled canvas.

    It is fixed to the mascot's own frame. Raises KeyError for a word that is not in PATTERNS.
    """
    axis_x = (np.arange(box[0], box[2]) + 0.5) / SUPERSAMPLING
    axis_y = (np.arange(box[1], box[3]) + 0.5) / SUPERSAMPLING
    angle = np.deg2rad(pose.rotation)
    shifted_x = ((axis_x - pose.x) / scale + centre[0])[None, :]
    shifted_y = ((axis_y - pose.y) / scale + centre[1])[:, None]
    x = shifted_x * np.cos(angle) + shifted_y * np.sin(angle)
    y = -shifted_x * np.sin(angle) + shifted_y * np.cos(angle)
    painted = {
        "striped": lambda: np.sin(y * 2 * np.pi / 0.64) > 0,
        "barred": lambda: np.sin(x * 2 * np.pi / 0.64 + np.pi / 2) > 0,
        "dotted": lambda: np.cos(x * 2 * np.pi / 0.62) + np.cos(y * 2 * np.pi / 0.62) > 0.55,
        "checkered": lambda: np.sin(x * np.pi / 0.45) * np.sin(y * np.pi / 0.45) > 0,
        "split": lambda: x > 0,
        "ringed": lambda: np.sin(np.hypot(x, y) * 2 * np.pi / 0.7) < 0,
    }[pattern]()
    colours = np.array([main, accent], dtype=np.uint8)
    return Image.fromarray(colours[painted.astype(np.int64)])
