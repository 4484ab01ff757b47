"""What a replica that does not lead may send: nothing that writes. And what is sent late: nothing that harms."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import config

from instructbooth.reconcile.actions import DeleteChild, DeleteSelf, SetSuspend
from instructbooth_operator.api import Api
from instructbooth_operator.cache import Cache
from instructbooth_operator.carry_out import Hands
from instructbooth_operator.errors import NotLeading
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.resources import IBJ, JOBS
from tests.unit.reconcile.world import job_object

OBJECT = {"metadata": {"name": "x", "namespace": "lab"}}
WRITES: dict[str, Callable[[Api], Awaitable[Any]]] = {
    "POST": lambda api: api.create(JOBS, OBJECT),
    "PUT": lambda api: api.replace(JOBS, OBJECT),
    "PATCH": lambda api: api.patch(IBJ, "lab", "x", {}, subresource="status"),
    "DELETE": lambda api: api.delete(JOBS, "lab", "x", {}),
}


@pytest.mark.parametrize("method", WRITES)
def test_a_write_is_asked_for_after_all_waiting_and_not_sent(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(request.method)
        return web.json_response(OBJECT)

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:

            async def configure(client_configuration: Any) -> None:
                client_configuration.host = str(server.make_url("")).rstrip("/")

            monkeypatch.setattr(config, "load_kube_config", configure)
            leads = True
            async with Api(1000, 1, may_write=lambda: leads) as api:
                await WRITES[method](api)
                assert heard == [method]
                async with api._slots:  # all slots are taken while the Lease runs out
                    waiting = asyncio.ensure_future(WRITES[method](api))
                    await asyncio.sleep(0.05)
                    leads = False
                with pytest.raises(NotLeading):
                    await waiting
                await api.get(JOBS, "lab", "x")
                assert heard == [method, "GET"]

    asyncio.run(asyncio.wait_for(scenario(), 30))


class Recorder:
    """An API server that remembers what a write would be refused for."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def patch(self, resource: object, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(patch["metadata"])
        return child("2")

    async def delete(self, resource: object, namespace: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(options.get("preconditions", {}))
        return {"kind": "Status"}


def child(version: str) -> dict[str, Any]:
    owner = {"kind": "InstructBoothJob", "name": "mascot", "uid": "0a1b2c3d", "controller": True}
    meta = {"name": "mascot-personalize-1", "namespace": "lab", "uid": "c1", "resourceVersion": version}
    return {"kind": "Job", "metadata": meta | {"ownerReferences": [owner]}, "spec": {}}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            SetSuspend("mascot-personalize-1", True),
            {"uid": "c1", "resourceVersion": "1", "labels": {"instructbooth.io/suspended": "true"}},
        ),
        (
            SetSuspend("mascot-personalize-1", False),
            {"uid": "c1", "resourceVersion": "1", "labels": {"instructbooth.io/suspended": None}},
        ),
        (DeleteChild("mascot-personalize-1"), {"uid": "c1"}),
        (DeleteSelf(), {"uid": "0a1b2c3d", "resourceVersion": "7"}),
    ],
)
def test_a_write_names_what_it_was_decided_on(action: Any, expected: dict[str, Any]) -> None:
    cache, api, job = Cache(), Recorder(), job_object()
    job["metadata"]["resourceVersion"] = "7"
    cache.put(child("1"))
    hands = Hands(api, cache, Freshness())  # type: ignore[arg-type]
    asyncio.run(hands.act(job, action))
    assert api.sent == [expected]
