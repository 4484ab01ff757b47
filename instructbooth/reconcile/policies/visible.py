"""Progress as people see it. Only what they would notice is written: a status write costs the API server far more
than a pull costs anybody, and rank 0 has something new to say at every step.
"""

from __future__ import annotations

import math

from instructbooth.contract import REWARD_METRIC, Stage
from instructbooth.spec.job import InstructBoothJobSpec
from instructbooth.spec.status import InstructBoothJobStatus, Progress, StageState, StageStatus

# (up to so many seconds left, rounded up to a multiple of): the longer it takes, the less a second says.
_ETA_STEPS = ((600, 10), (7200, 60), (86400, 600))
_COARSEST_ETA = 3600


def percent(progress: Progress) -> int | None:
    """Whole percents done, rounded down: 100 is only said when it is."""
    return None if progress.total <= 0 else min(100, 100 * progress.step // progress.total)


def duration(seconds: int) -> str:
    """`45s`, `3m10s`, `2h5m`, `3d4h`: the two largest units, as kubectl writes ages."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


def summary(progress: Progress) -> str | None:
    """The PROGRESS column: `42% 3m10s`, `100%`; None where nothing is known."""
    done = percent(progress)
    if done is None:
        return None
    if progress.eta_seconds is None or done == 100:
        return f"{done}%"
    step = next((step for bound, step in _ETA_STEPS if progress.eta_seconds <= bound), _COARSEST_ETA)
    return f"{done}% {duration(math.ceil(progress.eta_seconds / step) * step)}"


def number(value: float) -> str:
    """A number for a column: three significant digits."""
    return f"{value:.3g}"


def merged(old: Progress | None, new: Progress) -> Progress:
    """The new progress if a person would see a difference, else the old one."""
    if old is None:
        return new
    seen = [
        (summary(p), p.total, p.unit, {k: number(v) for k, v in p.metrics.items() if k == REWARD_METRIC})
        for p in (old, new)
    ]
    return old if seen[0] == seen[1] else new


def evaluation_of(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """The evaluation's numbers as a table: `{reinforced/clip-score: 0.3}` becomes `{reinforced: {clip-score: 0.3}}`."""
    table: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        model, _, metric = key.partition("/")
        if metric:
            table.setdefault(model, {})[metric] = value
    return table


def columns(spec: InstructBoothJobSpec, stages: list[StageStatus], status: InstructBoothJobStatus) -> dict[str, object]:
    """The status fields that `kubectl get` shows: stage, progress, reward, and the evaluation's table."""
    reached = [stage for stage in stages if stage.attempt > 0]
    if not reached:
        return {}
    last = reached[-1]
    progress = summary(last.progress) if last.progress else None
    evaluated = stages[-1] if stages[-1].state is StageState.SUCCEEDED else None
    evaluation = evaluation_of(evaluated.metrics) if evaluated else status.evaluation
    reward = next(
        (s.progress.metrics.get(REWARD_METRIC) for s in stages if s.name is Stage.REINFORCE and s.progress), None
    )
    headline = spec.evaluation.headline or spec.evaluation.metrics[0].name
    reward = evaluation.get("reinforced", {}).get(headline, reward)
    return {
        "stage": last.name.value,
        "progress": "100%" if last.state is StageState.SUCCEEDED else progress,
        "reward": status.reward if reward is None else number(reward),
        "evaluation": evaluation,
    }
