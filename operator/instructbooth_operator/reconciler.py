"""One job, one pass: look, plan, act, tell, write. And what to do when the API server says no."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from instructbooth.reconcile.actions import Apply, Event, Haste, Plan
from instructbooth.reconcile.observed import Evidence, Rejection
from instructbooth.reconcile.plan import plan
from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth.spec.status import InstructBoothJobStatus
from instructbooth_operator.cache import Cache, JsonObject, Key, version
from instructbooth_operator.carry_out import Hands, Rejected
from instructbooth_operator.errors import ApiError, NotLeading, StillThere
from instructbooth_operator.lookout import Lookout
from instructbooth_operator.metrics import QUEUE, RECONCILE_SECONDS, RECONCILES, RESTARTS
from instructbooth_operator.observe import Observer
from instructbooth_operator.progress import ProgressPuller
from instructbooth_operator.specs import Specs
from instructbooth_operator.turns import Turns
from instructbooth_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 60.0
SETTLE_SECONDS = 2.0  # after which a pass that had news of a child is followed by another, if nothing wakes it before
ASKS_PER_SECOND = 5.0  # of Kueue, however many jobs wait in queues
TRIES_TO_TELL = 5  # passes that may fail for the sake of events, one after the other: 15 seconds


class Reconciler:
    """Brings jobs one step further, one worker at a time for each.

    Args:
        doubtful: uid by key of the jobs that were there when this process took over: an earlier one may still have a
            write under way that nobody has seen yet.
    """

    def __init__(
        self,
        *,
        queue: WorkQueue[Key],
        cache: Cache,
        observer: Observer,
        hands: Hands,
        puller: ProgressPuller,
        lookout: Lookout,
        defaults: TrainerDefaults,
        doubtful: Mapping[Key, str],
    ) -> None:
        self._queue = queue
        self._cache = cache
        self._observer = observer
        self._hands = hands
        self._puller = puller
        self._defaults = defaults
        self._failures: dict[Key, int] = {}
        self._lookout = lookout
        self._asks = Turns[Key](ASKS_PER_SECOND)
        self._specs = Specs()
        self._untold: Counter[Key] = Counter()
        self._doubtful = dict(doubtful)  # and the jobs of which an own write has an unknown end

    async def work(self) -> None:
        """Work on whatever comes, for ever. Nothing that goes wrong with one job ends it."""
        clock = asyncio.get_running_loop().time
        while True:
            # Neither a queue that is not empty nor a pass that finds nothing to do waits for anything: without this a
            # worker would go through thousands of jobs while nobody renews the Lease.
            await asyncio.sleep(0)
            key = await self._queue.get()
            QUEUE.set(len(self._queue))
            started = clock()
            try:
                again = await self.reconcile(key)
            except Exception as error:  # noqa: BLE001 - logged and tried again, whatever it is
                self._retry(key, error)
            else:
                if not self._lookout.awaits(key):  # it has not come to what failed before
                    self._failures.pop(key, None)
                    self._untold.pop(key, None)
                RECONCILES.labels("ok").inc()
                if again is not None:
                    self._queue.add(key, again)
            finally:
                RECONCILE_SECONDS.observe(clock() - started)
                self._queue.done(key)

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds after which to look again, None if only when something happens.

        Raises ApiError, NotLeading, StillThere, and pydantic.ValidationError for a status of a version to come.
        """
        job = self._cache.job(key)
        if job is None:
            self._puller.watch(key, None)
            self._lookout.forget(key)
            self._asks.forget(key)
            self._specs.forget(key)
            self._doubtful.pop(key, None)
            return None
        seen = self._lookout.take(key)
        made = await self._plan(key, job, seen)
        if self._hinges_on_truth(key, job, made):
            # Decide on what is true now, not on what a watch said some time ago.
            fresh = await self._observer.refresh(key)
            if fresh is None:
                return 0.0
            if version(fresh) != version(job):
                job, made = fresh, await self._plan(key, fresh, seen)
        news = False
        try:
            for action in made.actions:
                news |= await self._hands.act(job, action)
        except Rejected as refused:
            made = await self._plan(key, job, seen, refused.rejection)
        for event in made.events:
            await self._tell(key, job, event)
        try:
            written = await self._hands.write_status(job, made.status)
        except Exception as error:
            self._doubtful[key] = job["metadata"]["uid"]  # for all that is known here it may have been written
            if isinstance(error, ApiError) and error.conflict:
                await self._observer.refresh(key)  # the next pass decides on what is true
            raise
        if written:
            self._doubtful.pop(key, None)
            self._count(job, made.status)
        self._puller.watch(key, made.pull_from)
        if made.look_again is not None:
            after, look = made.look_again
            self._lookout.ask(key, look, after)
        if not news:  # a status is only written if nobody has written since: its echo has nothing new
            return made.requeue_after
        # The echo of a child's write wakes nobody, and what it may have shown beside is seen soon.
        return SETTLE_SECONDS if made.requeue_after is None else min(made.requeue_after, SETTLE_SECONDS)

    def _hinges_on_truth(self, key: Key, job: JsonObject, made: Plan) -> bool:
        """Whether a plan that was made from a late watch could do or say what is wrong.

        To start a gang, and to tell good news, cannot be wrong for a job that only this process has ever written: it
        knows what it wrote. Such a job was not there yet when this process took over; or this process has written its
        status, whose precondition shut out whatever an earlier one had under way. (An edit of the spec that comes at
        the same moment is obeyed by the next pass, as it would be if it came a moment later.)
        """
        if not (made.actions or made.events):
            return False
        starts = all(isinstance(action, Apply) for action in made.actions)
        good = all(event.type == "Normal" for event in made.events)
        return not (starts and good) or self._doubtful.get(key) == job["metadata"]["uid"]

    async def _tell(self, key: Key, job: JsonObject, event: Event) -> None:
        """Post an event, before the status that it tells of is written: afterwards a crash would lose it for ever.

        Whoever comes after a crash posts it again under the same name. But no job waits long for its events: after a
        few passes that failed it goes on without.
        """
        try:
            await self._hands.post(job, event)
        except ApiError as error:
            if not (error.refused or error.not_found) and self._untold[key] < TRIES_TO_TELL:
                self._untold[key] += 1
                raise
            log.warning("%s/%s: the event %s is lost: %s", *key, event.reason, error)

    async def _plan(
        self, key: Key, job: JsonObject, seen: tuple[str, Evidence] | None, rejection: Rejection | None = None
    ) -> Plan:
        """What to do. `seen`: a child, and its pods as they were some time ago.

        The children are observed once, before any look: pods that were listed before a gang ended do not tell how.
        """
        observed = await self._observer.observe(job, self._puller.latest(key), self._puller.silence(key), rejection)
        while True:
            made = plan(job, observed, self._defaults, self._specs.read)
            if look := made.look_at:
                if look.haste is Haste.NOW:
                    evidence = await self._observer.evidence(key.namespace, look.child)
                elif seen is not None and seen[0] == look.child:
                    evidence = seen[1]
                else:
                    self._lookout.ask(key, look)
                    return made  # nothing is done until then
                observed = replace(observed, evidence={**observed.evidence, look.child: evidence})
                continue
            self._lookout.forget(key)
            if made.ask_kueue is None:
                return made
            if (wait := self._asks.wait(key)) > 0:
                return replace(made, requeue_after=wait)
            child, uid = made.ask_kueue
            said = await self._observer.waiting(key.namespace, child, uid)
            observed = replace(observed, waiting={**observed.waiting, child: said})

    def _retry(self, key: Key, error: Exception) -> None:
        """Log what went wrong, and try again later, ever later."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 10), MAX_RETRY_SECONDS)
        result, level = "error", logging.ERROR
        if isinstance(error, StillThere | NotLeading):
            result, level = "waiting", logging.INFO
            wait = min(wait, 2.0)
        elif isinstance(error, ApiError):
            result, level = ("conflict", logging.DEBUG) if error.conflict else ("api-error", logging.WARNING)
            wait = max(wait, error.retry_after or 0.0)
        expected = isinstance(error, ApiError | StillThere | NotLeading)
        log.log(level, "%s/%s: %s; again in %.1f s", *key, error, wait, exc_info=None if expected else error)
        RECONCILES.labels(result).inc()
        self._queue.add(key, wait)

    def _count(self, job: JsonObject, new: InstructBoothJobStatus) -> None:
        """Count restarts from what was written, so that none is counted twice."""
        old = InstructBoothJobStatus.from_object(job)
        before = {stage.name: stage.restarts for stage in old.stages}
        for stage in new.stages:
            past = before.get(stage.name)
            for cause in ("failures", "disruptions"):
                more = getattr(stage.restarts, cause) - (getattr(past, cause) if past else 0)
                if more > 0:
                    RESTARTS.labels(stage.name.value, cause).inc(more)
