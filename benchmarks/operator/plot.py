"""The measures over N as one SVG: a panel for each, a curve for each contender, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, COLUMNS = 340, 220, 3
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 34, 34
COLOURS = {"ours": "#0b6e4f", "peer": "#c1440e", "floor": "#7a7a7a"}
NAMES = {"ours": "InstructBooth", "peer": "Kubeflow Trainer + JobSet", "floor": "bare Jobs"}
PANELS = (
    "stage_rate",
    "first_pod_p50",
    "first_pod_p99",
    "own_cpu_per_stage",
    "memory_peak",
    "apiserver_cpu_per_stage",
    "writes_per_stage",
    "reads_per_stage",
    "reconcile_p99",
)


def picture(measures: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the measures that have a panel. Numbers that are missing or zero are left out of their curve."""
    names = [name for name in PANELS if any(line["name"] == name for line in measures)]
    rows = math.ceil(len(names) / COLUMNS)
    size = COLUMNS * WIDTH, rows * HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="#ffffff"/>',
    ]
    for number, (side, name) in enumerate(NAMES.items()):
        x = LEFT + number * 260
        parts.append(f'<line x1="{x}" x2="{x + 24}" y1="16" y2="16" stroke="{COLOURS[side]}" stroke-width="2"/>')
        parts.append(_text(x + 30, 20, name, 12))
    for number, name in enumerate(names):
        x, y = number % COLUMNS * WIDTH, 30 + number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{panel(name, measures)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def panel(name: str, measures: Sequence[Mapping[str, Any]]) -> str:
    """One measure: its curves, and the numbers on its axes."""
    lines = sorted((line for line in measures if line["name"] == name), key=lambda line: line["jobs"])
    curves = {side: [(line["jobs"], line[side]) for line in lines if line.get(side)] for side in COLOURS}
    values = [value for curve in curves.values() for _, value in curve]
    counts = sorted({line["jobs"] for line in lines})
    title = f"{name.replace('_', ' ')} ({lines[0]['unit']})"
    if not values:
        return _text(LEFT, 18, title, 13)
    across = _scale(counts, LEFT, WIDTH - RIGHT)
    up = _scale(values, HEIGHT - BOTTOM, TOP)
    drawn = [_text(LEFT, 18, title, 13)]
    for value in sorted({min(values), max(values)}):
        y = up(value)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        drawn.append(_text(LEFT - 6, y + 4, f"{value:.3g}", 11, "end"))
    drawn += [_text(across(count), HEIGHT - 14, f"{count:,}", 11, "middle") for count in counts]
    for side, curve in curves.items():
        points = " ".join(f"{across(count):.1f},{up(value):.1f}" for count, value in curve)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[side]}" stroke-width="2"/>')
        drawn += [
            f'<circle cx="{across(count):.1f}" cy="{up(value):.1f}" r="3" fill="{COLOURS[side]}"/>'
            for count, value in curve
        ]
    return "".join(drawn)


def _scale(values: Sequence[float], start: float, end: float) -> Any:
    """A logarithmic axis from the least value to the greatest; one value alone lies in the middle."""
    low, high = math.log(min(values)), math.log(max(values))

    def place(value: float) -> float:
        share = (math.log(value) - low) / (high - low) if high > low else 0.5
        return start + share * (end - start)

    return place


def _text(x: float, y: float, text: str, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222222">{escape(text)}</text>'
    )
