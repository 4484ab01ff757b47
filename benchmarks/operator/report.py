"""Results as lines of JSON, one for each measure, and as a file."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import rounded
from benchmarks.operator.measure import Result
from benchmarks.operator.measures import events, reads, row, writes


def rows(ours: Result | None, peer: Result | None, floor: Result | None) -> list[dict[str, Any]]:
    """All measures of one N. What was not run is null."""
    versions = {**(ours.versions if ours else {}), **(peer.versions if peer else {}), "kubernetes": "v1.35.4"}
    jobs = next(result.jobs for result in (ours, peer, floor) if result)
    made: list[dict[str, Any]] = []

    def add(name: str, unit: str, value: Any, floored: bool = False) -> None:
        sides = [None if result is None else float(value(result)) for result in (ours, peer)]
        more = {"jobs": jobs} | ({"floor": rounded(value(floor))} if floored and floor else {})
        if sides == [None, None] and "floor" not in more:
            return
        made.append(row(name, sides[0], sides[1], unit, versions, **more))

    add("stage_rate", "stages/s", lambda r: r.stages / r.seconds, floored=True)
    add("first_pod_p50", "s", lambda r: r.first_pod[0], floored=True)
    add("first_pod_p99", "s", lambda r: r.first_pod[1], floored=True)
    add("own_cpu_per_stage", "ms", lambda r: 1000 * r.own_cpu / r.stages)
    add("memory_peak", "MiB", lambda r: r.memory)
    add("reconcile_p50", "s", lambda r: r.reconcile[0])
    add("reconcile_p99", "s", lambda r: r.reconcile[1])
    add("event_loop_lag_p50", "s", lambda r: r.loop_lag[0])
    add("event_loop_lag_p99", "s", lambda r: r.loop_lag[1])
    add("probe_p50", "s", lambda r: r.probe[0])
    add("probe_p99", "s", lambda r: r.probe[1])
    add("writes_per_stage", "requests", lambda r: writes(r.requests) / r.stages)
    add("events_per_stage", "requests", lambda r: events(r.requests) / r.stages)
    add("reads_per_stage", "requests", lambda r: reads(r.requests) / r.stages)
    add("apiserver_cpu_per_stage", "ms", lambda r: 1000 * r.plane_cpu["kube-apiserver"] / r.stages, floored=True)
    add(
        "machine_cpu_per_stage", "ms", lambda r: 1000 * (sum(r.plane_cpu.values()) + r.own_cpu) / r.stages, floored=True
    )
    add("all_writes_per_stage", "requests", lambda r: sum(r.all_writes.values()) / r.stages, floored=True)
    for name in sorted({*(ours.requests if ours else ()), *(peer.requests if peer else ())}):
        add(f"requests {name}", "per job", lambda r, name=name: r.requests.get(name, 0) / r.jobs)
    return made
