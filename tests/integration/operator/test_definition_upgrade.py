"""The definition is upgraded under objects of earlier releases, and under an operator that does not know it yet."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest

from instructbooth.contract import Stage
from instructbooth.crd import CRD_NAME, crd
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import InstructBoothJobStatus, Phase
from tests.integration.operator.bench import MERGE, Bench, Operator, Rank0, pause
from tests.integration.operator.plane import ControlPlane, JsonObject, Refused, running
from tests.releases.releases import Release, releases
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = {"Job": "/apis/batch/v1", "ConfigMap": "/api/v1", "Service": "/api/v1"}
NODES = {Stage.PERSONALIZE: 1, Stage.REINFORCE: 2, Stage.EVALUATE: 1}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose definition is this test's own."""
    with running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


def define(plane: ControlPlane, definition: JsonObject) -> None:
    """Apply a definition, as `helm template ... | kubectl apply --server-side` does, and wait until it is served."""
    applied = plane.apply(f"{CRDS}/{CRD_NAME}", definition)
    generation = applied["metadata"]["generation"]

    def served() -> bool:
        conditions = plane.request("GET", f"{CRDS}/{CRD_NAME}")["status"].get("conditions") or ()
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    plane.wait(f"generation {generation} of the definition", served)
    pause(1)  # the API server takes a new schema up a moment after it is stored


def forget(plane: ControlPlane) -> None:
    """Delete the definition, and with it every job."""
    plane.request("DELETE", f"{CRDS}/{CRD_NAME}")

    def gone() -> bool:
        try:
            plane.request("GET", f"{CRDS}/{CRD_NAME}")
        except Refused as refused:
            return refused.code == 404
        return False

    plane.wait("the definition to go", gone)


def path(bench: Bench, name: str = "") -> str:
    return f"/apis/instructbooth.io/v1alpha1/namespaces/{bench.namespace}/instructboothjobs/{name}".rstrip("/")


def store(bench: Bench, release: Release) -> None:
    """What the release left: its jobs with their statuses, and what belongs to the stages that run."""
    uids, running_now = {}, set()
    for job in deepcopy(release.jobs):
        status, name = job.pop("status", None), job["metadata"]["name"]
        job["metadata"] = {"name": name, "namespace": bench.namespace}
        created = bench.plane.request("POST", f"{path(bench)}?fieldValidation=Strict", job)
        uids[name] = created["metadata"]["uid"]
        if status:
            bench.plane.request("PATCH", f"{path(bench, name)}/status", {"status": status}, MERGE)
            running_now |= {stage.get("jobName") for stage in status["stages"] if stage["state"] == "Running"}
    for child in deepcopy(release.children):
        if child["kind"] == "Job" and child["metadata"]["name"] not in running_now:
            continue
        child["metadata"]["namespace"] = bench.namespace
        for owner in child["metadata"]["ownerReferences"]:
            owner["uid"] = uids[owner["name"]]
        plural = f"{child['kind'].lower()}s"
        bench.plane.request("POST", f"{KINDS[child['kind']]}/namespaces/{bench.namespace}/{plural}", child)


def go_on(bench: Bench, name: str, stage: Stage, attempt: int) -> None:
    """The kubelet ends that attempt of a stage, and runs the stages after it, all well."""
    for each in list(Stage)[list(Stage).index(stage) :]:
        child = f"{name}-{each.value}-{attempt if each is stage else 1}"
        bench.run(child, NODES[each])
        bench.end(child, 0, success(each), count=NODES[each])
    bench.wait_true("Succeeded", name)


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.name)
def test_objects_of_a_release_outlive_the_upgrade(bench: Bench, rank0: Rank0, release: Release) -> None:
    plane = bench.plane
    forget(plane)
    define(plane, release.definition)
    store(bench, release)
    before = {job["metadata"]["name"]: job for job in plane.request("GET", path(bench))["items"]}
    assert before.keys() == {job["metadata"]["name"] for job in release.jobs}

    define(plane, crd())
    plane.wait(
        "a default of the new definition", lambda: "stallTimeoutSeconds" in bench.job("running")["spec"]["runPolicy"]
    )
    for name, old in before.items():
        job = bench.job(name)
        ResolvedJob.from_object(job)  # nothing that this version would not know, nothing that it would refuse
        assert InstructBoothJobStatus.from_object(job) == InstructBoothJobStatus.from_object(old)
        plane.request("PATCH", f"{path(bench, name)}/status", {"status": {"activeSeconds": 0}}, MERGE)
        bench.edit({"metadata": {"labels": {"edited": "true"}}, "spec": {"runPolicy": {"disruptionLimit": 7}}}, name)
        with pytest.raises(Refused, match="cannot be changed after creation"):
            bench.edit({"spec": {"subject": {"identifier": "other"}}}, name)

    children = {name: bench.children()[name] for name in ("running-personalize-1", "again-reinforce-2")}
    finished = {name: bench.job(name)["status"] for name in ("succeeded", "failed")}
    operator = Operator(plane, bench.namespace, rank0.url)
    try:
        operator.start()
        bench.run("running-personalize-1", 1)
        bench.run("again-reinforce-2", 2)
        pause(2)
        for name, child in children.items():
            now = bench.children()[name]
            assert (now["metadata"]["uid"], now["spec"]) == (child["metadata"]["uid"], child["spec"])
        go_on(bench, "running", Stage.PERSONALIZE, 1)
        go_on(bench, "again", Stage.REINFORCE, 2)
        assert [stage.attempt for stage in bench.status("running").stages] == [1, 1, 1]
        assert [stage.attempt for stage in bench.status("again").stages] == [1, 2, 1]
        bench.edit({"spec": {"runPolicy": {"suspend": False}}}, "suspended")
        go_on(bench, "suspended", Stage.PERSONALIZE, 1)
        assert {name: bench.job(name)["status"] for name in finished} == finished
    finally:
        operator.kill()


def test_a_definition_that_is_ahead_of_the_operator_fails_no_job(bench: Bench, rank0: Rank0) -> None:
    """As in each `helm upgrade`: the definition comes first. Its defaults are then in every job, old and new."""
    plane = bench.plane
    define(plane, crd())
    operator = Operator(plane, bench.namespace, rank0.url)
    try:
        operator.start()
        bench.submit("begun")
        bench.run("begun-personalize-1", 1)
        bench.plane.wait("the status", lambda: bench.status("begun").phase is Phase.PERSONALIZING)
        ahead = crd()
        parts = ahead["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        for part in ("personalization", "runPolicy"):
            parts[part]["properties"]["sharpness"] = {"type": "integer", "default": 3}
        define(plane, ahead)
        plane.wait("the new default", lambda: "sharpness" in bench.job("begun")["spec"]["personalization"])
        bench.submit("fresh")
        blocked = bench.wait_true("Blocked", "fresh")
        assert blocked.reason == "NewerDefinition"
        assert "spec.personalization.sharpness" in blocked.message
        go_on(bench, "begun", Stage.PERSONALIZE, 1)
        assert [stage.attempt for stage in bench.status("begun").stages] == [1, 1, 1]
        assert bench.status("fresh").phase is Phase.PENDING
        define(plane, crd())  # the upgrade was taken back
        bench.run("fresh-personalize-1", 1)
    finally:
        operator.kill()
