"""What happens to a job in a simulated day, decided by its number alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.operator.install import module_folder
from benchmarks.operator.measures import percentile
from instructbooth.contract import ExitCode
from tests.integration.operator.plane import JsonObject

STAGE_SECONDS, JITTER_SECONDS = 900, 1800  # a stage: a quarter of an hour to three quarters
FAILING, SUCCEEDING = 4, 96  # pods of each hundred
TTL_SECONDS = 3600


@dataclass(frozen=True)
class Fate:
    """What is done to a job: seconds after its creation, None for never."""

    deleted_after: float | None = None
    suspended_after: float | None = None
    resumed_after: float | None = None


def fate(number: int) -> Fate:
    """One job in ten is deleted while it runs, one in ten is suspended for half an hour."""
    dice = random.Random(number)
    after = dice.uniform(60, 5400)
    kind = dice.random()
    if kind < 0.1:
        return Fate(deleted_after=after)
    if kind < 0.2:
        return Fate(suspended_after=after, resumed_after=after + 1800)
    return Fate()


def pod_stages(speed: float) -> list[JsonObject]:
    """KWOK's own quick stages for pods, out of its module; what runs takes its time, and now and then it fails."""
    folder = module_folder("kwok", "sigs.k8s.io/kwok") / "kustomize/stage/pod/fast"
    found = {
        name: yaml.safe_load((folder / f"{name}.yaml").read_text())
        for name in ("pod-ready", "pod-complete", "pod-delete")
    }
    good = found["pod-complete"]
    good["spec"] |= {"weight": SUCCEEDING, "delay": _delay(speed)}
    bad: JsonObject = yaml.safe_load(yaml.safe_dump(good))
    bad["metadata"]["name"] = "pod-fail"
    bad["spec"]["weight"] = FAILING
    text = bad["spec"]["next"]["statusTemplate"]
    for old, new in (
        ("exitCode: 0", f"exitCode: {int(ExitCode.TRANSIENT)}"),
        ("reason: Completed", "reason: Error"),
        ("phase: Succeeded", "phase: Failed"),
    ):
        if old not in text:
            raise ValueError(f"KWOK's pod-complete says no {old!r} any more")
        text = text.replace(old, new)
    bad["spec"]["next"]["statusTemplate"] = text
    return [*found.values(), bad]


def _delay(speed: float) -> dict[str, int]:
    """KWOK waits for at least `duration` and less than `jitterDuration`."""
    return {
        "durationMilliseconds": round(1000 * STAGE_SECONDS / speed),
        "jitterDurationMilliseconds": round(1000 * (STAGE_SECONDS + JITTER_SECONDS) / speed),
    }


def growth(samples: Sequence[dict[str, Any]], field: str) -> float:
    """How much more of something there was in the last quarter of the samples than in the second, by their medians."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return percentile([s[field] for s in late], 0.5) - percentile([s[field] for s in early], 0.5)
