"""Samples on the way: what they count, and that a process that ends does not end them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.operator.load import Times
from benchmarks.operator.measures import counter
from benchmarks.operator.samples import Sampler

SCRAPE = """# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="pods",verb="LIST"} 4
apiserver_request_total{code="410",resource="pods",verb="LIST"} 1
apiserver_request_total{code="200",resource="jobs",verb="LIST"} 32
apiserver_request_total{code="200",resource="pods",verb="WATCH"} 64
apiserver_resource_objects{group="",resource="pods"} 812
apiserver_terminated_watchers_total{group="",resource="pods"} 3
apiserver_terminated_watchers_total{group="batch",resource="jobs"} 1
"""


class Plane:
    def __init__(self) -> None:
        self.alive = True

    def pids(self) -> dict[str, int]:
        return {"kwok": os.getpid()}

    def metrics(self) -> str:
        if not self.alive:
            raise ConnectionError("refused")
        return SCRAPE


def test_a_counter_is_summed_over_the_series_that_are_wanted() -> None:
    assert counter(SCRAPE, "apiserver_request_total", verb="LIST", resource="pods") == 5
    assert counter(SCRAPE, "apiserver_request_total", resource="pods") == 69
    assert counter(SCRAPE, "apiserver_request") == 0


def test_a_line_each_time_and_a_last_one(tmp_path: Path) -> None:
    plane: Any = Plane()
    times = Times(created={"a": 1.0, "b": 2.0, "c": 3.0}, first_pod={"a": 2.0, "b": 3.0}, done={"a": 9.0})
    path, said = tmp_path / "samples.jsonl", list[str]()
    path.write_text("of an earlier run")
    sampler = Sampler(plane, times, path, said.append, seconds=0.01)
    end = time.monotonic() + 30
    while len(said) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    plane.alive = False
    sampler.close()
    *lines, last = (json.loads(line) for line in path.read_text().splitlines())
    assert last == {"error": "refused"}
    counted = {"created": 3, "with_pod": 2, "done": 1, "pods": 812, "pod_lists": 5, "lost_watches": 4}
    assert lines[0].items() >= counted.items()
    assert lines[0]["mib"]["kwok"] > 1
    assert lines[1]["seconds"] >= lines[0]["seconds"]
    assert said[0] == "3 jobs created, 2 with a pod, 1 done"
