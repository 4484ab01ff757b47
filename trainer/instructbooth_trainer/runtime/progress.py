"""How far the stage is: a line on stdout, and on rank 0 an HTTP server that the operator and Prometheus read.

Pulled, not pushed: training pods need no access to the API server at all.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from instructbooth.contract import GANG_HEADER, Stage
from instructbooth.reconcile.names import child_name, gang_name
from instructbooth.spec.status import Progress
from instructbooth_trainer.runtime.listening import listen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunLabels:
    """Whose progress it is: the labels of every series, and the attempt."""

    namespace: str
    job: str
    stage: Stage
    attempt: int = 1

    @property
    def gang(self) -> str:
        """What rank 0 calls itself."""
        return gang_name(self.namespace, child_name(self.job, self.stage, self.attempt))


class ProgressReporter:
    """Keeps the latest Progress; thread-safe. On ranks other than 0 it only counts."""

    def __init__(
        self,
        labels: RunLabels,
        *,
        speak: bool = True,
        now: Callable[[], float] = time.time,
        line_interval: float = 5.0,
        on_beat: Callable[[str], None] = lambda where: None,
    ) -> None:
        self._labels = (labels.namespace, labels.job, labels.stage.value)
        self._stage = labels.stage
        self._gang = labels.gang
        self._speak = speak
        self._now = now
        self._line_interval = line_interval
        self._on_beat = on_beat
        self._last_line = float("-inf")
        self._began = (now(), 0)  # time and step at which the present unit of work began
        self._progress = Progress()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self.beat()

    @property
    def current(self) -> Progress:
        """The latest progress."""
        with self._lock:
            return self._progress

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Begin counting: `total` units of which `done` are done already (by an earlier attempt)."""
        self._began = (self._now(), done)
        self._last_line = float("-inf")
        self._set(self.current.model_copy(update={"step": done, "total": total, "unit": unit, "eta_seconds": None}))

    def update(self, step: int, **metrics: float) -> None:
        """`step` units are done; `metrics` are the latest values, kept until replaced."""
        began, first = self._began
        before = self.current
        eta = None
        if step > first and before.total:
            eta = max(0, round((self._now() - began) / (step - first) * (before.total - step)))
        self._set(
            before.model_copy(
                update={"step": step, "eta_seconds": eta, "metrics": {**before.metrics, **_finite(metrics)}}
            )
        )
        self._line()

    def beat(self) -> None:
        """Say that rank 0 lives, where no unit is finished for long (downloads)."""
        self._set(self.current)

    def serve(self, port: int, host: str = "") -> int:
        """Serve /progress, /metrics and /healthz in a thread; returns the port. Raises OSError if it is taken.

        Args:
            port: 0 for any.
            host: address to listen at; all of them, of IPv4 and IPv6, where it is empty.
        """
        reporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = reporter._render(self.path.partition("?")[0])
                if content is None:
                    self.send_error(404)
                    return
                kind, body = content
                self.send_response(200)
                self.send_header(GANG_HEADER, reporter._gang)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A line per scrape would bury the log."""

        self._server = ThreadingHTTPServer((host, port), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listen(port, host)
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
        return int(self._server.socket.getsockname()[1])

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _set(self, progress: Progress) -> None:
        heartbeat = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            self._progress = progress.model_copy(update={"heartbeat": heartbeat})
        self._on_beat(f"{progress.step} of {progress.total} {progress.unit}" if progress.total else "")
        self._gauge("stage_progress_ratio", "Share of the stage's work that is done.").labels(*self._labels).set(
            progress.step / progress.total if progress.total else 0.0
        )
        self._gauge("stage_step", "Units of work done.").labels(*self._labels).set(progress.step)
        self._gauge("stage_steps", "Units of work to do.").labels(*self._labels).set(progress.total)
        self._gauge("stage_heartbeat_seconds", "Unix time at which rank 0 last moved.").labels(*self._labels).set(
            self._now()
        )
        if progress.eta_seconds is not None:
            self._gauge("stage_eta_seconds", "Seconds left at the present pace.").labels(*self._labels).set(
                progress.eta_seconds
            )
        for name, value in progress.metrics.items():
            self._gauge(metric_name(name), f"Latest {name}.").labels(*self._labels).set(value)

    def _gauge(self, name: str, text: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(
                f"instructbooth_{name}", text, ["namespace", "job", "stage"], registry=self._registry
            )
        return self._gauges[name]

    def _render(self, path: str) -> tuple[str, bytes] | None:
        if path == "/progress":
            return "application/json", self.current.model_dump_json(by_alias=True, exclude_none=True).encode()
        if path == "/metrics":
            return CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return ("text/plain", b"ok\n") if path == "/healthz" else None

    def _line(self) -> None:
        progress, now = self.current, self._now()
        finished = progress.step >= progress.total
        if not self._speak or (now - self._last_line < self._line_interval and not finished):
            return
        self._last_line = now
        eta = "" if progress.eta_seconds is None else f", {format_seconds(progress.eta_seconds)} left"
        numbers = "".join(f", {name} {value:.4g}" for name, value in progress.metrics.items())
        log.info("%s: %d/%d %s%s%s", self._stage.value, progress.step, progress.total, progress.unit, eta, numbers)


def metric_name(name: str) -> str:
    """A metric's name as Prometheus allows it: `reward/clip-score` -> `reward_clip_score`."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def format_seconds(seconds: int) -> str:
    """`1h02m`, `3m10s`, `42s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """JSON knows no NaN: what is not a number is left out and said aloud."""
    out = {}
    for name, value in metrics.items():
        number = float(value)
        if number - number != 0:
            log.warning("%s is %s", name, number)
        else:
            out[name] = number
    return out
