"""What a measure is, and the line of JSON that is printed for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measure:
    """One figure of ours beside a peer's and the floor.

    Attributes:
        name: such as `reinforce_images_per_s`.
        unit: of ours, peer and floor.
        ours: our figure; None where it could not be measured.
        peer: the peer's; None where there is none.
        floor: what the network's passes alone come to; None where that means nothing.
        higher_is_better: rates; seconds and memory are the other way round.
        reason: why something is missing.
        more: further numbers of the same measurement.
        versions: of the packages that took part; a peer's have its name before them.
    """

    name: str
    unit: str
    ours: float | None
    peer: float | None = None
    floor: float | None = None
    higher_is_better: bool = True
    reason: str | None = None
    more: Mapping[str, float | str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def better(self, one: float | None, other: float | None) -> float | None:
        """How many times better `one` is than `other`: above 1 is better, whichever way the unit counts."""
        if not one or not other:
            return None
        return one / other if self.higher_is_better else other / one

    def line(self) -> str:
        """One JSON object.

        `ratio` is ours against the peer, or against the floor where no peer was measured; `ours_of_floor` and
        `peer_of_floor` are shares of the floor, 1 where a loop costs nothing beside its network's passes.
        """
        ours_of_floor = self.better(self.ours, self.floor)
        row: dict[str, object] = {
            "name": self.name,
            "ours": rounded(self.ours),
            "peer": rounded(self.peer),
            "floor": rounded(self.floor),
            "ratio": rounded(ours_of_floor if self.peer is None else self.better(self.ours, self.peer)),
            "unit": self.unit,
            "ours_of_floor": rounded(ours_of_floor),
            "peer_of_floor": rounded(self.better(self.peer, self.floor)),
        }
        if self.reason is not None:
            row["reason"] = self.reason
        return json.dumps({**row, **self.more, "versions": dict(self.versions)})


def rounded(value: float | None) -> float | None:
    """Four significant digits, more than any measurement is good for; None for what is no number (JSON has none)."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
