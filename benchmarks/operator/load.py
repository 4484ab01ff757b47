"""N jobs at once, and a stopwatch: when each was created, had its first pod, was done."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Thread

from benchmarks.operator.contender import Contender
from benchmarks.operator.plane import BenchPlane
from tests.integration.operator.plane import JsonObject, unverified

CONNECTIONS = 8
NAMESPACE = "bench"
VERSION = re.compile(rb'"resourceVersion":"(\d+)"')  # the first in a line is the object's own
ERROR = b'{"type":"ERROR"'
# Pods are many and only their names and times are wanted: the API server sends no more of them.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass
class Times:
    """Seconds on this process's clock, by job."""

    created: dict[str, float] = field(default_factory=dict)
    first_pod: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    began: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first job's creation to the last one's end."""
        return max(self.done.values()) - self.began

    def to_first_pod(self) -> list[float]:
        """Seconds from each job's creation to its first pod."""
        return [at - self.created[name] for name, at in self.first_pod.items() if name in self.created]


class Watch:
    """The lines of a watch, in a thread of its own, from now until `close`.

    The API server ends the watch of whoever reads slower than things happen; then it goes on after the last line.
    """

    def __init__(self, plane: BenchPlane, path: str, seen: Callable[[bytes], None], accept: str) -> None:
        self._plane, self._path, self._seen, self._accept = plane, path, seen, accept
        self._closed = Event()
        self.error: Exception | None = None
        listed = plane.request("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
        self._stream = self._open(listed)
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. The thread ends with the next line or with the control plane."""
        self._closed.set()

    def _open(self, version: str) -> http.client.HTTPResponse:
        url = f"{self._plane.url}{self._path}?watch=true&timeoutSeconds=14400&resourceVersion={version}"
        headers = {"Authorization": "Bearer admin", "Accept": self._accept}
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), context=unverified(), timeout=14400
        )
        return answer

    def _follow(self) -> None:
        try:
            while not self._closed.is_set():
                last = b""
                for line in self._stream:
                    if self._closed.is_set():
                        return
                    if line.startswith(ERROR):
                        raise ConnectionError(f"the watch of {self._path}: {line.decode()}")
                    self._seen(line)
                    last = line
                version = VERSION.search(last)
                if version is None:
                    raise ConnectionError(f"the watch of {self._path} ended")
                self._stream = self._open(version[1].decode())
        except Exception as error:  # noqa: BLE001 - told by `run`, which waits for what this thread would have seen
            self.error = None if self._closed.is_set() else error


def run(contender: Contender, count: int, seconds: float, times: Times) -> None:
    """Create `count` jobs and wait until all are done, noting it in `times`. Raises TimeoutError, RuntimeError if one
    fails.
    """
    plane = contender.plane

    def pod_seen(line: bytes) -> None:
        if line.startswith(b'{"type":"ADDED"'):
            labels = json.loads(line)["object"]["metadata"].get("labels", {})
            if name := labels.get(contender.pod_label):
                times.first_pod.setdefault(name, time.monotonic())

    marks = [f'"{kind}"'.encode() for kind in (contender.condition, contender.failed)]

    def job_seen(line: bytes) -> None:
        if any(mark in line for mark in marks):  # most lines are not worth the time of parsing
            _note_end(contender, json.loads(line)["object"], times)

    watches = [
        Watch(plane, f"/api/v1/namespaces/{NAMESPACE}/pods", pod_seen, METADATA_ONLY),
        Watch(plane, contender.path(NAMESPACE), job_seen, "application/json"),
    ]
    try:
        times.began = time.monotonic()
        _create(contender, [f"{contender.name}-{number:05}" for number in range(count)], times)
        end = times.began + seconds
        while len(times.done) < count:
            plane.alive()
            if times.failed:
                raise RuntimeError(f"a job failed: {next(iter(times.failed.items()))}")
            if errors := [watch.error for watch in watches if watch.error]:
                raise errors[0]
            if time.monotonic() > end:
                raise TimeoutError(f"{len(times.done)} of {count} jobs were done after {seconds:.0f} s")
            time.sleep(0.1)
    finally:
        for watch in watches:
            watch.close()


def _note_end(contender: Contender, obj: JsonObject, times: Times) -> None:
    name = obj["metadata"]["name"]
    for condition in obj.get("status", {}).get("conditions", ()):
        if condition["status"] != "True":
            continue
        if condition["type"] == contender.condition:
            times.done.setdefault(name, time.monotonic())
        elif condition["type"] == contender.failed:
            times.failed[name] = condition.get("message", "")


def _create(contender: Contender, names: list[str], times: Times) -> None:
    """Create the jobs over a few connections at a time, as fast as they are taken."""
    host, path = contender.plane.url.removeprefix("https://"), contender.path(NAMESPACE)
    headers = {"Authorization": "Bearer admin", "Content-Type": "application/json"}

    def some(part: list[str]) -> None:
        connection = http.client.HTTPSConnection(host, context=unverified(), timeout=60)
        for name in part:
            connection.request("POST", path, json.dumps(contender.manifest(name, NAMESPACE)), headers)
            answer = connection.getresponse()
            text = answer.read()
            times.created[name] = time.monotonic()
            if answer.status != 201:
                raise RuntimeError(f"{name} was not created: {text.decode()[:1000]}")
        connection.close()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for done in [pool.submit(some, part) for start in range(CONNECTIONS) if (part := names[start::CONNECTIONS])]:
            done.result()
