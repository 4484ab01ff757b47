"""The operator's Prometheus metrics. What can be read from the cache is counted when it is scraped."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from instructbooth.contract import STAGES
from instructbooth.spec.status import Phase, Restarts
from instructbooth_operator.cache import Cache

API_REQUESTS = Counter(
    "instructbooth_api_requests_total",
    "Requests to the API server; code 0: no answer.",
    ["verb", "resource", "code"],
)
RECONCILES = Counter("instructbooth_reconcile_total", "Reconciles by how they ended.", ["result"])
RECONCILE_SECONDS = Histogram(
    "instructbooth_reconcile_seconds",
    "Time of one reconcile.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RESTARTS = Counter("instructbooth_stage_restarts_total", "Gang restarts by who is charged.", ["stage", "cause"])
LOOP_LAG = Histogram(
    "instructbooth_event_loop_lag_seconds",
    "How late the event loop was at its heartbeats, one in five seconds.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LOOP_TASKS = Gauge("instructbooth_event_loop_tasks", "Tasks of the event loop; one that never ends would add up.")
WATCH_LAG = Gauge("instructbooth_watch_lag_seconds", "For how long a change that is known is missing from the watch.")
REFUSED_NAMESPACES = Gauge("instructbooth_refused_namespaces", "Watched namespaces whose jobs may not be listed.")
LEADER = Gauge("instructbooth_leader", "1 if this replica works, 0 if it waits for the Lease.")
QUEUE = Gauge("instructbooth_queue_depth", "Jobs waiting for a worker.")
PULLS = Counter("instructbooth_progress_pulls_total", "Pulls of progress from rank 0.", ["result"])

# From the start at 0: `increase()` sees the first restart only if it saw the zero before it.
for _stage in STAGES:
    for _cause in Restarts.model_fields:
        RESTARTS.labels(_stage.value, _cause)


def stand_by() -> None:
    """This replica watches and works no more: what it measured then must not look like the present."""
    for gauge in (LOOP_TASKS, WATCH_LAG, QUEUE, REFUSED_NAMESPACES):
        gauge.set(0)


class JobCollector(Collector):
    """Metrics about jobs, from the cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """Count phases, read progress and reward."""
        phases: Tally[str] = Tally({phase.value: 0 for phase in Phase})
        job = ["namespace", "name"]
        progress = GaugeMetricFamily(
            "instructbooth_job_progress_ratio", "Share of the present stage that is done.", labels=[*job, "stage"]
        )
        value = GaugeMetricFamily(
            "instructbooth_job_stage_metric",
            "What rank 0 said last, by the name it gave it.",
            labels=[*job, "stage", "metric"],
        )
        result = GaugeMetricFamily(
            "instructbooth_job_evaluation", "The evaluation's means.", labels=[*job, "model", "metric"]
        )
        for obj in self._cache.jobs():
            meta, status = obj["metadata"], obj.get("status", {})
            labels = [meta["namespace"], meta["name"]]
            phases[status.get("phase", Phase.PENDING.value)] += 1
            for stage in status.get("stages", ()):
                if said := stage.get("progress"):
                    if said.get("total"):
                        progress.add_metric([*labels, stage["name"]], min(1.0, said["step"] / said["total"]))
                    for metric, number in said.get("metrics", {}).items():
                        value.add_metric([*labels, stage["name"], metric], number)
            for model, numbers in status.get("evaluation", {}).items():
                for metric, number in numbers.items():
                    result.add_metric([*labels, model, metric], number)
        counted = GaugeMetricFamily("instructbooth_jobs", "InstructBoothJobs by phase.", labels=["phase"])
        for phase, count in phases.items():
            counted.add_metric([phase], count)
        return [counted, progress, value, result]
