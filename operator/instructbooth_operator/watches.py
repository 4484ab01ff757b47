"""kopf, and only here: two watches that feed one queue. kopf writes nothing: no events, annotations or finalizers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import kopf

from instructbooth.contract import GROUP, PLURAL, VERSION, Label
from instructbooth_operator.api import PAGE
from instructbooth_operator.cache import Cache, Key, owner_of
from instructbooth_operator.errors import BeginAnew
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.resync import SELECTOR
from instructbooth_operator.workqueue import WorkQueue


def registry_for(
    cache: Cache, queue: WorkQueue[Key], freshness: Freshness, awaits: Callable[[Key], bool]
) -> kopf.OperatorRegistry:
    """The handlers: put what was seen into the cache, and the job that it concerns into the queue.

    Args:
        cache: what is known.
        queue: jobs to work on.
        freshness: is told of what was seen.
        awaits: whether a look at a job is due. Whatever happens to its gang may make that more urgent.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator]
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)  # type: ignore[untyped-decorator]
    @kopf.on.event("batch", "v1", "jobs", labels={Label.MANAGED_BY: Label.MANAGER}, registry=registry)  # type: ignore[untyped-decorator]
    async def seen(event: dict[str, Any], **_: Any) -> None:
        obj, gone = event["object"], event["type"] == "DELETED"
        freshness.seen(obj, gone)
        if key := take_in(cache, obj, gone, awaits):
            queue.add(key)

    return registry


def take_in(cache: Cache, obj: dict[str, Any], gone: bool, awaits: Callable[[Key], bool]) -> Key | None:
    """Put what was seen into the cache; returns the job to work on for it, if any."""
    key = cache.remove(obj) if gone else cache.put(obj)
    owner = owner_of(obj)
    if key is None and owner is not None and awaits(owner[0]):
        return owner[0]
    return key


class ListExpired(BeginAnew):
    """The API server has forgotten a list before its last page was read."""


class Unremembered(kopf.DiffBaseStorage, kopf.ProgressStorage):  # type: ignore[misc]
    """Nothing: no handler here asks what changed since, or how far it has come.

    kopf's own storages copy each object three times before it knows that; that was two thirds of an event's CPU.
    """

    def build(self, **_: Any) -> dict[str, Any]:
        """An object's essence, of which nothing is wanted."""
        return {}

    def fetch(self, **_: Any) -> None:
        """What was stored: nothing."""

    def store(self, **_: Any) -> None:
        """Leave the object alone."""

    def purge(self, **_: Any) -> None:
        """There is nothing to take away."""

    def touch(self, **_: Any) -> None:
        """Leave the object alone."""

    def clear(self, *, essence: dict[str, Any]) -> dict[str, Any]:
        """The essence without traces of progress, of which there are none."""
        return essence


def settings() -> kopf.OperatorSettings:
    """kopf with everything off that would write to the cluster or need more permissions."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.label_selectors["batch", "v1", "jobs"] = SELECTOR
    chosen.watching.chunk_size = PAGE  # 5,000 jobs in one piece would be 600 MiB
    chosen.persistence.diffbase_storage = chosen.persistence.progress_storage = Unremembered()
    chosen.process.ultimate_exiting_timeout = 30
    return chosen


async def watch(
    registry: kopf.OperatorRegistry, namespaces: tuple[str, ...], stop_on_signals: Callable[[], None]
) -> None:
    """Watch for ever. kopf takes the signals of the process; `stop_on_signals` takes them back."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # one line for every event otherwise
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings(),
        identity=Label.MANAGER,  # no peers see it; without it kopf asks for the user's name, which a bare uid has not
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
    )
    # On a signal kopf would wait five seconds for whatever else goes on in this process, and the Lease with it.
    stop_on_signals()
    try:
        await kopf.run_tasks(tasks, ignored=others)
    except Exception as error:
        if getattr(error, "status", None) == HTTPStatus.GONE:
            raise ListExpired(f"a list of jobs expired while it was read: {error}") from error
        raise
