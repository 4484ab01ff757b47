"""What is compared: something that makes pods out of objects of its own kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from benchmarks.operator.plane import BenchPlane
from tests.integration.operator.plane import JsonObject

PODS_PER_STAGE, GPUS_PER_POD = 2, 8
START_SECONDS = 900  # nothing is timed before it has started, and the machine may be busy


class Contender(ABC):
    """One way to run gangs of two pods.

    Attributes:
        name: in results.
        stages: gangs that one of its jobs runs, one after the other.
        group, plural: of its kind, as in its path: `apis/batch/v1`, `jobs`.
        condition: of the object, that is true when the job is done.
        pod_label: label of a pod that holds the name of its job.
        histogram: the metric of its reconciles' durations.
        lag_histogram: that of how late its event loop is, where it has one.
    """

    name: ClassVar[str]
    stages: ClassVar[int] = 1
    group: ClassVar[str]
    plural: ClassVar[str]
    condition: ClassVar[str]
    failed: ClassVar[str] = "Failed"
    pod_label: ClassVar[str]
    histogram: ClassVar[str] = ""
    lag_histogram: ClassVar[str] = ""
    namespaces: ClassVar[tuple[str, ...]] = ()

    def __init__(self, plane: BenchPlane, gpus_per_pod: int) -> None:
        self.plane = plane
        self.gpus_per_pod = gpus_per_pod
        self.processes: dict[str, int] = {}

    @abstractmethod
    def start(self) -> None:
        """Install it, start its controllers (process ids in `processes`) and wait until they work."""

    @abstractmethod
    def manifest(self, name: str, namespace: str) -> JsonObject:
        """One job."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """What was measured."""

    def metrics(self) -> str:
        """The Prometheus text of its controllers."""
        return ""

    def health_urls(self) -> list[str]:
        """Probes that its controllers answer over plain HTTP."""
        return []

    def path(self, namespace: str) -> str:
        """Where its jobs are created."""
        return f"/{self.group}/namespaces/{namespace}/{self.plural}"

    def stop(self) -> None:
        """End its controllers."""
        self.plane.stop(*self.processes)
        self.processes = {}

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a part of the start. Raises AssertionError with the end of the controllers' logs."""
        try:
            return self.plane.wait(what, condition, START_SECONDS)
        except AssertionError as late:
            logs = [(self.plane.folder / f"{name}.log").read_text()[-2000:] for name in self.processes]
            raise AssertionError("\n".join([str(late), *logs])) from None

    def start_process(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start one of its controllers."""
        self.processes[name] = self.plane.start_process(name, command, environment)
