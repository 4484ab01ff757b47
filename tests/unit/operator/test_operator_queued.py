"""Asking Kueue why a job waits: few requests, and no job that stands still for want of an answer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from instructbooth_operator.errors import ApiError
from instructbooth_operator.resources import IBJ, JOBS, WORKLOADS
from tests.unit.operator.test_operator_reconciler import KEY, P1, Rig
from tests.unit.reconcile.world import job_object

SAID = "insufficient unused quota for cpu in flavor default, 1 more needed"


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.api.put(IBJ, job_object(runPolicy={"queueName": "team"}))
    rig.tell()
    rig.reconcile()
    rig.tell()
    return rig


def queued(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in rig.status()["conditions"] if c["type"] == "Queued")
    return found


def put_workload(rig: Rig) -> None:
    said = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": SAID}
    rig.api.put(WORKLOADS, {"metadata": {"name": "job-1"}, "status": {"conditions": [said]}})


def refused(rig: Rig, status: int, reason: str) -> None:
    def trouble(verb: str, plural: str) -> None:
        if plural == WORKLOADS.plural:
            raise ApiError(status, reason, "no")

    rig.api.trouble = trouble


def test_kueue_s_words_are_read_with_one_list_and_shown(rig: Rig) -> None:
    put_workload(rig)
    before = len(rig.api.requests)
    assert rig.reconcile() is not None  # it asks again
    assert (queued(rig)["reason"], queued(rig)["message"]) == ("Pending", SAID)
    asked = rig.api.requests[before:]
    assert asked[0] == ("list", WORKLOADS.plural, "")
    assert [request[:2] for request in asked if request[1] == WORKLOADS.plural] == [("list", WORKLOADS.plural)]


def test_only_the_child_s_own_workloads_are_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    served = rig.api.list

    def listed(resource: Any, namespace: str | None, **query: str) -> Any:
        seen.append({"plural": resource.plural, "namespace": namespace or "", **query})
        return served(resource, namespace, **query)

    monkeypatch.setattr(rig.api, "list", listed)
    rig.reconcile()
    uid = rig.api.objects[JOBS.plural, P1]["metadata"]["uid"]
    selector = f"kueue.x-k8s.io/job-uid={uid}"
    assert seen == [{"plural": "workloads", "namespace": KEY.namespace, "labelSelector": selector}]


def test_without_kueue_the_job_says_so(rig: Rig) -> None:
    refused(rig, 404, "NotFound")
    rig.reconcile()
    assert queued(rig)["reason"] == "KueueMissing"
    assert "install Kueue" in queued(rig)["message"]


@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden"), (500, "InternalError"), (0, "Unreachable")])
def test_an_operator_that_gets_no_answer_goes_on(
    rig: Rig, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    put_workload(rig)
    rig.reconcile()
    rig.tell()
    refused(rig, status, reason)
    with caplog.at_level(logging.WARNING):
        assert rig.reconcile() is not None
    assert queued(rig)["message"] == SAID  # what is known stays
    assert P1 in caplog.text


def test_an_operator_that_may_not_ask_does_not(rig: Rig) -> None:
    rig.restart(reads_workloads=False)
    put_workload(rig)
    before = len(rig.api.requests)
    rig.reconcile()
    assert len(rig.api.requests) == before
    assert queued(rig)["message"] == "waits for the queue team"


def test_asking_takes_turns_and_the_status_does_not_wait_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.reconciler._asks, "wait", lambda key: 7.0)  # not those of gangs that do not start
    child = rig.api.objects[JOBS.plural, P1]
    child["spec"]["suspend"] = False
    rig.cache.put(rig.api.put(JOBS, child))
    rig.reconcile()
    rig.tell()
    assert rig.status()["phase"] == "Personalizing"
    child = rig.api.objects[JOBS.plural, P1]
    child["spec"]["suspend"] = True  # Kueue makes room
    rig.cache.put(rig.api.put(JOBS, child))
    assert rig.reconcile() == 7.0  # though the status was written
    assert (rig.status()["phase"], queued(rig)["status"]) == ("Queued", "True")
    assert rig.api.count("list", WORKLOADS.plural) == 0
