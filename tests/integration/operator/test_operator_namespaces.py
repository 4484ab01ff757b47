"""An operator of some namespaces only: one whose role is gone takes no other's jobs with it."""

from __future__ import annotations

import pytest

from instructbooth.contract import Stage
from tests.integration.operator.bench import Bench, Operator, Rank0
from tests.integration.operator.conftest import add_namespace
from tests.integration.operator.plane import RBAC
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster

P1, R1 = "mascot-personalize-1", "mascot-reinforce-1"
USER = "stranger"  # who has no right but those that are granted here


def allow(bench: Bench) -> None:
    """The chart's Role, in that namespace alone."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": role,
        "subjects": [{"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}],
    }
    bench.plane.request("POST", f"{RBAC}/namespaces/{bench.namespace}/rolebindings", binding)


def forbid(bench: Bench) -> None:
    bench.plane.request("DELETE", f"{RBAC}/namespaces/{bench.namespace}/rolebindings/operator")


@pytest.fixture
def other(bench: Bench) -> Bench:
    return Bench(bench.plane, add_namespace(bench.plane))


def test_a_namespace_that_is_refused_takes_no_other_with_it(bench: Bench, other: Bench, rank0: Rank0) -> None:
    allow(bench)
    namespaces = f"{other.namespace},{bench.namespace}"
    operator = Operator(bench.plane, namespaces, rank0.url, "--resync-seconds=1", user=USER)

    def refused(count: int) -> None:
        line = f"instructbooth_refused_namespaces {float(count)}"
        bench.plane.wait(line, lambda: line in operator.answer("/metrics")[1])

    def attempts(of: Bench) -> list[int]:
        return [stage.attempt for stage in of.status().stages]

    try:
        operator.start()  # the other one was never granted
        refused(1)
        bench.submit()
        other.submit()
        bench.run(P1, 1)

        allow(other)
        other.run(P1, 1)  # nothing but the grant was needed
        refused(0)

        forbid(other)
        refused(1)
        bench.end(P1, 0, success(Stage.PERSONALIZE))
        bench.wait_pods(R1, 2)
        other.end(P1, 0, success(Stage.PERSONALIZE))

        allow(other)
        other.wait_pods(R1, 2)
        for one in (bench, other):
            bench.plane.wait("the status", lambda: attempts(one) == [1, 1, 0])  # noqa: B023 - waits at once
        assert sorted(other.events()) == sorted(bench.events()), "each once, though it was begun anew"
        log = operator.log.read_text()
        assert log.count("beginning anew") == 3
        assert "APIForbiddenError" not in log, "nobody watches what is refused"
        assert operator.process is not None
        assert operator.process.poll() is None
    finally:
        if operator.process is not None:
            operator.process.kill()
        print("\n".join(operator.log.read_text().splitlines()[-60:]))
