"""Another version of the operator takes over in the middle of a stage: what runs is left alone, and the job ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from instructbooth.contract import Stage
from tests.integration.operator.bench import START_SECONDS, Bench, Operator, Rank0, pause
from tests.integration.operator.old_operator import MARK
from tests.integration.operator.plane import JsonObject
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster

NODES = {Stage.PERSONALIZE: 1, Stage.REINFORCE: 2, Stage.EVALUATE: 1}
OLD, NEW = "instructbooth/trainer:test", "instructbooth/trainer:new"


@contextmanager
def replicas(bench: Bench, rank0: Rank0) -> Iterator[tuple[Operator, Operator]]:
    """One of the old version, which leads, and one of the new, as in the middle of a rolling upgrade."""
    lease = ("--lease=leader", f"--pod-namespace={bench.namespace}")
    program = (sys.executable, "-m", "tests.integration.operator.old_operator")
    old = Operator(bench.plane, bench.namespace, rank0.url, *lease, name="old", program=program)
    new = Operator(bench.plane, bench.namespace, rank0.url, *lease, f"--trainer-image={NEW}", name="new")
    try:
        old.start()
        new.start()  # ready, though it only stands by
        yield old, new
    finally:
        for process in (old, new):
            if process.process is not None:
                process.kill()


def owned(bench: Bench) -> dict[str, JsonObject]:
    """Everything that the operator made, and the pods."""
    found: dict[str, JsonObject] = {}
    for path in ("api/v1/pods", "api/v1/configmaps", "apis/batch/v1/jobs"):
        version, _, kind = path.rpartition("/")
        for obj in bench.plane.request("GET", f"/{version}/namespaces/{bench.namespace}/{kind}")["items"]:
            if obj["metadata"].get("ownerReferences"):
                found[f"{kind}/{obj['metadata']['name']}"] = obj
    return found


@pytest.mark.parametrize("stage", list(Stage))
def test_what_runs_is_left_alone_by_another_version(bench: Bench, rank0: Rank0, stage: Stage) -> None:
    with replicas(bench, rank0) as (old, new):
        bench.submit()
        upgraded = False
        for each in Stage:
            child = f"mascot-{each.value}-1"
            bench.run(child, NODES[each])
            if each is stage:
                bench.plane.wait("the status", lambda: bench.status().stage == stage.value)
                pause(1)
                before = owned(bench)
                assert old.kill(signal.SIGTERM) == 0
                bench.plane.wait("the new one to lead", lambda: new.metric("instructbooth_leader") == 1, START_SECONDS)
                pause(3)  # whatever it would do to them
                assert owned(bench) == before, "not one of them may have another resourceVersion"
                upgraded = True
            pod = bench.pods(child)[0]["spec"]
            begun = not upgraded or each is stage
            assert pod["containers"][0]["image"] == (OLD if begun else NEW)
            assert (pod["terminationGracePeriodSeconds"] == 7) is begun
            bench.end(child, 0, success(each), count=NODES[each])
        bench.wait_true("Succeeded")
        assert [s.attempt for s in bench.status().stages] == [1, 1, 1]
        assert [s.restarts.failures + s.restarts.disruptions for s in bench.status().stages] == [0, 0, 0]
        reasons = ["StageStarted", "StageSucceeded", "StageStarted", "StageSucceeded", "StageStarted", "Succeeded"]
        bench.plane.wait("the last event", lambda: "Succeeded" in bench.events())
        assert sorted(bench.events()) == sorted(reasons)
        marks = {name: MARK in obj["metadata"]["labels"] for name, obj in bench.children().items()}
        order = list(Stage)
        assert marks == {f"mascot-{each.value}-1": order.index(each) <= order.index(stage) for each in Stage}
