"""One contender, N jobs: start it, load it, read every meter, clear up behind it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.operator import load
from benchmarks.operator.contender import Contender
from benchmarks.operator.measures import all_writes, buckets, percentile, quantile, requests
from benchmarks.operator.plane import BenchPlane
from benchmarks.operator.processes import Prober, Stopwatch, memory_mib, settle
from benchmarks.operator.samples import Sampler
from tests.integration.operator.plane import JsonObject, Refused

# What is written after the last job is done belongs to it, too.
AFTERWARDS_SECONDS = 2.0


@dataclass
class Result:
    """The meters after N jobs. CPU in seconds, memory in MiB; all for all N.

    `requests` by `verb resource` are the contender's own, `all_writes` those of everybody in the cluster.
    """

    contender: str
    jobs: int
    stages: int
    seconds: float
    first_pod: tuple[float, float]
    own_cpu: float
    memory: float
    reconcile: tuple[float, float]
    loop_lag: tuple[float, float]
    probe: tuple[float, float]
    plane_cpu: dict[str, float]
    requests: dict[str, int]
    all_writes: dict[str, float]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def say(text: str) -> None:
    """Progress, on stderr: results are on stdout."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def measure(contender: Contender, count: int, seconds: float, out: Path) -> Result:
    """Measure one contender with `count` jobs, from its start to its end; samples on the way go into the folder."""
    plane = contender.plane
    make_namespace(plane)
    contender.start()
    settle(plane.pids())
    say(f"{contender.name}: {count} jobs")
    audit_from = plane.audit_log.stat().st_size
    scraped = contender.metrics()
    written = all_writes(plane.metrics())
    watch, prober, times = Stopwatch(plane.pids()), Prober(contender.health_urls()), load.Times()
    sampler = Sampler(plane, times, out / f"samples-{contender.name}-{count}.jsonl", say)
    try:
        load.run(contender, count, seconds, times)
        time.sleep(AFTERWARDS_SECONDS)
        cpu = watch.read()
    finally:
        sampler.close()
        probes = prober.close()
    text = contender.metrics()
    everybody = {name: count - written.get(name, 0.0) for name, count in all_writes(plane.metrics()).items()}
    counted = _requests(plane, audit_from, contender.namespaces)
    result = Result(
        contender=contender.name,
        jobs=count,
        stages=count * contender.stages,
        seconds=times.seconds,
        first_pod=_two(times.to_first_pod()),
        own_cpu=sum(cpu[name] for name in contender.processes),
        memory=sum(memory_mib(pid) for pid in contender.processes.values()),
        reconcile=_quantiles(scraped, text, contender.histogram),
        loop_lag=_quantiles(scraped, text, contender.lag_histogram),
        probe=_two(probes),
        plane_cpu={name: value for name, value in cpu.items() if name not in contender.processes},
        requests=dict(sorted(counted.items())),
        all_writes={name: count for name, count in sorted(everybody.items()) if count},
        versions=contender.versions(),
    )
    say(f"{contender.name}: {result.stages} stages in {result.seconds:.1f} s; clearing up")
    clear(plane, contender)
    contender.stop()
    settle(plane.pids())
    return result


def clear(plane: BenchPlane, contender: Contender) -> None:
    """Delete everything that the jobs left, and wait until it is gone."""
    base = f"namespaces/{load.NAMESPACE}"
    _delete(plane, contender.path(load.NAMESPACE), "Background")
    for path in ("/apis/jobset.x-k8s.io/v1alpha2/{}/jobsets", "/apis/batch/v1/{}/jobs"):
        _delete(plane, path.format(base), "Background")
    for kind in ("pods", "services", "configmaps", "events"):
        _delete(plane, f"/api/v1/{base}/{kind}", "Background", grace=0)
    _delete(plane, f"/api/v1/{base}", "Background")
    plane.wait("the namespace to be gone", lambda: not _exists(plane, f"/api/v1/{base}"), 1200)


def _delete(plane: BenchPlane, path: str, propagation: str, grace: int | None = None) -> None:
    options: JsonObject = {"propagationPolicy": propagation}
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    while True:
        try:
            plane.request("DELETE", path, options)
        except Refused as refused:
            if refused.code not in (404, 405):
                raise
        except TimeoutError:  # a large collection: what is gone is gone, the rest is asked for again
            continue
        return


def _exists(plane: BenchPlane, path: str) -> bool:
    try:
        plane.request("GET", path)
    except Refused:
        return False
    return True


def make_namespace(plane: BenchPlane) -> None:
    """The namespace of the load, with the service account that pods need."""
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": load.NAMESPACE}})
    accounts = f"/api/v1/namespaces/{load.NAMESPACE}/serviceaccounts"
    plane.wait("its service account", lambda: plane.request("GET", accounts)["items"])


def _requests(plane: BenchPlane, start: int, namespaces: tuple[str, ...]) -> Counter[str]:
    with plane.audit_log.open() as log:
        log.seek(start)
        return requests(log, namespaces)


def _quantiles(before: str, after: str, metric: str) -> tuple[float, float]:
    """p50 and p99 of what a histogram took in between two scrapes; nan where there is none."""
    counts = (buckets(before, metric), buckets(after, metric)) if metric else ({}, {})
    return quantile(*counts, 0.5), quantile(*counts, 0.99)


def _two(values: list[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.99)
