"""Gangs that wait are looked at some dozens at a time, as often as the API server has time for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from instructbooth.reconcile.actions import Haste, Look
from instructbooth.reconcile.observed import Evidence, Pod
from instructbooth_operator import lookout as module
from instructbooth_operator.cache import Key
from instructbooth_operator.errors import ApiError
from instructbooth_operator.lookout import BATCH, Lookout
from tests.unit.reconcile.world import START


class Rig:
    """A lookout whose lists are written down."""

    def __init__(self) -> None:
        self.lists: list[tuple[str, list[str]]] = []
        self.pod = Pod("a-pod", 0)
        self.done: list[Key] = []
        self.trouble: Callable[[], None] = lambda: None
        self.seconds = 0.0
        self.starting: set[str] = set()
        self.begun: set[str] = set()
        self.glances: list[str] = []
        self.lookout = Lookout(
            self._evidence,
            starting=self._starting,
            begun=lambda key, child: child in self.begun,
            done=self.done.append,
        )

    async def _evidence(self, namespace: str, children: list[str]) -> list[Evidence]:
        self.lists.append((namespace, children))
        await asyncio.sleep(self.seconds)
        self.trouble()
        return [Evidence((replace(self.pod, name=f"{child}-pod"),)) for child in children]

    async def _starting(self, namespace: str) -> set[str]:
        self.glances.append(namespace)
        await asyncio.sleep(self.seconds)
        self.trouble()
        return self.starting

    def ask(
        self,
        *names: str,
        namespace: str = "lab",
        haste: Haste = Haste.IN_TURN,
        unplaced: bool = False,
        after: float = 0.0,
    ) -> None:
        for name in names:
            self.lookout.ask(Key(namespace, name), Look(f"{name}-1", haste, unplaced), after)

    def look(self) -> float:
        return asyncio.run(self.lookout.look())


@pytest.fixture
def rig() -> Rig:
    return Rig()


def names(count: int, prefix: str = "job") -> list[str]:
    return [f"{prefix}-{number:03}" for number in range(count)]


def test_one_list_shows_all_that_are_due(rig: Rig) -> None:
    rig.ask("b", "a")
    assert rig.look() == pytest.approx(2 / module.LOOKS_PER_SECOND, rel=0.2)
    assert rig.lists == [("lab", ["b-1", "a-1"])]
    assert rig.done == [Key("lab", "b"), Key("lab", "a")]
    found = rig.lookout.take(Key("lab", "a"))
    assert found is not None
    assert (found[0], found[1].pods[0].name) == ("a-1", "a-1-pod")
    assert rig.lookout.take(Key("lab", "a")) is None, "the next question is about the next moment"
    assert rig.look() == 0.0
    assert len(rig.lists) == 1, "nobody asked"


def test_a_thousand_are_looked_at_some_dozens_at_a_time(rig: Rig) -> None:
    waiting = names(2 * BATCH + 1)
    rig.ask(*waiting)
    rig.ask(waiting[0])  # it keeps its place
    while rig.look():
        pass
    assert [len(children) for _, children in rig.lists] == [BATCH, BATCH, 1]
    assert [child for _, children in rig.lists for child in children] == [f"{name}-1" for name in waiting]


def test_who_may_have_lost_a_node_comes_first_and_leaves_half_to_the_others(rig: Rig) -> None:
    rig.ask(*names(BATCH))
    rig.ask(*names(BATCH, "hurried"), haste=Haste.SOON)
    rig.look()
    half = BATCH // 2
    assert rig.lists[0][1] == [f"{name}-1" for name in names(half, "hurried") + names(half)]


def test_namespaces_are_served_in_turn(rig: Rig) -> None:
    rig.ask(*names(3 * BATCH))
    rig.ask("a", namespace="small")
    for _ in range(4):
        rig.look()
    assert [namespace for namespace, _ in rig.lists] == ["lab", "small", "lab", "lab"]


def test_lists_take_no_more_than_a_share_of_the_time(rig: Rig) -> None:
    rig.ask("a")
    rig.seconds = 0.2
    assert rig.look() == pytest.approx(0.2 * (1 / module.SHARE_OF_TIME - 1), rel=0.3)


def test_a_list_that_took_for_ever_delays_the_next_by_seconds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.2)
    rig.ask("a")
    rig.seconds = 0.3
    assert rig.look() == 0.2


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (ApiError(503, "ServiceUnavailable", "not now"), module.AGAIN_SECONDS),
        (ApiError(429, "TooManyRequests", "slow down", 11.0), 11.0),
        (ValueError("a bug"), module.AGAIN_SECONDS),
    ],
)
def test_a_list_that_fails_is_made_again_after_those_of_other_namespaces(
    rig: Rig, error: Exception, pause: float
) -> None:
    def trouble() -> None:
        rig.ask("c")  # while it was under way
        raise error

    rig.ask("b", "a")
    rig.ask("d", namespace="other")
    rig.trouble = trouble
    assert rig.look() == pause
    assert rig.done == []
    rig.trouble = lambda: None
    rig.look()
    rig.look()
    assert rig.lists[1:] == [("other", ["d-1"]), ("lab", ["b-1", "a-1", "c-1"])]


def test_who_may_have_lost_a_node_waits_for_no_more_than_one_other_namespace(rig: Rig) -> None:
    for number in range(9):
        rig.ask("a", namespace=f"team-{number}")
    rig.ask("a", namespace="hurried", haste=Haste.SOON)
    rig.look()
    rig.look()
    assert "hurried" in [namespace for namespace, _ in rig.lists]
    for _ in range(8):
        rig.look()
    assert len({namespace for namespace, _ in rig.lists}) == 10, "nobody is passed over for ever"


def test_who_asks_or_goes_while_a_list_is_under_way_is_not_asked_for_again(rig: Rig) -> None:
    def meanwhile() -> None:
        rig.ask("a")
        assert rig.lookout.awaits(Key("lab", "a"))

    rig.ask("a")
    assert rig.lookout.awaits(Key("lab", "a"))
    rig.trouble = meanwhile
    rig.look()
    assert not rig.lookout.awaits(Key("lab", "a"))
    assert rig.look() == 0.0
    found = rig.lookout.take(Key("lab", "a"))
    assert found is not None
    assert found[1].late


def test_who_needs_no_look_any_more_costs_none(rig: Rig) -> None:
    rig.ask("a", "b")
    rig.lookout.forget(Key("lab", "a"))
    rig.look()
    assert rig.lists == [("lab", ["b-1"])]
    rig.lookout.forget(Key("lab", "b"))
    assert rig.lookout.take(Key("lab", "b")) is None
    rig.ask("a")
    rig.lookout.forget(Key("lab", "a"))
    assert rig.look() == 0.0


def test_it_looks_for_as_long_as_it_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKS_PER_SECOND", 1000.0)

    async def scenario() -> Any:
        running = asyncio.create_task(rig.lookout.run())
        for number in range(3):
            rig.ask(f"job-{number}")
            while len(rig.done) <= number:
                await asyncio.sleep(0.001)
        monkeypatch.setattr(module, "LOOKS_PER_SECOND", 0.001)
        rig.ask("last")
        while len(rig.done) < 4:
            await asyncio.sleep(0.001)
        rig.ask("too soon")
        await asyncio.sleep(0.1)
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert len(rig.lists) == 4


UNPLACED = Pod("a-pod", 0, unschedulable="0/3 nodes are available")


def test_a_look_may_be_asked_for_in_advance(rig: Rig) -> None:
    async def scenario() -> None:
        rig.ask("a", "b", "c", "d", after=0.05)
        rig.ask("b", after=60.0)  # another plan was made
        rig.lookout.forget(Key("lab", "c"))
        rig.ask("d")  # something happened
        assert [name for name in "abcd" if rig.lookout.awaits(Key("lab", name))] == ["d"]
        await rig.lookout.look()
        assert rig.lists == [("lab", ["d-1"])]
        await asyncio.sleep(0.1)
        await rig.lookout.look()
        assert rig.lists[1:] == [("lab", ["a-1"])]
        assert await rig.lookout.look() == 0.0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("known", "pod", "planned"),
    [
        pytest.param(True, UNPLACED, False, id="as before"),
        pytest.param(False, UNPLACED, True, id="news"),
        pytest.param(True, Pod("a-pod", 0), True, id="no news of a scheduler"),
        pytest.param(True, Pod("a-pod", 0, node="gpu-1"), True, id="a node was found"),
        pytest.param(True, replace(UNPLACED, deletion_asked=START), True, id="asked to go"),
        pytest.param(True, replace(UNPLACED, phase="Failed"), True, id="failed"),
        pytest.param(True, replace(UNPLACED, gang=2), True, id="a part of the gang is missing"),
    ],
)
def test_a_gang_that_still_finds_no_node_needs_no_plan(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, known: bool, pod: Pod, planned: bool
) -> None:
    monkeypatch.setattr(module, "UNPLACED_SECONDS", 0.05)
    rig.pod = pod
    key = Key("lab", "a")

    async def scenario() -> None:
        rig.ask("a", unplaced=known)
        await rig.lookout.look()
        assert (rig.done, rig.lookout.take(key) is not None) == (([key], True) if planned else ([], False))
        await asyncio.sleep(0.1)
        assert rig.lookout.awaits(key) is not planned, "it is looked at again by and by"

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_a_plan_that_asked_while_a_list_was_under_way_is_made(rig: Rig, fails: bool) -> None:
    def meanwhile() -> None:
        rig.ask("a")
        rig.trouble = lambda: None
        if fails:
            raise ApiError(503, "ServiceUnavailable", "not now")

    rig.pod = UNPLACED
    rig.ask("a", unplaced=True)
    rig.trouble = meanwhile
    while rig.look():
        pass
    assert rig.done == [Key("lab", "a")]
    assert len(rig.lists) == 1 + fails


@pytest.mark.parametrize("fails", [False, True])
def test_of_a_job_that_goes_while_a_list_is_under_way_nothing_is_left(rig: Rig, fails: bool) -> None:
    def meanwhile() -> None:
        rig.lookout.forget(Key("lab", "a"))
        if fails:
            raise ApiError(503, "ServiceUnavailable", "not now")

    rig.pod = UNPLACED
    rig.ask("a", unplaced=True)
    rig.trouble = meanwhile
    rig.look()
    assert rig.look() == 0.0, "nobody asked"
    assert (rig.done, rig.lookout._later, len(rig.lists)) == ([], {}, 1)


def test_who_has_found_a_node_is_looked_at_before_those_that_have_none(rig: Rig) -> None:
    async def scenario() -> None:
        rig.ask(*names(BATCH), unplaced=True)
        rig.ask("pulling", "ready", "still none", unplaced=True, after=60.0)
        rig.ask("known to have one", after=60.0)
        rig.ask("new")
        rig.ask("elsewhere", namespace="other", unplaced=True, after=60.0)
        rig.starting = {"pulling-1", "known to have one-1", "elsewhere-1", "job-007-1", "new-1"}
        rig.begun = {"ready-1"}
        await rig.lookout.glance("lab")
        assert rig.glances == ["lab"]
        await rig.lookout.look()
        first = [child for _, children in rig.lists for child in children]
        assert sorted(first[:4]) == ["job-007-1", "new-1", "pulling-1", "ready-1"]
        assert len(first) == BATCH
        assert not any(rig.lookout.awaits(Key("lab", name)) for name in ("still none", "known to have one"))
        assert not rig.lookout.awaits(Key("other", "elsewhere"))

    asyncio.run(scenario())


def test_glances_are_made_where_somebody_has_no_node_and_in_spite_of_errors(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GLANCE_SECONDS", 0.01)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)

    def trouble() -> None:
        raise ValueError("a bug")

    async def scenario() -> None:
        rig.ask("a", namespace="placed", after=60.0)
        rig.ask("a", unplaced=True, after=60.0)
        rig.starting = {"a-1"}
        rig.trouble = trouble
        running = asyncio.create_task(rig.lookout.glance_for_ever())
        while len(rig.glances) < 2:
            await asyncio.sleep(0.001)
        assert not rig.lookout.awaits(Key("lab", "a"))
        rig.trouble = lambda: None
        while not rig.lookout.awaits(Key("lab", "a")):
            await asyncio.sleep(0.001)
        before = len(rig.glances)
        await asyncio.sleep(0.1)
        running.cancel()
        assert len(rig.glances) <= before + 1, "it is looked at now, so that nobody waits for a glance"
        assert set(rig.glances) == {"lab"}

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_glances_take_a_twentieth_of_the_time(rig: Rig) -> None:
    rig.seconds = 0.1
    assert asyncio.run(rig.lookout.glance("lab")) == pytest.approx(0.1 * 19, rel=0.3)
