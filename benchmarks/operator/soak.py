"""`make soak`: simulated hours in which jobs arrive, run, fail, are suspended and deleted, and what is left of them.

KWOK's pods take their time here, divided by how much faster the clock runs. At the end everything must be gone: no
object, no task, and no memory that grew with the number of jobs that have been.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.operator import load, stages
from benchmarks.operator.life import TTL_SECONDS, fate, growth
from benchmarks.operator.measure import make_namespace, say
from benchmarks.operator.ours import Ours
from benchmarks.operator.plane import BenchPlane, running
from benchmarks.operator.processes import cpu_seconds, end_with_everything, memory_mib
from instructbooth.contract import Label
from tests.integration.operator.plane import JsonObject, Refused

SAMPLES = 96
MERGE = "application/merge-patch+json"
GAUGES = {
    "tasks": "instructbooth_event_loop_tasks",
    "queue": "instructbooth_queue_depth",
}


class Soak:
    """One simulated day. `speed`: simulated seconds in one real second."""

    def __init__(self, plane: BenchPlane, ours: Ours, speed: float, jobs_per_hour: float) -> None:
        self._plane, self._ours, self._speed = plane, ours, speed
        self._pause = 3600 / jobs_per_hour
        self._path = ours.path(load.NAMESPACE)
        self._due: list[tuple[float, int, str, str]] = []
        self._order = count()
        self._began = time.monotonic()
        self.samples: list[dict[str, Any]] = []
        self.made = 0

    def now(self) -> float:
        """Simulated seconds since the start."""
        return (time.monotonic() - self._began) * self._speed

    def run(self, hours: float) -> None:
        """Let jobs come for so many simulated hours, then wait until the last one has gone by itself."""
        self._began = time.monotonic()
        self._plan(0.0, "arrive", "")
        every = hours * 3600 / SAMPLES
        sampled, end = 0.0, hours * 3600
        while self._due and self._due[0][0] < end:
            at, _, what, name = heapq.heappop(self._due)
            time.sleep(max(0.0, (at - self.now()) / self._speed))
            self._do(what, name)
            if self.now() >= sampled:
                self.samples.append(self._sample())
                sampled += every
        say(f"{self.made} jobs have come; waiting until the last has gone")
        while self._due:  # those that were suspended must go on, or they would never end
            _, _, what, name = heapq.heappop(self._due)
            if what == "resume":
                self._do(what, name)
        self._plane.wait("the last job to go", lambda: not self._jobs(), 1800)

    def idle_tasks(self) -> float:
        """Tasks before any job has come, once the event loop's first heartbeat has counted them."""
        return float(self._plane.wait("the first heartbeat", lambda: self._sample()["tasks"]))

    def left(self) -> list[str]:
        """Objects that the operator made and that are still there."""
        base, selector = f"namespaces/{load.NAMESPACE}", f"?labelSelector={Label.MANAGED_BY}%3D{Label.MANAGER}"
        kinds = {"apis/batch/v1": ("jobs",), "api/v1": ("pods", "configmaps")}
        return [
            f"{kind}/{obj['metadata']['name']}"
            for group, plurals in kinds.items()
            for kind in plurals
            for obj in self._plane.request("GET", f"/{group}/{base}/{kind}{selector}")["items"]
        ]

    def final(self) -> dict[str, Any]:
        """A sample when everything has been quiet for a while."""
        self._plane.wait("the garbage collector", lambda: not self.left(), 300)
        time.sleep(15)  # kopf's workers of objects end when nothing came for five seconds; the gauge is read every five
        return self._sample()

    def _plan(self, at: float, what: str, name: str) -> None:
        heapq.heappush(self._due, (at, next(self._order), what, name))

    def _do(self, what: str, name: str) -> None:
        self._plane.alive()
        if what == "arrive":
            self._arrive()
            self._plan(self.made * self._pause, "arrive", "")
            return
        try:
            if what == "delete":
                self._plane.request("DELETE", f"{self._path}/{name}")
            else:
                patch = {"spec": {"runPolicy": {"suspend": what == "suspend"}}}
                self._plane.request("PATCH", f"{self._path}/{name}", patch, MERGE)
        except Refused as refused:
            if refused.code != 404:  # its time to live was over before
                raise

    def _arrive(self) -> None:
        name, lot, now = f"soak-{self.made:05}", fate(self.made), self.now()
        manifest: JsonObject = self._ours.manifest(name, load.NAMESPACE)
        spec = {**manifest["spec"], "runPolicy": {"ttlSecondsAfterFinished": max(1, round(TTL_SECONDS / self._speed))}}
        self._plane.request("POST", self._path, {**manifest, "spec": spec})
        self.made += 1
        for after, what in (
            (lot.deleted_after, "delete"),
            (lot.suspended_after, "suspend"),
            (lot.resumed_after, "resume"),
        ):
            if after is not None:
                self._plan(now + after, what, name)

    def _jobs(self) -> list[JsonObject]:
        items: list[JsonObject] = self._plane.request("GET", f"{self._path}?limit=1")["items"]
        return items

    def _sample(self) -> dict[str, Any]:
        pid = next(iter(self._ours.processes.values()))
        text = self._ours.metrics()
        lines = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"
        }
        phases = {key: value for key, value in lines.items() if key.startswith("instructbooth_jobs{")}
        restarts = sum(value for key, value in lines.items() if key.startswith("instructbooth_stage_restarts_total{"))
        return {
            "hour": round(self.now() / 3600, 2),
            "jobs_made": self.made,
            "jobs_known": sum(phases.values()),
            "memory_mib": round(memory_mib(pid, "VmRSS"), 1),
            "cpu_seconds": round(cpu_seconds(pid), 2),
            "restarts": restarts,
            **{name: lines[metric] for name, metric in GAUGES.items()},
        }


def main() -> None:
    """Run it; a line of JSON for each sample, and one with the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24, help="simulated")
    parser.add_argument("--minutes", type=float, default=12, help="real, in which jobs arrive")
    parser.add_argument("--jobs-per-hour", type=float, default=40, help="simulated")
    parser.add_argument("--out", type=Path, default=Path("out/bench-operator"))
    options = parser.parse_args()
    end_with_everything()
    options.out.mkdir(parents=True, exist_ok=True)
    speed = options.hours * 60 / options.minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, running(Path(folder), stages.of_a_day(speed)) as plane:
        ours = Ours(plane, gpus_per_pod=1)
        make_namespace(plane)
        ours.start()
        soak = Soak(plane, ours, speed, options.jobs_per_hour)
        tasks_before = soak.idle_tasks()
        soak.run(options.hours)
        last = soak.final()
        left = soak.left()
        ours.stop()
    for sample in soak.samples:
        print(json.dumps(sample))
    verdict = {
        "name": "soak",
        "simulated_hours": options.hours,
        "speed": speed,
        "jobs": soak.made,
        "memory_growth_mib": round(growth(soak.samples, "memory_mib"), 1),
        "tasks_before": tasks_before,
        "orphans": left,
        **{f"{key}_after": last[key] for key in ("jobs_known", "tasks", "queue", "memory_mib", "restarts")},
    }
    print(json.dumps(verdict), flush=True)
    (options.out / "soak.json").write_text(json.dumps({"samples": soak.samples, "verdict": verdict}, indent=1))


if __name__ == "__main__":
    main()
