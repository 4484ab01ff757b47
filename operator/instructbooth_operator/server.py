"""/metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from instructbooth_operator.freshness import Freshness
from instructbooth_operator.lease import Lease
from instructbooth_operator.resync import Resync

DEAD_AFTER_SECONDS = 60.0


def application(freshness: Freshness, resync: Resync, lease: Lease) -> web.Application:
    """The HTTP application. A blocked event loop answers nothing, which is the right answer too."""

    async def healthz(_: web.Request) -> web.Response:
        lag, idle = freshness.lag(), lease.idle()
        if idle > DEAD_AFTER_SECONDS:
            return web.Response(status=503, text=f"nobody has tried for the Lease for {idle:.0f} s\n")
        if lag > DEAD_AFTER_SECONDS:
            return web.Response(status=503, text=f"the watch has not shown a known change for {lag:.0f} s\n")
        return web.Response(text=f"ok, the watch is {lag:.1f} s late\n")

    async def readyz(_: web.Request) -> web.Response:
        # A replica that would take over is what it should be: a rollout that waits for it must not hang.
        if lease.standing_by():
            return web.Response(text="ok, standing by\n")
        if not resync.primed:
            return web.Response(status=503, text="not ready: waiting for the API server or the CRD\n")
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        # In a thread: with 5,000 jobs it takes two seconds, in which nobody would renew the Lease.
        body = await asyncio.to_thread(generate_latest, REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


async def serve(app: web.Application, port: int) -> web.AppRunner:
    """Serve on all interfaces; `cleanup()` the result to stop."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port, reuse_port=False).start()
    return runner
