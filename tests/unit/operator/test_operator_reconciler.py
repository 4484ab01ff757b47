"""The reconciler when the cache is stale, events are lost and the API server says no."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from copy import deepcopy
from typing import Any

import pytest

from instructbooth.contract import CONTAINER
from instructbooth.reconcile.actions import Look
from instructbooth.reconcile.observed import COMPLETION_INDEX
from instructbooth.reconcile.policies.blocked import UNBEGUN_SECONDS
from instructbooth_operator import resync as resyncs
from instructbooth_operator.cache import Cache, Key, job_key
from instructbooth_operator.carry_out import Hands
from instructbooth_operator.errors import ApiError, StillThere
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.lookout import Lookout
from instructbooth_operator.looks import JOB_NAME
from instructbooth_operator.observe import Observer
from instructbooth_operator.progress import ProgressPuller
from instructbooth_operator.reconciler import SETTLE_SECONDS, TRIES_TO_TELL, Reconciler
from instructbooth_operator.resources import CONFIG_MAPS, EVENTS, IBJ, JOBS, PODS
from instructbooth_operator.resync import Resync
from instructbooth_operator.workqueue import WorkQueue
from tests.unit.operator.fake_api import TIME, FakeApi
from tests.unit.reconcile.world import DEFAULTS, START, job_object

KEY = Key("lab", "mascot")
P1, P2 = "mascot-personalize-1", "mascot-personalize-2"


class Rig:
    """An operator without processes and watches. What the test does not tell its cache, it does not know."""

    def __init__(self) -> None:
        self.api, self.cache, self.queue = FakeApi(), Cache(), WorkQueue[Key]()
        self.freshness = Freshness()
        self.api.put(IBJ, job_object())
        self.restart()

    def restart(self, reads_workloads: bool = True) -> None:
        observer = Observer(self.api, self.cache, lambda: START, reads_workloads)  # type: ignore[arg-type]
        self.lookout = Lookout(
            observer.evidence_of_all, starting=observer.starting, begun=self.cache.begun, done=self.queue.add
        )
        self.reconciler = Reconciler(
            queue=self.queue,
            cache=self.cache,
            observer=observer,
            lookout=self.lookout,
            hands=Hands(self.api, self.cache, self.freshness),  # type: ignore[arg-type]
            puller=ProgressPuller("", 5, observer.addresses, lambda key: None),
            defaults=DEFAULTS,
            doubtful={job_key(job): job["metadata"]["uid"] for job in self.cache.jobs()},
        )

    def resync(self) -> Resync:
        return Resync(
            api=self.api,  # type: ignore[arg-type]
            cache=self.cache,
            queue=self.queue,
            freshness=self.freshness,
            namespaces=(),
        )

    def run(self, scenario: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(scenario, 30))

    def replace(self) -> None:
        """Another operator, to which no watch has told of any child."""
        self.cache = Cache()
        self.tell()
        self.restart()

    def tell(self) -> None:
        """What a watch would: the job as it is now."""
        self.cache.put(deepcopy(self.api.objects[IBJ.plural, "mascot"]))

    def reconcile(self) -> float | None:
        """A pass, and another one if it asked for a look."""

        async def passes() -> float | None:
            again = await self.reconciler.reconcile(KEY)
            if not await self.lookout.look():
                return again
            self.queue.done(await self.queue.get())
            return await self.reconciler.reconcile(KEY)

        return asyncio.run(passes())

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.api.objects[IBJ.plural, "mascot"].get("status", {})
        return status

    def events(self) -> list[dict[str, Any]]:
        return [self.api.objects[EVENTS.plural, name] for name in self.api.names(EVENTS)]

    def fails(self, *verbs: tuple[str, str], error: Exception) -> None:
        """The next request of that kind gets an error; the others are served."""
        left = list(verbs)

        def trouble(verb: str, plural: str) -> None:
            if (verb, plural) in left:
                left.remove((verb, plural))
                raise error

        self.api.trouble = trouble


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.tell()
    return rig


def test_the_first_pass_creates_and_writes_and_tells(rig: Rig) -> None:
    rig.reconcile()
    assert rig.api.names(CONFIG_MAPS) == ["mascot-spec"]
    assert rig.api.names(JOBS) == [P1]
    assert rig.status()["phase"] == "Personalizing"
    assert len(rig.api.names(EVENTS)) == 1
    before = len(rig.api.requests)
    rig.reconcile()
    assert len(rig.api.requests) == before, "nothing happened, and something was asked"


def test_a_stale_job_starts_no_second_gang(rig: Rig) -> None:
    """The cache shows a job without status; in truth its first gang has come and gone and the second one runs."""
    stale = deepcopy(rig.api.objects[IBJ.plural, "mascot"])
    rig.reconcile()
    stage = {"name": "personalize", "state": "Running", "attempt": 2, "jobName": P2, "restarts": {"failures": 1}}
    job = deepcopy(rig.api.objects[IBJ.plural, "mascot"])
    job["status"]["stages"][0] = stage
    rig.api.put(IBJ, job)
    first = rig.api.objects.pop((JOBS.plural, P1))
    first["metadata"] |= {"name": P2, "uid": "second"}
    first["metadata"]["labels"]["instructbooth.io/attempt"] = "2"
    rig.api.put(JOBS, first)
    rig.cache = Cache()
    rig.cache.put(stale)
    rig.restart()
    rig.reconcile()
    assert rig.api.names(JOBS) == [P2]
    assert rig.status()["stages"][0]["attempt"] == 2


def test_a_child_whose_event_was_lost_is_asked_for(rig: Rig) -> None:
    rig.reconcile()
    rig.replace()
    rig.reconcile()
    assert rig.api.names(JOBS) == [P1]
    assert rig.status()["stages"][0]["restarts"] == {"failures": 0, "disruptions": 0}


def test_a_status_is_not_written_over_somebody_else_s(rig: Rig) -> None:
    rig.reconcile()
    job = deepcopy(rig.api.objects[IBJ.plural, "mascot"])
    job["status"]["phase"] = "Failed"
    job["status"]["conditions"].append(
        {"type": "Failed", "status": "True", "reason": "Other", "lastTransitionTime": "2026-11-23T09:00:00Z"}
    )
    rig.api.put(IBJ, job)
    child = deepcopy(rig.api.objects[JOBS.plural, P1])
    child["spec"]["suspend"] = False
    child["status"] = {"ready": 1, "conditions": []}
    rig.cache.put(rig.api.put(JOBS, child))
    rig.cache.put(deepcopy(rig.cache.job(KEY)) | {"status": {}})  # type: ignore[operator]
    with pytest.raises(ApiError) as raised:
        rig.reconcile()
    assert raised.value.conflict
    before = len(rig.api.requests)
    rig.reconcile()  # it knows the truth now, and leaves a finished job alone
    assert rig.status()["phase"] == "Failed"
    assert [verb for verb, _, _ in rig.api.requests[before:]] == ["get", "delete"]


@pytest.mark.parametrize("number", range(4))
def test_after_any_failed_write_the_next_pass_goes_on(rig: Rig, number: int) -> None:
    writes = [("create", "configmaps"), ("create", "jobs")]
    writes += [("patch", "instructboothjobs"), ("create", "events")]
    rig.fails(writes[number], error=ApiError(500, "InternalError", "etcd is away"))
    with pytest.raises(ApiError):
        rig.reconcile()
    rig.tell()
    rig.reconcile()
    assert rig.api.names(JOBS) == [P1]
    assert rig.status()["stages"][0]["attempt"] == 1
    assert [obj["reason"] for obj in rig.events()] == ["StageStarted"]


def test_an_event_is_told_once_whatever_happens_before_the_status_is_written(rig: Rig) -> None:
    rig.fails(("patch", "instructboothjobs"), error=ApiError(0, "Unreachable", "killed here"))
    with pytest.raises(ApiError):
        rig.reconcile()
    edited = rig.api.objects[IBJ.plural, "mascot"]
    edited["metadata"]["labels"] = {"team": "blue"}  # a new resourceVersion, the same status
    rig.api.put(IBJ, edited)
    rig.replace()
    rig.reconcile()
    assert [obj["reason"] for obj in rig.events()] == ["StageStarted"]


@pytest.mark.parametrize(
    ("error", "passes"), [(ApiError(403, "Forbidden", "no"), 1), (ApiError(500, "InternalError", "no"), 6)]
)
def test_no_job_waits_long_for_its_events(rig: Rig, error: ApiError, passes: int) -> None:
    def trouble(verb: str, plural: str) -> None:
        if plural == "events":
            raise error

    async def scenario() -> None:
        rig.api.trouble = trouble
        rig.queue.add(KEY)
        work = asyncio.create_task(rig.reconciler.work())
        while "stages" not in rig.status():
            await asyncio.sleep(0)
            for key in list(rig.queue._timers):  # time flies
                rig.queue.add(key)
        work.cancel()

    rig.run(scenario())
    assert rig.status()["stages"][0]["attempt"] == 1
    assert rig.api.count("create", "events") == passes


def test_a_child_of_an_earlier_life_is_waited_for(rig: Rig) -> None:
    rig.reconcile()
    for obj in rig.api.objects.values():
        for owner in obj["metadata"].get("ownerReferences", ()):
            owner["uid"] = "an earlier life"
    rig.api.put(IBJ, job_object() | {"status": {}})
    rig.replace()
    with pytest.raises(StillThere, match="earlier mascot"):
        rig.reconcile()


def test_what_an_earlier_pass_created_is_found_by_its_name(rig: Rig) -> None:
    """The operator was killed after each create and before the status: nothing is created twice, nothing is refused."""
    rig.fails(("patch", "instructboothjobs"), error=RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        rig.reconcile()
    rig.replace()
    rig.reconcile()
    assert rig.api.names(JOBS) == [P1]
    assert rig.status()["stages"][0]["jobName"] == P1


def test_a_name_that_is_free_again_is_tried_again(rig: Rig) -> None:
    rig.fails(("create", "jobs"), error=ApiError(409, "AlreadyExists", "it is being deleted"))
    with pytest.raises(ApiError) as raised:
        rig.reconcile()
    assert raised.value.conflict
    rig.reconcile()
    assert rig.api.names(JOBS) == [P1]


def test_a_stranger_s_snapshot_is_left_alone(rig: Rig) -> None:
    meta = {"name": "mascot-spec", "namespace": "lab"}
    rig.api.put(CONFIG_MAPS, {"kind": "ConfigMap", "metadata": meta, "data": {"x": "1"}})
    rig.reconcile()
    assert rig.api.objects[CONFIG_MAPS.plural, "mascot-spec"]["data"] == {"x": "1"}
    assert rig.api.names(JOBS) == []
    blocked = next(c for c in rig.status()["conditions"] if c["type"] == "Blocked")
    assert blocked["reason"] == "NameTaken"


def _ends(rig: Rig, child: str, condition: str) -> None:
    """The watch shows that a gang has ended."""
    obj = deepcopy(rig.api.objects[JOBS.plural, child])
    obj["status"] = {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": TIME}]}
    rig.cache.put(rig.api.put(JOBS, obj))


def test_on_the_way_of_success_nothing_is_read_but_how_the_gang_ended(rig: Rig) -> None:
    rig.reconcile()
    _ends(rig, P1, "Complete")
    _pod(rig, "Succeeded", node="gpu-1")
    before = len(rig.api.requests)
    rig.reconcile()
    asked = [(verb, plural) for verb, plural, _ in rig.api.requests[before:]]
    events = [("create", "events")] * 2
    assert asked == [("list", "pods"), ("create", "jobs"), *events, ("patch", "instructboothjobs")]


def test_a_second_attempt_brings_back_a_snapshot_that_somebody_deleted(rig: Rig) -> None:
    rig.reconcile()
    del rig.api.objects[CONFIG_MAPS.plural, "mascot-spec"]
    del rig.api.objects[JOBS.plural, P1]
    rig.cache.remove(rig.cache.children(KEY, "0a1b2c3d")[0])  # somebody deleted the gang as well: that is a restart
    rig.reconcile()
    before = len(rig.api.requests)
    rig.reconcile()
    assert rig.api.names(CONFIG_MAPS) == ["mascot-spec"]
    assert rig.api.names(JOBS) == [P2]
    created = [plural for verb, plural, _ in rig.api.requests[before:] if verb == "create"]
    assert created == ["configmaps", "jobs"]


def test_a_job_that_this_process_has_not_written_is_read_before_a_gang_is_started(rig: Rig) -> None:
    rig.reconcile()
    rig.restart()
    _ends(rig, P1, "Complete")
    before = len(rig.api.requests)
    rig.reconcile()
    assert ("get", "instructboothjobs", "mascot") in rig.api.requests[before:]


def test_a_job_that_came_after_this_process_took_over_is_nobody_else_s(rig: Rig) -> None:
    rig.cache = Cache()
    rig.restart()
    rig.tell()
    rig.reconcile()
    assert rig.status()["phase"] == "Personalizing"
    assert rig.api.count("get", IBJ.plural) == 0


def test_a_job_made_again_under_the_same_name_is_as_new_as_any(rig: Rig) -> None:
    rig.restart()
    rig.api.objects[IBJ.plural, "mascot"]["metadata"] |= {"uid": "another", "resourceVersion": "999"}
    rig.tell()
    rig.reconcile()
    assert (rig.status()["phase"], rig.api.count("get", IBJ.plural)) == ("Personalizing", 0)


def test_a_job_that_is_gone_is_forgotten_as_a_doubt(rig: Rig) -> None:
    rig.restart()
    rig.cache.remove(rig.api.objects.pop((IBJ.plural, "mascot")))
    assert rig.reconcile() is None
    assert rig.reconciler._doubtful == {}


def test_once_written_a_job_is_not_read_again_before_a_gang_is_started(rig: Rig) -> None:
    rig.restart()
    rig.reconcile()
    assert rig.api.count("get", IBJ.plural) == 1
    _ends(rig, P1, "Complete")
    rig.reconcile()
    assert (rig.api.names(JOBS), rig.api.count("get", IBJ.plural)) == ([P1, "mascot-reinforce-1"], 1)


def test_bad_news_is_decided_on_the_job_as_it_is(rig: Rig) -> None:
    """Also of a job that only this process has written: whoever edits it may have been faster than the watch."""
    rig.reconcile()
    _ends(rig, P1, "Failed")
    rig.reconcile()
    assert rig.api.count("get", IBJ.plural) == 1


@pytest.mark.parametrize("error", [ApiError(0, "Unreachable", "the answer was lost"), ValueError("it was cut off")])
def test_a_write_of_which_nobody_knows_whether_it_came_through_is_found_out_about(rig: Rig, error: Exception) -> None:
    rig.fails(("patch", IBJ.plural), error=error)
    with pytest.raises(type(error)):
        rig.reconcile()
    assert rig.api.count("get", IBJ.plural) == 0
    rig.reconcile()
    assert rig.api.count("get", IBJ.plural) == 1
    _ends(rig, P1, "Complete")
    rig.reconcile()
    assert rig.api.count("get", IBJ.plural) == 1, "it was written since"


def test_no_good_news_is_told_twice_when_an_earlier_process_s_write_comes_late(rig: Rig) -> None:
    """It started the last stage and died; its status arrives after its successor has looked at the job."""
    rig.reconcile()
    _ends(rig, P1, "Complete")
    rig.reconcile()
    before = deepcopy(rig.api.objects[IBJ.plural, "mascot"])
    _ends(rig, "mascot-reinforce-1", "Complete")
    rig.reconcile()
    late = deepcopy(rig.api.objects[IBJ.plural, "mascot"])
    rig.api.put(IBJ, before)
    rig.tell()
    rig.restart()
    rig.api.put(IBJ, late)
    _ends(rig, "mascot-evaluate-1", "Complete")
    with contextlib.suppress(ApiError):
        rig.reconcile()
    rig.reconcile()
    assert [obj["reason"] for obj in rig.events()].count("Succeeded") == 1


def test_a_pass_that_had_news_is_followed_by_another(rig: Rig) -> None:
    """What its own answers brought along wakes nobody. Of what it has just made there is no news."""
    assert rig.reconcile() == UNBEGUN_SECONDS, "it is told when the gang begins, and looks then whether its pods start"
    rig.replace()
    rig.api.objects[IBJ.plural, "mascot"]["status"] = {}
    rig.tell()
    assert rig.reconcile() == SETTLE_SECONDS, "the gang was there, whatever has become of it"
    _ends(rig, P1, "Complete")
    rig.reconcile()
    _ends(rig, "mascot-reinforce-1", "Complete")
    rig.reconcile()
    _ends(rig, "mascot-evaluate-1", "Complete")
    assert rig.reconcile() == 0.0
    assert rig.reconcile() is None


def test_an_event_that_was_posted_before_is_no_error(rig: Rig) -> None:
    rig.fails(("create", "events"), error=ApiError(409, "AlreadyExists", "posted"))
    rig.reconcile()


def test_a_conflict_that_is_not_about_the_name_is_no_proof_that_an_event_was_posted(rig: Rig) -> None:
    message = 'Operation cannot be fulfilled on resourcequotas "team": the object has been modified'
    rig.fails(("create", "events"), error=ApiError(409, "Conflict", message))
    with pytest.raises(ApiError):
        rig.reconcile()
    rig.reconcile()
    assert [obj["reason"] for obj in rig.events()] == ["StageStarted"]


def test_the_server_s_wish_to_wait_is_granted(rig: Rig) -> None:
    async def scenario() -> float:
        rig.fails(("create", "jobs"), error=ApiError(429, "TooManyRequests", "slow down", retry_after=7))
        rig.queue.add(KEY)
        work = asyncio.create_task(rig.reconciler.work())
        while not rig.queue._timers:
            await asyncio.sleep(0)
        work.cancel()
        return rig.queue._timers[KEY].when() - asyncio.get_running_loop().time()

    assert rig.run(scenario()) == pytest.approx(7, abs=1)


def test_one_job_s_trouble_does_not_end_the_worker(rig: Rig) -> None:
    async def scenario() -> None:
        rig.fails(("create", "jobs"), error=RuntimeError("a bug"))
        rig.queue.add(KEY)
        work = asyncio.create_task(rig.reconciler.work())
        while not rig.queue._timers:
            await asyncio.sleep(0)
        rig.queue.add(KEY)
        while rig.api.names(JOBS) != [P1]:
            await asyncio.sleep(0)
        work.cancel()

    rig.run(scenario())


def test_a_full_list_heals_what_the_watch_lost(rig: Rig) -> None:
    async def scenario() -> None:
        resync = rig.resync()
        await rig.reconciler.reconcile(KEY)
        await resync.prime()
        assert resync.primed
        assert len(rig.queue) == 0  # nothing new
        del rig.api.objects[JOBS.plural, P1]  # and its event is lost
        await resync.compare()
        assert await rig.queue.get() == KEY
        assert rig.cache.children(KEY, "0a1b2c3d") == []

    rig.run(scenario())


def _waiting(rig: Rig, node: str) -> None:
    """A gang of one pod that has been pending for longer than any pod needs."""
    asyncio.run(rig.reconciler.reconcile(KEY))
    first = deepcopy(rig.api.objects[JOBS.plural, P1])
    first["metadata"]["creationTimestamp"] = "2026-11-23T08:00:00Z"
    first["status"] = {"active": 1, "startTime": "2026-11-23T08:00:00Z"}
    rig.cache.put(rig.api.put(JOBS, first))
    _pod(rig, "Pending", node)


def _pod(rig: Rig, phase: str, node: str, why: str = "", said: dict[str, str] | None = None) -> None:
    spec = {"nodeName": node} if node else {}
    meta = {"name": f"{P1}-0-x", "namespace": "lab", "labels": {JOB_NAME: P1}, "annotations": {COMPLETION_INDEX: "0"}}
    status: dict[str, Any] = {"phase": phase}
    if why:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        status["conditions"] = [condition]
    if said:
        ended = {"exitCode": 0, "message": json.dumps(said)}
        status["containerStatuses"] = [{"name": CONTAINER, "state": {"terminated": ended}}]
    rig.api.put(PODS, {"metadata": meta, "spec": spec, "status": status})


def test_a_gang_that_waits_is_looked_at_when_its_turn_comes(rig: Rig) -> None:
    _waiting(rig, node="")
    _pod(rig, "Pending", node="", why="0/3 nodes are available")

    async def scenario() -> None:
        assert await rig.reconciler.reconcile(KEY) is None
        assert rig.api.count("list", "pods") == 0, "its turn has not come"
        await rig.lookout.look()
        assert await rig.queue.get() == KEY
        assert await rig.reconciler.reconcile(KEY) is None, "nor does time alone change anything"
        assert "0/3 nodes are available" in rig.status()["conditions"][-1]["message"]
        assert await rig.lookout.look() == 0.0, "it asked once"
        assert rig.api.count("list", "pods") == 1

    rig.run(scenario())


def test_a_gang_that_finds_no_node_costs_no_pass_until_it_does(rig: Rig) -> None:
    _waiting(rig, node="")
    _pod(rig, "Pending", node="", why="0/3 nodes are available")

    async def scenario() -> None:
        await rig.reconciler.reconcile(KEY)
        await rig.lookout.look()
        await rig.queue.get()
        await rig.reconciler.reconcile(KEY)
        rig.queue.done(KEY)
        before = list(rig.api.requests)
        rig.lookout.ask(KEY, Look(P1, unplaced=True))  # its time has come
        await rig.lookout.look()
        assert len(rig.queue) == 0
        assert rig.api.requests[len(before) :] == [("list", "pods", "")]
        _pod(rig, "Pending", node="gpu-1")
        await rig.lookout.glance("lab")
        await rig.lookout.look()
        assert await rig.queue.get() == KEY
        await rig.reconciler.reconcile(KEY)
        assert rig.status()["conditions"][-1]["status"] == "False", "it is blocked no more"

    rig.run(scenario())


@pytest.mark.parametrize("looked", [False, True], ids=["asked to be looked at", "was looked at before"])
def test_how_a_gang_ended_is_seen_at_once_and_by_no_earlier_look(rig: Rig, looked: bool) -> None:
    _waiting(rig, node="gpu-1")

    async def scenario() -> None:
        await rig.reconciler.reconcile(KEY)
        if looked:
            await rig.lookout.look()  # it still waits: of how it ends the pod says nothing yet
            await rig.queue.get()
        _pod(rig, "Succeeded", node="gpu-1", said={"reason": "Succeeded", "artifact": "s3://bucket/lora"})
        first = deepcopy(rig.api.objects[JOBS.plural, P1])
        first["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": TIME}]}
        rig.cache.put(rig.api.put(JOBS, first))
        await rig.reconciler.reconcile(KEY)
        stage = rig.status()["stages"][0]
        assert (stage["state"], stage["artifact"]) == ("Succeeded", "s3://bucket/lora")
        assert rig.api.count("list", "pods") == 1 + looked
        assert await rig.lookout.look() == 0.0, "it needs no look any more"

    rig.run(scenario())


def test_an_event_of_a_gang_that_waits_is_given_up_like_any_other(rig: Rig) -> None:
    """Each try needs a look of its own, and the pass that only asks for it is no success."""
    _waiting(rig, node="gpu-1")
    waits = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    pod = deepcopy(rig.api.objects[PODS.plural, f"{P1}-0-x"])
    pod["status"]["containerStatuses"] = [{"name": CONTAINER, "state": waits}]
    rig.api.put(PODS, pod)

    def trouble(verb: str, plural: str) -> None:
        if (verb, plural) == ("create", "events"):
            raise ApiError(500, "InternalError", "the webhook is down")

    async def scenario() -> None:
        rig.api.trouble = trouble
        work = asyncio.create_task(rig.reconciler.work())
        rig.queue.add(KEY)
        while not any(condition["type"] == "Blocked" for condition in rig.status()["conditions"]):
            await asyncio.sleep(0.001)
            await rig.lookout.look()
            rig.queue.add(KEY)  # nobody waits for the time of the next try
        work.cancel()
        assert rig.api.count("create", "events") == 2 + TRIES_TO_TELL

    rig.run(scenario())


def test_a_gang_that_ends_while_a_look_is_under_way_is_seen_again(rig: Rig) -> None:
    """The answer of the first look was made before it ended, and arrives after it."""
    _waiting(rig, node="gpu-1")

    def ends(verb: str, plural: str) -> None:
        if (verb, plural) == ("list", "pods") and rig.api.count("list", "pods") == 1:
            first = deepcopy(rig.api.objects[JOBS.plural, P1])
            first["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": TIME}]}
            rig.cache.put(rig.api.put(JOBS, first))

    rig.api.trouble = ends
    rig.reconcile()
    assert rig.api.count("list", "pods") == 2
    assert rig.status()["stages"][0]["state"] == "Succeeded"


@pytest.mark.parametrize(("lag", "fails", "rarer"), [(0.0, False, True), (100.0, False, False), (0.0, True, False)])
def test_full_lists_are_rarer_where_one_takes_long(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, lag: float, fails: bool, rarer: bool
) -> None:
    monkeypatch.setattr(resyncs, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(resyncs, "SUSPICIOUS_SECONDS", 0.02)
    monkeypatch.setattr(resyncs, "LONG_SECONDS", 0.05)
    monkeypatch.setattr(resyncs, "SHARE", 1e-6)
    monkeypatch.setattr(rig.freshness, "lag", lambda: lag)
    resync = rig.resync()
    compared: list[int] = []
    often = asyncio.Event()

    async def compare() -> None:
        compared.append(1)
        if len(compared) == 3:
            often.set()
        await asyncio.sleep(0.1)
        if fails:
            raise ApiError(500, "InternalError", "no")

    monkeypatch.setattr(resync, "compare", compare)

    async def scenario() -> None:
        running = asyncio.create_task(resync.run(0.02))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(often.wait(), 1.0 if rarer else 30.0)
        running.cancel()

    rig.run(scenario())
    assert (len(compared) == 1) if rarer else (len(compared) == 3)


@pytest.mark.parametrize(("node", "lists"), [("", 0), ("gpu-1", 1)])
def test_events_are_read_only_of_pods_that_have_a_node(rig: Rig, node: str, lists: int) -> None:
    _waiting(rig, node)
    rig.reconcile()
    assert rig.api.count("list", "events") == lists


def test_rank_0_is_where_its_pod_is_that_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(name: str, rank: str, address: str, phase: str = "Running", **meta: Any) -> None:
        index = {COMPLETION_INDEX: rank}
        metadata = {"name": name, "namespace": "lab", "labels": {JOB_NAME: P1, **index}, "annotations": index, **meta}
        rig.api.put(PODS, {"kind": "Pod", "metadata": metadata, "status": {"phase": phase, "podIP": address}})

    selectors = []
    served = rig.api.list

    def listed(resource: Any, namespace: str | None, **query: str) -> Any:
        selectors.append(query["labelSelector"])
        return served(resource, namespace, **query)

    monkeypatch.setattr(rig.api, "list", listed)
    put("other-rank", "1", "10.0.0.1")
    put("old", "0", "10.0.0.2", deletionTimestamp=TIME)  # the gang was suspended, and goes on
    put("ended", "0", "10.0.0.3", phase="Failed")
    observer = Observer(rig.api, rig.cache)  # type: ignore[arg-type]
    assert rig.run(observer.addresses("lab", [P1, P2])) == {}
    put("new", "0", "10.0.0.4")
    put("newest", "0", "")
    assert rig.run(observer.addresses("lab", [P1, P2])) == {P1: "10.0.0.4"}
    assert selectors == [f"{JOB_NAME} in ({P1},{P2}),{COMPLETION_INDEX}=0"] * 2


def test_a_gang_that_admission_holds_back_is_looked_at_soon(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    create = rig.api.create

    async def held_back(resource: Any, manifest: dict[str, Any]) -> dict[str, Any]:
        if resource is JOBS:
            manifest = deepcopy(manifest)
            manifest["spec"]["suspend"] = True
        return await create(resource, manifest)

    monkeypatch.setattr(rig.api, "create", held_back)
    assert rig.reconcile() == SETTLE_SECONDS


def test_workers_let_others_live_however_many_jobs_there_are_to_look_at(rig: Rig) -> None:
    """A pass that finds nothing to do waits for nothing: thousands of them must not keep the Lease from renewal."""
    keys = [Key("lab", f"gone-{number}") for number in range(500)]

    async def scenario() -> int:
        turns = 0
        for key in keys:
            rig.queue.add(key)
        worker = asyncio.create_task(rig.reconciler.work())
        while len(rig.queue) or not turns:
            turns += 1
            await asyncio.sleep(0)
        worker.cancel()
        return turns

    assert rig.run(scenario()) >= len(keys)
