"""Lists of pods and events are shared by those who ask at about the same time."""

from __future__ import annotations

import asyncio
from typing import Any

from instructbooth.reconcile.observed import COMPLETION_INDEX, Pod
from instructbooth_operator import looks
from instructbooth_operator.errors import ApiError
from instructbooth_operator.looks import JOB_NAME, Pods, Warnings
from instructbooth_operator.resources import EVENTS, PODS
from tests.unit.operator.fake_api import FakeApi


def pod(child: str) -> dict[str, Any]:
    return {"metadata": {"name": f"{child}-0", "namespace": "lab", "labels": {JOB_NAME: child}}}


def event(name: str, about: str, reason: str) -> dict[str, Any]:
    made = {"metadata": {"name": name, "namespace": "lab"}, "involvedObject": {"name": about}}
    return {**made, "reason": reason, "message": "", "lastTimestamp": name}


def test_many_children_share_a_list() -> None:
    api = FakeApi()
    for child in ("a", "b"):
        api.put(PODS, pod(child))

    async def scenario() -> list[list[Pod]]:
        pods = Pods(api)  # type: ignore[arg-type]
        return list(await asyncio.gather(*(pods.of("lab", child) for child in ("a", "b", "c"))))

    found = asyncio.run(scenario())
    assert [[obj.name for obj in some] for some in found] == [["a-0"], ["b-0"], []]
    assert api.count("list", "pods") == 1


def test_a_pod_that_is_no_child_s_disturbs_nobody() -> None:
    api = FakeApi()
    strange = pod("a")
    strange["metadata"] |= {"name": "strange", "annotations": {COMPLETION_INDEX: "x"}}
    api.put(PODS, strange)
    api.put(PODS, pod("a"))
    found = asyncio.run(Pods(api).of_all("lab", ["a"]))  # type: ignore[arg-type]
    assert [obj.name for obj in found["a"]] == ["a-0"]


def test_those_that_start_are_found_by_one_list() -> None:
    api = FakeApi()
    api.put(PODS, pod("a"))
    stray = pod("b")
    stray["metadata"] |= {"name": "stray", "labels": {}}
    api.put(PODS, stray)
    asked: list[dict[str, str]] = []
    whole = api.list

    def listed(resource: Any, namespace: str | None, **query: str) -> Any:
        asked.append(query)
        return whole(resource, namespace, **query)

    api.list = listed  # type: ignore[method-assign]
    assert "a" in asyncio.run(Pods(api).starting("lab"))  # type: ignore[arg-type]
    assert asked == [
        {
            "labelSelector": "app.kubernetes.io/managed-by=instructbooth-operator",
            "fieldSelector": "status.phase=Pending,spec.nodeName!=",
        }
    ]


def test_who_asks_while_a_list_is_under_way_is_not_told_of_the_past() -> None:
    api = FakeApi()

    async def scenario() -> list[Pod]:
        pods = Pods(api)  # type: ignore[arg-type]
        first = asyncio.create_task(pods.of("lab", "a"))
        while not api.requests:
            await asyncio.sleep(0)
        api.put(PODS, pod("a"))
        assert await first == []
        return await pods.of("lab", "a")

    assert len(asyncio.run(scenario())) == 1


def test_an_error_is_told_to_all_who_share_it_and_to_nobody_else() -> None:
    api = FakeApi()

    async def scenario() -> None:
        pods = Pods(api)  # type: ignore[arg-type]

        def trouble(verb: str, plural: str) -> None:
            raise OSError("gone")

        api.trouble = trouble
        both = await asyncio.gather(pods.of("lab", "a"), pods.of("lab", "b"), return_exceptions=True)
        assert [type(error) for error in both] == [OSError, OSError]
        api.trouble = lambda verb, plural: None
        assert await pods.of("lab", "a") == []

    asyncio.run(scenario())


def test_events_are_read_again_when_a_share_of_time_allows_it(monkeypatch: Any) -> None:
    api = FakeApi()
    told = (
        ("1", "a", "FailedMount"),
        ("2", "a", "FailedAttachVolume"),
        ("3", "b", "FailedCreate"),
        ("4", "a", "BackOff"),
    )
    for name, about, reason in told:
        api.put(EVENTS, event(name, about, reason))

    async def scenario() -> None:
        warnings = Warnings(api)  # type: ignore[arg-type]
        monkeypatch.setattr(looks, "SHARE_OF_TIME", 1e-9)
        told, other = await asyncio.gather(warnings.about("lab", ["a", "c"]), warnings.about("lab", ["b"]))
        assert [warning.reason for warning in told] == ["FailedAttachVolume", "FailedMount"], "the newest first"
        assert [warning.reason for warning in other] == ["FailedCreate"]
        assert api.count("list", "events") == 1
        warnings._known.clear()
        monkeypatch.setattr(looks, "SHARE_OF_TIME", 1e9)
        for _ in range(2):
            await warnings.about("lab", ["a"])
        assert api.count("list", "events") == 3

    asyncio.run(scenario())


def test_events_that_cannot_be_read_hold_nobody_up(monkeypatch: Any) -> None:
    api = FakeApi()
    api.put(EVENTS, event("1", "a", "FailedMount"))
    monkeypatch.setattr(looks, "SHARE_OF_TIME", 1e9)

    def trouble(verb: str, plural: str) -> None:
        raise ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")

    async def scenario() -> None:
        warnings = Warnings(api)  # type: ignore[arg-type]
        api.trouble = trouble
        found = await asyncio.gather(*(warnings.about("lab", ["a"]) for _ in range(16)))
        assert found == [()] * 16
        assert api.count("list", "events") == 1, "the others do not find out for themselves"

    asyncio.run(scenario())


def test_a_slow_list_of_one_namespace_holds_up_no_other() -> None:
    api = FakeApi()

    async def scenario() -> None:
        warnings = Warnings(api)  # type: ignore[arg-type]
        warnings._listing["slow"] = lock = asyncio.Lock()
        async with lock:
            waiting = asyncio.create_task(warnings.about("slow", ["a"]))
            assert await asyncio.wait_for(warnings.about("lab", ["a"]), 5) == ()
            assert not waiting.done()
        await waiting

    asyncio.run(scenario())
