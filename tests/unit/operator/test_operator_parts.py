"""Queue, cache, freshness, rate: what the operator is made of, without a cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from instructbooth.contract import API_VERSION, KIND
from instructbooth_operator.api import RateLimit, proxy_of_environment
from instructbooth_operator.cache import Cache, Key
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.turns import Turns
from instructbooth_operator.watches import take_in
from instructbooth_operator.workqueue import WorkQueue

KEY = Key("lab", "mascot")


def ibj(number: int, uid: str = "u1", **status: Any) -> dict[str, Any]:
    meta = {"namespace": "lab", "name": "mascot", "uid": uid, "resourceVersion": str(number), "managedFields": [1]}
    return {"kind": KIND, "metadata": meta, "spec": {"model": {}}, "status": status}


def child(number: int, owner_uid: str = "u1", name: str = "mascot-personalize-1", uid: str = "c1") -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": "mascot", "uid": owner_uid, "controller": True}
    meta = {"namespace": "lab", "name": name, "uid": uid, "resourceVersion": str(number), "ownerReferences": [owner]}
    return {"kind": "Job", "metadata": meta, "spec": {"parallelism": 1, "template": {}}, "status": {"active": number}}


def test_a_key_is_in_the_queue_once() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        assert len(queue) == 0

    asyncio.run(scenario())


def test_a_key_has_one_worker_at_a_time_and_nothing_is_lost() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        queue.add("a")
        await queue.get()
        queue.add("a")  # while it is worked on
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert len(queue) == 1
        await queue.get()
        queue.done("a")
        assert len(queue) == 0

    asyncio.run(scenario())


def test_of_several_delays_the_earliest_counts() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        queue.add("a", after=60)
        queue.add("a", after=0.01)
        queue.add("a", after=60)
        assert await asyncio.wait_for(queue.get(), 5) == "a"
        queue.done("a")
        assert not queue._timers

    asyncio.run(scenario())


def test_work_on_a_key_cancels_its_timer() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        queue.add("a", after=60)
        queue.add("a")
        await queue.get()
        queue.done("a")
        assert not queue._timers

    asyncio.run(scenario())


def test_the_newest_version_wins_whoever_brings_it() -> None:
    cache = Cache()
    assert cache.put(ibj(10, phase="Reinforcing")) == KEY
    cache.put(ibj(9, phase="Pending"))  # the watch's late echo
    known = cache.job(KEY)
    assert known is not None
    assert known["status"]["phase"] == "Reinforcing"
    assert "managedFields" not in known["metadata"]


def test_only_what_is_new_wakes_anybody() -> None:
    cache = Cache()
    assert cache.put(ibj(10, phase="Pending")) == KEY
    assert cache.put(ibj(10, phase="Pending")) is None, "the echo of an own write"
    assert cache.put(ibj(11, phase="Pending")) is None, "somebody's annotation"
    assert cache.put(ibj(12, phase="Reinforcing")) == KEY
    assert cache.put(child(13)) == KEY
    noted = child(14)
    noted["status"] = {"active": 13, "uncountedTerminatedPods": {}}
    assert cache.put(noted) is None, "the Job controller's notes to itself"
    known = cache.known(noted)
    assert known is not None
    assert known["metadata"]["resourceVersion"] == "14"


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        ({"active": 2}, {"active": 2, "startTime": "2026-11-24T10:00:00Z"}, True),  # its pods come
        ({"active": 2}, {"active": 2, "ready": 1}, False),
        ({"ready": 1}, {"ready": 2}, True),  # the gang is whole
        ({"ready": 2}, {"ready": 1, "succeeded": 1}, False),
        ({"ready": 2}, {"ready": 1}, True),  # it is whole no more
        ({"ready": 2}, {"ready": 2, "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}, False),
        ({"ready": 2}, {"ready": 2, "conditions": [{"type": "Complete", "status": "True"}]}, True),
        ({"ready": 2}, {"ready": 2, "conditions": [{"type": "FailureTarget", "status": "True"}]}, True),
        ({"ready": 2}, {"ready": 2, "conditions": [{"type": "Failed", "status": "True"}]}, True),
    ],
)
def test_of_a_gang_it_is_news_that_it_begins_whether_it_is_whole_and_how_it_ended(
    before: dict[str, Any], after: dict[str, Any], news: bool
) -> None:
    cache = Cache()
    cache.put(child(1) | {"spec": {"parallelism": 2}, "status": before})
    later = child(2) | {"spec": {"parallelism": 2}, "status": after}
    assert cache.put(later) == (KEY if news else None)
    known = cache.known(later)
    assert known is not None
    assert known["status"] == after, "whoever looks sees it all the same"


@pytest.mark.parametrize("change", [{"parallelism": 3}, {"suspend": True}])
def test_what_of_a_child_somebody_else_may_change_is_news(change: dict[str, Any]) -> None:
    cache = Cache()
    cache.put(child(1) | {"spec": {"parallelism": 2}})
    assert cache.put(child(2) | {"spec": {"parallelism": 2, **change}}) == KEY
    gone = child(3) | {"spec": {"parallelism": 2, **change}}
    gone["metadata"]["deletionTimestamp"] = "2026-11-24T10:00:00Z"
    assert cache.put(gone) == KEY


def test_children_belong_to_one_life_of_a_job() -> None:
    cache = Cache()
    assert cache.put(child(1)) == KEY
    cache.put(child(2, owner_uid="u0", name="mascot-evaluate-1", uid="c0"))
    assert [obj["metadata"]["name"] for obj in cache.children(KEY, "u1")] == ["mascot-personalize-1"]
    assert cache.put({"kind": "Job", "metadata": {"namespace": "lab", "name": "x"}}) is None


def test_only_the_object_that_went_is_forgotten() -> None:
    cache = Cache()
    cache.put(ibj(10, uid="new"))
    cache.remove(ibj(9, uid="old"))
    assert cache.job(KEY) is not None
    cache.remove(ibj(11, uid="new"))
    assert cache.job(KEY) is None


def test_a_cache_that_forgot_everything_is_empty() -> None:
    cache = Cache()
    cache.put(child(1))
    cache.remove(child(2))
    assert list(cache.objects()) == []
    assert not cache._children


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_that_shows_nothing_is_late() -> None:
    clock = Clock()
    freshness = Freshness(clock)
    freshness.expect(ibj(5))
    clock.now = 70
    freshness.expect(ibj(6))  # the first debt counts
    assert freshness.lag() == 70
    freshness.seen(ibj(5), gone=False)
    assert freshness.lag() == 70
    freshness.seen(ibj(7), gone=False)
    assert freshness.lag() == 0
    freshness.expect(ibj(7))
    assert freshness.lag() == 0


@pytest.mark.parametrize("end", ["seen gone", "not listed"])
def test_nothing_is_owed_of_what_is_gone(end: str) -> None:
    clock = Clock()
    freshness = Freshness(clock)
    freshness.expect(ibj(5))
    clock.now = 10
    if end == "seen gone":
        freshness.seen(ibj(4), gone=True)
    else:
        freshness.keep_only(["somebody else"])
    assert freshness.lag() == 0


def test_the_rate_is_bounded_but_for_one_second_s_worth() -> None:
    async def scenario() -> float:
        limit, clock = RateLimit(1000.0), asyncio.get_running_loop().time
        start = clock()
        for _ in range(1200):
            await limit.wait()
        return clock() - start

    assert asyncio.run(scenario()) > 0.15


def test_the_environment_s_proxy_is_used_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_of_environment("https://10.0.0.1:6443") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert proxy_of_environment("https://10.0.0.1:6443") == "http://proxy:3128"
    assert proxy_of_environment("http://10.0.0.1:6443") is None
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,.svc")
    assert proxy_of_environment("https://10.0.0.1:6443") is None


def test_what_many_jobs_say_is_held_once() -> None:
    def arrived(number: int) -> dict[str, Any]:
        meta = {"name": f"j{number}", "namespace": "lab", "uid": str(number), "resourceVersion": "1"}
        spec, status = {"prompts": ["a {subject}"]}, {"stages": [{"state": "Running"}]}
        return dict(json.loads(json.dumps({"kind": KIND, "metadata": meta, "spec": spec, "status": status})))

    cache = Cache()
    for number in range(2):
        cache.put(arrived(number))
    first, second = (job["status"] for job in cache.jobs())
    assert first == second
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert first["stages"][0]["state"] is second["stages"][0]["state"]


def test_a_spec_is_kept_as_text_and_comes_back_as_it_was() -> None:
    spec = {"className": "mascot", "prompts": ["a {subject}", "ein \u00e4"], "steps": 3, "lora": None, "rate": 1e-05}
    obj = {**ibj(1), "spec": spec}
    cache = Cache()
    cache.put(obj)
    job = cache.job(KEY)
    assert job is not None
    assert job["spec"] == spec
    assert all("spec" not in held for held in cache.jobs())
    assert cache.put({**ibj(2), "spec": dict(spec)}) is None
    assert cache.put({**ibj(3), "spec": spec | {"steps": 4}}) == KEY


def test_turns_are_taken_in_order_and_kept_until_they_come() -> None:
    async def scenario() -> None:
        turns = Turns[int](10.0)
        waits = [turns.wait(number) for number in range(25)]
        assert waits[:10] == [0.0] * 10, "a second's worth at once"
        assert waits[10:] == sorted(waits[10:])
        assert waits[24] == pytest.approx(1.5, abs=0.2)
        again = turns.wait(24)
        assert waits[24] - 0.2 < again <= waits[24], "who asks again keeps its place"
        assert turns.wait(25) == pytest.approx(1.6, abs=0.2)
        turns.forget(24)
        assert turns.wait(24) == pytest.approx(1.7, abs=0.2), "who left comes last"

    asyncio.run(scenario())


def test_a_turn_that_has_come_is_taken() -> None:
    async def scenario() -> None:
        turns = Turns[str](50.0)
        while (wait := turns.wait("a")) == 0.0:
            pass
        await asyncio.sleep(wait + 0.01)
        assert turns.wait("a") == 0.0

    asyncio.run(scenario())


def test_what_has_not_changed_of_an_object_is_kept_once() -> None:
    cache = Cache()
    first = child(1) | {"spec": {"parallelism": 2}, "status": {"ready": 1, "conditions": [{"type": "A" * 99}]}}
    cache.put(first)
    before = cache.known(first)
    assert before is not None
    cache.put(child(2) | {"spec": {"parallelism": 2}, "status": {"ready": 2, "conditions": [{"type": "A" * 99}]}})
    after = cache.known(first)
    assert after is not None
    assert after["status"] == {"ready": 2, "conditions": [{"type": "A" * 99}]}
    assert after["status"]["conditions"] is before["status"]["conditions"]
    assert after["metadata"]["ownerReferences"] is before["metadata"]["ownerReferences"]
    assert after["spec"] is before["spec"]
    assert before["status"]["ready"] == 1, "what was handed out is not changed"


def test_a_job_of_the_same_version_may_have_other_defaults() -> None:
    """Those of another definition, which changes no object."""
    cache = Cache()
    cache.put(ibj(10) | {"spec": {"a": 1}})
    assert cache.put(ibj(10) | {"spec": {"a": 1, "b": 2}}) == KEY
    known = cache.job(KEY)
    assert known is not None
    assert known["spec"] == {"a": 1, "b": 2}


def test_a_gang_that_waits_for_its_look_is_told_of_any_change() -> None:
    """A pod of it that begins makes the look more urgent."""
    cache, waits = Cache(), False
    for number, ready, key in ((1, 0, KEY), (2, 1, None), (3, 0, None), (4, 1, KEY)):
        waits = number == 4
        seen = child(number) | {"spec": {"parallelism": 2}, "status": {"ready": ready}}
        assert take_in(cache, seen, False, lambda _: waits) == key  # noqa: B023
    assert take_in(cache, ibj(9), False, lambda _: False) == KEY
    assert take_in(cache, ibj(9), False, lambda _: True) is None, "a job's echo is nobody's news"
    assert take_in(cache, child(5), True, lambda _: False) == KEY
