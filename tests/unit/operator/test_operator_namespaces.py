"""Watched namespaces whose lists are refused: the others are served, and a change of that begins everything anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from instructbooth_operator import resync as module
from instructbooth_operator.cache import Cache, Key
from instructbooth_operator.errors import ApiError
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.lease import LeaseLost
from instructbooth_operator.main import _as_long_as_listed, _unless
from instructbooth_operator.metrics import REFUSED_NAMESPACES, stand_by
from instructbooth_operator.resources import IBJ, JOBS, Resource
from instructbooth_operator.resync import NamespacesChanged, Resync
from instructbooth_operator.workqueue import WorkQueue
from tests.unit.reconcile.world import job_object


class Cluster:
    """One InstructBoothJob in each namespace, and errors by namespace and kind."""

    def __init__(self) -> None:
        self.errors: dict[tuple[str | None, str], int] = {}
        self.lists = 0

    def refuse(self, *namespaces: str, plural: str = JOBS.plural, status: int = 403) -> None:
        self.errors = {(namespace, plural): status for namespace in namespaces}

    async def list(self, resource: Resource, namespace: str | None, **_: str) -> AsyncIterator[dict[str, Any]]:
        self.lists += 1
        if status := self.errors.get((namespace, resource.plural)):
            raise ApiError(status, "Forbidden" if status == 403 else "Odd", f"no lists of {namespace}")
        items = []
        if resource is IBJ:
            job = job_object()
            job["metadata"] |= {"namespace": namespace, "uid": f"of-{namespace}", "resourceVersion": "1"}
            items = [job]
        yield {"metadata": {}, "items": items}


class Rig:
    def __init__(self, *namespaces: str) -> None:
        self.cluster, self.cache, self.queue = Cluster(), Cache(), WorkQueue[Key]()
        self.resync = Resync(
            api=self.cluster,  # type: ignore[arg-type]
            cache=self.cache,
            queue=self.queue,
            freshness=Freshness(),
            namespaces=namespaces,
        )

    def known(self) -> list[str]:
        return sorted(job["metadata"]["namespace"] for job in self.cache.jobs())


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(module, "SURE_SECONDS", 0.0)
    return Rig("a", "b", "c")


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize("plural", [JOBS.plural, IBJ.plural])
def test_the_others_are_served(rig: Rig, plural: str, caplog: pytest.LogCaptureFixture) -> None:
    rig.cluster.refuse("b", plural=plural)
    run(rig.resync.can_list())
    run(rig.resync.prime())
    assert rig.resync.primed
    assert rig.resync.served == ("a", "c")
    assert rig.known() == ["a", "c"]
    assert REFUSED_NAMESPACES._value.get() == 1
    stand_by()
    assert REFUSED_NAMESPACES._value.get() == 0, "a standby asks nobody any more"
    assert "b: its jobs are not run: 403 Forbidden: no lists of b" in caplog.text


@pytest.mark.parametrize(("namespaces", "status"), [(("a", "b", "c"), 403), (("b",), 500), (("b",), 404)])
@pytest.mark.parametrize("listing", ["can_list", "prime"])
def test_without_any_and_with_other_errors_it_goes_on_trying(
    rig: Rig, namespaces: tuple[str, ...], status: int, listing: str
) -> None:
    rig.cluster.refuse(*namespaces, status=status)

    async def scenario() -> None:
        trying = asyncio.create_task(getattr(rig.resync, listing)())
        await asyncio.sleep(0.7)
        assert not trying.done()
        assert rig.cluster.lists > 3, "it is tried again"
        rig.cluster.refuse()
        await trying

    run(scenario())
    assert rig.resync.served == ("a", "b", "c")


def test_one_refusal_is_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.cluster.refuse("a", "b")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        rig.cluster.refuse("b")  # a server that comes up, and has read the roles of one by now

    monkeypatch.setattr(module, "SURE_SECONDS", 5.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(rig.resync.prime())
    assert waited == [5.0]
    assert rig.resync.served == ("a", "c")


def test_a_namespace_named_twice_is_not_the_whole_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Rig("a", "a")
    twice.cluster.refuse("a")
    monkeypatch.setattr(module, "SURE_SECONDS", 0.0)
    with pytest.raises(ApiError, match="no lists of a"):
        asyncio.run(twice.resync._listable())


@pytest.mark.parametrize(("at_first", "then"), [((), ("b",)), (("b",), ()), (("a",), ("b",))])
def test_a_change_ends_it_before_anything_is_taken_in_or_forgotten(
    rig: Rig, at_first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    rig.cluster.refuse(*at_first)
    run(rig.resync.prime())
    before, waiting = rig.known(), len(rig.queue)
    rig.cluster.refuse(*then)
    with pytest.raises(NamespacesChanged, match=r"served until now: .*; from now on: ") as raised:
        run(rig.resync.run(0.0))
    assert ", ".join(sorted({"a", "b", "c"} - set(then))) in str(raised.value)
    assert (rig.known(), len(rig.queue)) == (before, waiting)


def test_what_does_not_change_is_compared_for_ever(rig: Rig) -> None:
    rig.cluster.refuse("b")
    run(rig.resync.prime())

    async def scenario() -> None:
        running = asyncio.create_task(rig.resync.run(0.0))
        lists = rig.cluster.lists
        while rig.cluster.lists < lists + 30:
            await asyncio.sleep(0.001)
        rig.cluster.refuse("a", "b", "c")  # an API server that comes up refuses everything for a moment
        lists = rig.cluster.lists
        while rig.cluster.lists < lists + 30:
            await asyncio.sleep(0.001)
        assert not running.done()
        running.cancel()

    run(scenario())
    assert rig.known() == ["a", "c"]


def test_the_whole_cluster_is_all_or_nothing() -> None:
    whole = Rig()
    run(whole.resync.prime())
    assert whole.resync.served == ()
    lists = whole.cluster.lists
    run(whole.resync.same_namespaces())
    assert whole.cluster.lists == lists, "there is nothing to ask"


@pytest.mark.parametrize(("refused", "ends_as"), [(("b",), NamespacesChanged), ((), RuntimeError)])
def test_a_watch_that_fails_because_its_namespace_is_gone_says_so(
    rig: Rig, refused: tuple[str, ...], ends_as: type[Exception]
) -> None:
    async def watching() -> None:
        raise RuntimeError("kopf was refused")

    run(rig.resync.prime())
    rig.cluster.refuse(*refused)
    with pytest.raises(ends_as):
        run(_as_long_as_listed(watching(), rig.resync))


@pytest.mark.parametrize("error", [LeaseLost("lost"), NamespacesChanged("other ones")])
def test_whoever_is_to_stop_does_not_begin_anew(error: Exception) -> None:
    stop = asyncio.Event()
    with pytest.raises(type(error)), _unless(stop):
        raise error
    stop.set()
    with _unless(stop):
        raise error
    with pytest.raises(RuntimeError), _unless(stop):
        raise RuntimeError("a fault is told, signal or not")
