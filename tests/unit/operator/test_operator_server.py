"""/healthz and /readyz: what the kubelet hears, from a real HTTP server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from instructbooth_operator import lease as module
from instructbooth_operator.cache import Cache, Key
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.lease import Lease
from instructbooth_operator.resources import IBJ
from instructbooth_operator.resync import Resync
from instructbooth_operator.server import DEAD_AFTER_SECONDS, application
from instructbooth_operator.workqueue import WorkQueue
from tests.unit.operator.fake_api import FakeApi
from tests.unit.reconcile.world import job_object

Ask = Callable[[str], Awaitable[tuple[int, str]]]


class Rig:
    """An operator with everything but watches: what they show, the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.api = FakeApi()
        self.freshness = Freshness(lambda: self.now)
        self.lease = Lease(self.api, "lease", "system", "me")  # type: ignore[arg-type]
        self.resync = Resync(
            api=self.api,  # type: ignore[arg-type]
            cache=Cache(),
            queue=WorkQueue[Key](),
            freshness=self.freshness,
            namespaces=(),
        )

    def run(self, scenario: Callable[[Ask], Awaitable[Any]]) -> None:
        """Run a scenario against the server."""

        async def serve() -> None:
            async with TestClient(TestServer(application(self.freshness, self.resync, self.lease))) as client:

                async def ask(path: str) -> tuple[int, str]:
                    answer = await client.get(path)
                    return answer.status, await answer.text()

                await scenario(ask)

        asyncio.run(asyncio.wait_for(serve(), 30))


def test_a_watch_that_died_silently_fails_the_liveness_probe() -> None:
    rig = Rig()

    async def scenario(ask: Ask) -> None:
        job = rig.api.put(IBJ, job_object())
        await rig.resync.prime()  # the list shows the job
        rig.freshness.seen(job, gone=False)  # and so does the watch
        rig.now = 1000.0
        assert (await ask("/healthz"))[0] == 200, "nothing happens in a quiet cluster, which is no illness"
        rig.api.put(IBJ, job)  # somebody edits it, and the watch is dead
        await rig.resync.compare()
        rig.now += DEAD_AFTER_SECONDS
        assert (await ask("/healthz"))[0] == 200
        rig.now += 1
        status, text = await ask("/healthz")
        assert status == 503
        assert "the watch has not shown a known change for 61 s" in text
        rig.freshness.seen(rig.api.objects[IBJ.plural, "mascot"], gone=False)  # it was only slow
        assert (await ask("/healthz"))[0] == 200

    rig.run(scenario)


def test_ready_when_primed_or_standing_by() -> None:
    rig = Rig()

    async def scenario(ask: Ask) -> None:
        assert (await ask("/readyz"))[0] == 503
        rig.lease._waiting, rig.lease._looked_at = True, module._now()
        assert await ask("/readyz") == (200, "ok, standing by\n")
        rig.lease._looked_at -= module.DURATION_SECONDS + 1  # the API server has not shown it for so long
        assert (await ask("/readyz"))[0] == 503
        rig.lease._waiting = False
        await rig.resync.prime()
        assert await ask("/readyz") == (200, "ok\n")

    rig.run(scenario)


def test_an_election_that_hangs_fails_the_liveness_probe() -> None:
    rig = Rig()

    async def scenario(ask: Ask) -> None:
        assert (await ask("/healthz"))[0] == 200, "it has not begun"
        rig.lease._tried_at = module._now()
        assert (await ask("/healthz"))[0] == 200
        rig.lease._tried_at -= DEAD_AFTER_SECONDS + 1
        status, text = await ask("/healthz")
        assert status == 503
        assert "nobody has tried for the Lease for 61 s" in text

    rig.run(scenario)


def test_whoever_waits_for_metrics_keeps_nobody_waiting() -> None:
    """With thousands of jobs it takes seconds to write them down."""
    answered = threading.Event()

    class Slow(Collector):
        def describe(self) -> Iterable[Metric]:
            return []

        def collect(self) -> Iterable[Metric]:
            assert answered.wait(20), "nothing else was served meanwhile"
            return []

    async def scenario(ask: Ask) -> None:
        scrape = asyncio.ensure_future(ask("/metrics"))
        await asyncio.sleep(0.05)
        assert (await ask("/healthz"))[0] == 200
        answered.set()
        assert (await scrape)[0] == 200

    slow = Slow()
    REGISTRY.register(slow)
    try:
        Rig().run(scenario)
    finally:
        REGISTRY.unregister(slow)


def test_metrics_are_served() -> None:
    async def scenario(ask: Ask) -> None:
        status, text = await ask("/metrics")
        assert status == 200
        assert "instructbooth_watch_lag_seconds" in text

    Rig().run(scenario)
