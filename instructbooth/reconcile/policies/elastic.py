"""A stage's minNodes: where there is no room for a whole gang, the next attempt has as many nodes as found one.

Every attempt tries all nodes first, whatever ended the one before: a lost node may be replaced by the time. Only a
verdict of the scheduler, or of a quota, makes a gang smaller, when it has stood for runPolicy.shrinkAfterSeconds.
Nobody is charged: each step is smaller than the last, so that there are at most nodes - minNodes of them between two
attempts that ran.
"""

from __future__ import annotations

from datetime import datetime

from instructbooth.reconcile.observed import ChildJob, Evidence
from instructbooth.reconcile.policies import blocked
from instructbooth.reconcile.policies.retry import NO_ROOM
from instructbooth.spec.job import InstructBoothJobSpec, RunPolicy
from instructbooth.spec.stages import StageBase
from instructbooth.spec.status import Failure, StageStatus


def seconds_left(
    spec: InstructBoothJobSpec, stage: StageStatus, child: ChildJob, evidence: Evidence, now: datetime
) -> float | None:
    """Seconds until the gang is given up for a smaller one (not positive: now); None if it is not to be."""
    least = spec.stage(stage.name).min_nodes
    if least is None or child.parallelism <= least or blocked.refusal(child, evidence) is None:
        return None
    waited = max(0.0, (now - child.released(now)).total_seconds())  # a clock may be behind, by hours
    return spec.run_policy.shrink_after_seconds - waited


def smaller(shape: StageBase, child: ChildJob, evidence: Evidence) -> int:
    """Nodes of the next attempt: as many as pods found a node, within minNodes and one less than now."""
    placed = sum(not pod.unschedulable and not pod.ended and pod.deletion_asked is None for pod in evidence.pods)
    return max(shape.min_nodes or shape.nodes, min(placed, child.parallelism - 1))


def failure(stage: StageStatus, nodes: int, child: ChildJob, evidence: Evidence, policy: RunPolicy) -> Failure:
    """What is written about an attempt that found no room."""
    message = (
        f"no room for {stage.nodes} nodes in {policy.shrink_after_seconds} s (runPolicy.shrinkAfterSeconds): "
        f"{blocked.refusal(child, evidence)}; the next attempt has {nodes}"
    )
    return Failure(attempt=stage.attempt, reason=NO_ROOM, message=message)
