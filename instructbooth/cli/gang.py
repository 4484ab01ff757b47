"""A gang on this machine: one trainer process per pod, as the operator would start them, without a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from instructbooth.cli.ports import free_port
from instructbooth.contract import Env, ExitCode, Outcome, Stage

PEER_GRACE = 30.0  # seconds the others have to end after one of them failed
STOP_GRACE = 180.0  # seconds to save a checkpoint after SIGTERM
_POLL = 0.1

OnLine = Callable[[int, str], None]


@dataclass(frozen=True)
class GangSpec:
    """One attempt of one stage.

    Attributes:
        config: file with the resolved job.
        store: root of the local store.
        stage: which.
        attempt: 1, 2, ...
        inputs: attempt that succeeded, of each earlier stage.
        nodes: pods of the gang.
        processes: processes of each pod.
        logs: folder for logs and outcomes.
        lock: file descriptor of the run's lock, which lives as long as any process of it.
    """

    config: Path
    store: Path
    stage: Stage
    attempt: int
    inputs: dict[Stage, int]
    nodes: int
    processes: int
    logs: Path
    lock: int

    def log(self, node: int) -> Path:
        """The log of a node."""
        return self.logs / f"{self.stage.value}-{self.attempt}-{node}.log"

    def outcome(self, node: int) -> Path:
        """Where a node writes its outcome."""
        return self.log(node).with_suffix(".json")


@dataclass(frozen=True)
class GangEnd:
    """How an attempt ended: the exit code and outcome of the node that speaks for the gang."""

    node: int
    code: int
    outcome: Outcome


def environment(spec: GangSpec, node: int, port: int) -> dict[str, str]:
    """The environment of a node's trainer: what the operator would set, on this machine."""
    from instructbooth_trainer.runtime.threads import choose_threads

    # In a pod of a cluster the trainer would take its own pod's volumes for the job's.
    inherited = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    return {
        "OMP_NUM_THREADS": str(choose_threads(spec.nodes * spec.processes, inherited)),
        **inherited,
        "PYTHONUNBUFFERED": "1",
        "MASTER_PORT": str(port),
        Env.CONFIG: str(spec.config),
        Env.STAGE: spec.stage.value,
        Env.ATTEMPT: str(spec.attempt),
        Env.INPUTS: json.dumps({stage.value: attempt for stage, attempt in spec.inputs.items()}),
        Env.COORDINATOR: "127.0.0.1",
        Env.NODE_RANK: str(node),
        Env.STORE: str(spec.store),
        Env.TERMINATION_LOG: str(spec.outcome(node)),
    }


class Gang:
    """The processes of one attempt."""

    def __init__(self, spec: GangSpec, on_line: OnLine) -> None:
        """Start them. `on_line` gets (node, line) of all that they print, in the reading threads."""
        self._spec = spec
        self._readers: list[threading.Thread] = []
        self._children: list[subprocess.Popen[bytes]] = []
        port = free_port()
        spec.logs.mkdir(parents=True, exist_ok=True)
        for node in range(spec.nodes):
            child = subprocess.Popen(
                [sys.executable, "-m", "instructbooth_trainer.main"],
                env=environment(spec, node, port),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: the trainers are asked to save by SIGTERM
                pass_fds=(spec.lock,),
            )
            self._children.append(child)
            assert child.stdout is not None
            reader = threading.Thread(target=_read, args=(child.stdout, spec.log(node), node, on_line), daemon=True)
            reader.start()
            self._readers.append(reader)

    def wait(self) -> GangEnd:
        """Wait until all have ended; those that outlive a failed peer for too long are ended."""
        from instructbooth_trainer.launch import first_failure

        ended = self._collect({}, PEER_GRACE, after_failure=True)
        self.kill()
        ended = self._collect(ended, float("inf"))
        for reader in self._readers:
            reader.join(timeout=5)
        node, code = first_failure(ended)
        return GangEnd(node, code, self._outcome(node, code))

    def stop(self) -> None:
        """Ask all to save and end (SIGTERM), and wait for it, with a bound."""
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        self._collect({}, STOP_GRACE)

    def kill(self) -> None:
        """End whoever still runs, and what one that was killed itself has left behind, at once."""
        for child in self._children:
            code = child.poll()
            if code is None or code < 0:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def _collect(self, ended: dict[int, int], seconds: float, *, after_failure: bool = False) -> dict[int, int]:
        """Exit code by node in the order they end, until all have or the time is up.

        Args:
            ended: those known already.
            seconds: to wait.
            after_failure: count the seconds from the first failure only.
        """
        end = None if after_failure else time.monotonic() + seconds
        while len(ended) < len(self._children) and (end is None or time.monotonic() < end):
            for node, child in enumerate(self._children):
                if node not in ended and (code := child.poll()) is not None:
                    ended[node] = code if code >= 0 else 128 - code
            if end is None and any(ended.values()):
                end = time.monotonic() + seconds
            if len(ended) < len(self._children):
                time.sleep(_POLL)
        return ended

    def _outcome(self, node: int, code: int) -> Outcome:
        from instructbooth_trainer.runtime.outcome import parse

        try:
            return parse(self._spec.outcome(node).read_bytes())
        except (OSError, ValueError, TypeError):
            if code == ExitCode.OK:
                raise
            return Outcome("InternalError", f"process {node} ended with exit code {code} and left no word")


def _read(stream: IO[bytes], log: Path, node: int, on_line: OnLine) -> None:
    with stream, log.open("wb") as file:
        for line in stream:
            file.write(line)
            file.flush()
            on_line(node, line.decode(errors="replace").rstrip("\n"))
