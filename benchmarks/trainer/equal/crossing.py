"""When a curve of alignment first reaches a level. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHED = 3
"""Snapshots in a running mean: a single one carries the noise of its pictures and of the last updates."""


@dataclass(frozen=True)
class Curve:
    """What one side learned.

    Attributes:
        seconds: of the loop up to each snapshot; the first is 0.
        alignment: of each snapshot.
    """

    seconds: list[float]
    alignment: list[float]

    def smooth(self) -> list[float]:
        """Mean of each snapshot with those before it, SMOOTHED at most: it looks at no future."""
        first = (max(0, end - SMOOTHED) for end in range(1, len(self.alignment) + 1))
        return [
            sum(self.alignment[a:b]) / (b - a) for a, b in zip(first, range(1, len(self.alignment) + 1), strict=True)
        ]

    def reaches(self, level: float) -> float | None:
        """Seconds until the running mean is at the level, between snapshots on a straight line; None if never."""
        smooth = self.smooth()
        for number, value in enumerate(smooth):
            if value >= level:
                if not number:
                    return self.seconds[0]
                before, start = smooth[number - 1], self.seconds[number - 1]
                return start + (self.seconds[number] - start) * (level - before) / (value - before)
        return None


def level(curve: Curve, share: float) -> float:
    """The alignment at a share of the way from a curve's start to the best of its running means."""
    start = curve.alignment[0]
    return start + share * (max(curve.smooth()) - start)
