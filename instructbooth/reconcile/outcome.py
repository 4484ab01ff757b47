"""A trainer's last words: the Outcome it writes to the termination message of its pod."""

from __future__ import annotations

import json
import math

from instructbooth.contract import Outcome


def parse_outcome(message: str) -> Outcome | None:
    """The Outcome in a termination message; None if it is something else, such as the tail of a log.

    A process that was killed wrote none; then the kubelet hands over the end of the log (FallbackToLogsOnError).
    """
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("reason"), str):
        return None
    artifact, log = data.get("artifact"), data.get("log")
    metrics = data.get("metrics")
    return Outcome(
        reason=data["reason"],
        message=str(data.get("message", "")),
        artifact=artifact if isinstance(artifact, str) else None,
        metrics=finite(metrics) if isinstance(metrics, dict) else {},
        log=[str(line) for line in log] if isinstance(log, list) else [],
    )


def finite(metrics: dict[str, object]) -> dict[str, float]:
    """The metrics that are finite numbers: JSON, and so the API server, knows neither NaN nor infinity."""
    numbers = {
        str(name): _as_float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
