"""Training curves as inline SVG: nothing to load, sharp at any size."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 28


def line_chart(title: str, values: Sequence[float], unit: str, spread: Sequence[float] | None = None) -> str:
    """One curve as an <svg> element.

    Args:
        title: shown above.
        values: one per step, at least one.
        unit: what the horizontal axis counts.
        spread: half height of a band around the curve, one per step.
    """
    band = spread or [0.0] * len(values)
    low = min(v - s for v, s in zip(values, band, strict=True))
    high = max(v + s for v, s in zip(values, band, strict=True))
    span = (high - low) or 1.0
    last = max(len(values) - 1, 1)

    def point(step: int, value: float) -> str:
        x = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def path(points: Sequence[str]) -> str:
        return " ".join(points)

    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
        for value in (low, low + span / 2, low + span)
        for y in [HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - TOP - BOTTOM)]
    )
    area = ""
    if spread is not None:
        upper = [point(i, v + s) for i, (v, s) in enumerate(zip(values, spread, strict=True))]
        lower = [point(i, v - s) for i, (v, s) in enumerate(zip(values, spread, strict=True))]
        area = f'<polygon class="band" points="{path([*upper, *reversed(lower)])}"/>'
    line = f'<polyline class="curve" points="{path([point(i, v) for i, v in enumerate(values)])}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>{ticks}{area}{line}'
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 8}">1</text>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">'
        f"{len(values)} {escape(unit)}</text></svg>"
    )


def number(value: float) -> str:
    """A tick's label: three significant digits."""
    return f"{value:.3g}"
