"""`instructbooth-operator`: put the parts together and run them until a signal comes or one of them ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from typing import Any

import click
from prometheus_client import REGISTRY
from pydantic.alias_generators import to_snake

from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth_operator.api import Api
from instructbooth_operator.cache import Cache, Key, job_key
from instructbooth_operator.carry_out import Hands
from instructbooth_operator.errors import BeginAnew
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.lease import Lease, LeaseLost
from instructbooth_operator.lookout import Lookout
from instructbooth_operator.metrics import JobCollector, stand_by
from instructbooth_operator.observe import Observer, utc_now
from instructbooth_operator.progress import ProgressPuller
from instructbooth_operator.reconciler import Reconciler
from instructbooth_operator.resync import Resync
from instructbooth_operator.server import application, serve
from instructbooth_operator.settings import Settings
from instructbooth_operator.watches import registry_for, watch
from instructbooth_operator.workqueue import WorkQueue

log = logging.getLogger("instructbooth_operator")

ELECTION_RATE = (10.0, 2)  # requests a second, requests at a time: one that hangs does not keep the next one waiting
ELECTION_TIMEOUT_SECONDS = 5.0
# Python looks for cycles whenever there are 700 new objects, which one pass makes: a seventh of the operator's CPU.
GARBAGE_COLLECTION = 20_000


async def run(settings: Settings, now: Callable[[], datetime] = utc_now) -> None:
    """Run the operator by the wall clock `now`. Returns after SIGTERM or SIGINT; raises what ended it otherwise."""
    cache, queue, freshness, stop = Cache(), WorkQueue[Key](), Freshness(), asyncio.Event()
    _stop_on_signals(stop)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_unless(stop))
        collector = JobCollector(cache)
        REGISTRY.register(collector)
        stack.callback(REGISTRY.unregister, collector)
        stack.callback(stand_by)
        # A way of its own to the API server: renewals wait for no other request.
        election = await stack.enter_async_context(Api(*ELECTION_RATE, timeout=ELECTION_TIMEOUT_SECONDS))
        lease = Lease(election, settings.lease, settings.lease_namespace, settings.identity)
        api = await stack.enter_async_context(
            Api(settings.requests_per_second, settings.requests_at_once, may_write=lease.holds)
        )
        observer = Observer(api, cache, now, settings.read_workloads)
        puller = await stack.enter_async_context(
            ProgressPuller(settings.progress_url, settings.pull_seconds, observer.addresses, changed=queue.add)
        )
        resync = Resync(api=api, cache=cache, queue=queue, freshness=freshness, namespaces=settings.namespaces)
        http = await serve(application(freshness, resync, lease), settings.listen_port)
        stack.push_async_callback(http.cleanup)
        stopped = asyncio.create_task(_set(stop), name="stopped")
        # Whoever could not do the work must not take the Lease from those who can, nor call itself ready.
        if settings.lease and not await under(stopped, resync.can_list()):
            return
        stack.push_async_callback(lease.release)
        if not await under(stopped, lease.acquire()):
            return
        tenure = asyncio.create_task(first_of(stopped, asyncio.create_task(lease.keep(), name="lease")))
        if not await under(tenure, resync.prime()):
            return
        log.info("working: %d jobs known, trainer image %s", len(cache.jobs()), settings.trainer.image)
        lookout = Lookout(observer.evidence_of_all, starting=observer.starting, begun=cache.begun, done=queue.add)
        reconciler = Reconciler(
            queue=queue,
            cache=cache,
            observer=observer,
            hands=Hands(api, cache, freshness, now),
            puller=puller,
            lookout=lookout,
            defaults=settings.trainer,
            doubtful={job_key(job): job["metadata"]["uid"] for job in cache.jobs()},
        )
        registry = registry_for(cache, queue, freshness, lookout.awaits)
        watching = watch(registry, resync.served, lambda: _stop_on_signals(stop))
        await first_of(
            tenure,
            asyncio.create_task(_as_long_as_listed(watching, resync), name="watches"),
            asyncio.create_task(resync.run(settings.resync_seconds), name="resync"),
            asyncio.create_task(puller.run(), name="progress"),
            asyncio.create_task(lookout.run(), name="lookout"),
            asyncio.create_task(lookout.glance_for_ever(), name="glances"),
            *(asyncio.create_task(reconciler.work(), name=f"worker-{n}") for n in range(settings.workers)),
        )


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Be told of SIGTERM from the start: the first process of a container dies of no signal that it does not handle."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


@contextlib.contextmanager
def _unless(stop: asyncio.Event) -> Iterator[None]:
    """Whoever is to stop does not begin anew, even if the signal comes while everything is being closed."""
    try:
        yield
    except BeginAnew:
        if not stop.is_set():
            raise


async def _as_long_as_listed(watching: Coroutine[Any, Any, None], resync: Resync) -> None:
    """A watch may be refused before the next list is; then that is what there is to say."""
    try:
        await watching
    except BeginAnew:
        raise
    except Exception:
        await resync.same_namespaces()
        raise


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def under(guard: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> bool:
    """Do a piece of work unless the guard ends first; whether it was done. Raises what either raised."""
    working = asyncio.create_task(work)
    await asyncio.wait({guard, working}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    guard.result()
    return False


async def first_of(*tasks: asyncio.Task[None]) -> None:
    """Return when one of the tasks ends, and end the others. Raises what any of those that ended raised."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


_POD_DEFAULTS = {"imagePullSecrets": list, "tolerations": list, "nodeSelector": dict}


def _pod_defaults(_: click.Context, __: click.Parameter, text: str) -> dict[str, Any]:
    """Arguments of TrainerDefaults, from JSON with the names of core/v1."""
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"is no JSON: {error}") from error
    if not isinstance(given, dict) or any(not isinstance(given[key], _POD_DEFAULTS.get(key, ())) for key in given):
        kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in _POD_DEFAULTS.items())
        raise click.BadParameter(f"must be an object of {kinds}")
    return {to_snake(name): value for name, value in given.items()}


@click.command(context_settings={"auto_envvar_prefix": "INSTRUCTBOOTH", "show_default": True})
@click.option("--trainer-image", required=True, help="Image of the training pods.")
@click.option("--trainer-image-pull-policy", default="IfNotPresent", help="When the kubelet pulls it.")
@click.option("--trainer-pod", default="{}", callback=_pod_defaults,
              help="JSON of imagePullSecrets, tolerations, nodeSelector for them, beside the job's own.")  # fmt: skip
@click.option("--watch-namespaces", default="", help="Comma-separated; empty: the whole cluster.")
@click.option("--read-workloads", default=True, type=bool, help="Ask Kueue why a queued job waits.")
@click.option("--workers", default=16, type=click.IntRange(1, 256), help="Reconciles at a time.")
@click.option("--listen-port", default=8080, help="Port of /metrics, /healthz and /readyz.")
@click.option("--progress-url", default="http://{host}:9400/progress", help="Where rank 0's progress is pulled from.")
@click.option("--pull-seconds", default=5.0, help="Seconds between two pulls of one job.")
@click.option("--resync-seconds", default=120.0, help="Seconds between two full lists.")
@click.option("--requests-per-second", default=200.0, help="Requests to the API server, at most.")
@click.option("--requests-at-once", default=32, help="Requests under way at a time, at most.")
@click.option("--lease", default="", help="Name of the Lease that one replica holds; empty: there is no other.")
@click.option("--pod-namespace", envvar="POD_NAMESPACE", default="default", help="Namespace of the Lease.")
@click.option("--pod-name", envvar="POD_NAME", default=socket.gethostname, help="Who holds the Lease.")
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
def main(  # one parameter for each flag: the flags are the interface
    trainer_image: str,
    trainer_image_pull_policy: str,
    trainer_pod: dict[str, Any],
    watch_namespaces: str,
    read_workloads: bool,
    workers: int,
    listen_port: int,
    progress_url: str,
    pull_seconds: float,
    resync_seconds: float,
    requests_per_second: float,
    requests_at_once: int,
    lease: str,
    pod_namespace: str,
    pod_name: str,
    log_level: str,
) -> None:
    """Run InstructBoothJobs. Every flag can be given as INSTRUCTBOOTH_<FLAG> in the environment."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        trainer=TrainerDefaults(trainer_image, trainer_image_pull_policy, **trainer_pod),
        namespaces=tuple(filter(None, (part.strip() for part in watch_namespaces.split(",")))),
        read_workloads=read_workloads,
        workers=workers,
        listen_port=listen_port,
        progress_url=progress_url,
        pull_seconds=pull_seconds,
        resync_seconds=resync_seconds,
        requests_per_second=requests_per_second,
        requests_at_once=requests_at_once,
        lease=lease,
        lease_namespace=pod_namespace,
        identity=pod_name,
    )
    gc.freeze()  # what was imported stays
    gc.set_threshold(GARBAGE_COLLECTION)
    while True:
        try:
            return asyncio.run(run(settings))
        # In a new event loop, with nothing of the old one. A process that ends is started again ever later.
        except LeaseLost as lost:
            log.error("%s; standing by", lost)
        except BeginAnew as changed:
            log.warning("%s; beginning anew", changed)
