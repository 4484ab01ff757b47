"""Long-lived processes on the host: started once, known by pid and start time, ended by pid."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raising import cgroups
from raising.settings import LOGS, PIDS
from raising.shell import ClusterError, step, tail, write_atomically


def start_time(pid: int) -> str | None:
    """The boot and the clock tick at which a process began; None when it is gone or a zombie.

    A pid alone can belong to another process by now; a pid with its start time cannot.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


@dataclass(frozen=True)
class Component:
    """A process of the cluster. `ready` may raise OSError for "not yet"; `config` is a file it reads at its start."""

    name: str
    command: Sequence[str | Path]
    ready: Callable[[], bool]
    seconds: float = 60.0
    env: dict[str, str] = field(default_factory=dict)
    config: Path | None = None

    @property
    def log(self) -> Path:
        """Where it writes stdout and stderr."""
        return LOGS / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """Holds the pid, its start time and what it was started with."""
        return PIDS / self.name

    def fingerprint(self) -> str:
        """A name for the command, the binary and the configuration: when it changes, the process is started anew."""
        parts = [*(str(word) for word in self.command), str(Path(self.command[0]).resolve())]
        if self.config is not None:
            parts.append(self.config.read_text())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def pid(self) -> int | None:
        """The pid of the running process, None when it does not run."""
        return running_pid(self.pid_file)

    def start(self) -> None:
        """Start it unless it runs already just as described here."""
        fingerprint = self.fingerprint()
        if self.pid() is not None:
            if self.pid_file.read_text().split("\n")[1:] == [fingerprint]:
                return
            stop(self.pid_file)
        PIDS.mkdir(parents=True, exist_ok=True)
        LOGS.mkdir(parents=True, exist_ok=True)

        def record() -> None:
            # Runs in the child before exec: were the record written by us, a kill between start and record
            # would leave a process that nobody knows.
            cgroups.join_host_leaf()
            write_atomically(self.pid_file, f"{os.getpid()} {start_time(os.getpid())}\n{fingerprint}")

        with self.log.open("ab") as sink:
            subprocess.Popen(
                [str(word) for word in self.command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd="/",
                env={**os.environ, **self.env},
                start_new_session=True,
                preexec_fn=record,
            )

    def wait(self) -> None:
        """Wait until it is ready. Raises ClusterError with the end of its log when it ends or takes too long."""
        end = time.monotonic() + self.seconds
        while True:
            with contextlib.suppress(OSError):
                if self.ready():
                    return
            if self.pid() is None:
                raise ClusterError(f"{self.name} ended; the end of {self.log}:\n{tail(self.log)}")
            if time.monotonic() > end:
                raise ClusterError(
                    f"{self.name} is not ready after {self.seconds:.0f} s; the end of {self.log}:\n{tail(self.log)}"
                )
            time.sleep(0.2)


def running_pid(pid_file: Path) -> int | None:
    """The pid that a pid file names, if that very process still runs."""
    try:
        pid, began = pid_file.read_text().split("\n")[0].split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if start_time(int(pid)) == began else None


def stop(pid_file: Path, seconds: float = 10.0) -> None:
    """End the process a pid file names: SIGTERM, and SIGKILL when it does not listen."""
    for signal_number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience
        while (pid := running_pid(pid_file)) is not None and time.monotonic() < end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
            time.sleep(0.1)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    pid_file.unlink(missing_ok=True)


def bring_up(*components: Component) -> None:
    """Start several components at once and wait until all are ready."""
    for component in components:
        component.start()
    with step(", ".join(component.name for component in components)):
        for component in components:
            component.wait()
