"""Starts the processes that measure, one at a time, and reads what they say."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trainer.workload import Result, typical
from experiments.cells import ROOT

LINES = 30
POLL = 0.05  # seconds
QUIET = {
    "TQDM_DISABLE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "operator", "trainer", "miniature")),
}


@dataclass(frozen=True)
class Spent:
    """Seconds of a whole process, on the clock and of all processors."""

    seconds: float
    cpu_seconds: float


class SideFailed(Exception):
    """A process ended with an error or said nothing; the message holds the end of its output."""


@dataclass(frozen=True)
class Peers:
    """Where the peers are.

    Attributes:
        python: interpreter of the environment made from peers.txt; None leaves the peers out.
        examples: diffusers' `examples` folder, which no package holds; None leaves its script out.
    """

    python: Path | None
    examples: Path | None

    @property
    def script(self) -> Path | None:
        """diffusers' train_dreambooth_lora.py, where it is."""
        found = self.examples and self.examples / "dreambooth" / "train_dreambooth_lora.py"
        return found if found and found.is_file() else None

    @property
    def no_trl(self) -> str | None:
        """Why TRL is not measured; None if it is."""
        if self.python is None:
            return "no environment of the peers: `make bench-trainer` makes it, or give --peers-python"
        return None if self.python.is_file() else f"{self.python} is no interpreter"

    @property
    def no_script(self) -> str | None:
        """Why diffusers' script is not measured; None if it is."""
        if self.no_trl is None and self.script is None:
            given = f"{self.examples} has no dreambooth/train_dreambooth_lora.py" if self.examples else "not given"
            return f"diffusers' examples folder: {given}; it is in no package: set DIFFUSERS_EXAMPLES to a checkout's"
        return self.no_trl


def measured(
    words: Sequence[str | Path], threads: int, env: Mapping[str, str] | None = None, interpreter: Path | None = None
) -> tuple[Result, Spent]:
    """Run a module that measures; returns what it said and what the whole process took. Raises SideFailed."""
    output, spent = timed(words, threads, env or os.environ, interpreter)
    try:
        result = Result.heard(output)
        # Now, and not when all sides are done: a lent machine may be taken back before.
        print(
            f"{' '.join(map(str, words[:2]))}: {typical([result]):.4g} s a lap, {result.peak_mib:.0f} MiB",
            file=sys.stderr,
        )
        return result, spent
    except ValueError as error:
        raise SideFailed(f"{words[0]}: {error}; the end of its output:\n{_end(output)}") from error


def timed(
    words: Sequence[str | Path], threads: int, env: Mapping[str, str], interpreter: Path | None = None
) -> tuple[str, Spent]:
    """Run a module; returns its output and what the whole process took. Raises SideFailed."""
    clock, before = time.perf_counter(), _children_seconds()
    (output,) = run(words, threads, [env], interpreter)
    return output, Spent(time.perf_counter() - clock, _children_seconds() - before)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(
    words: Sequence[str | Path], threads: int, envs: Sequence[Mapping[str, str]], interpreter: Path | None = None
) -> list[str]:
    """A module's output, of as many processes side by side as there are environments; all are ended when one fails.

    Raises SideFailed.
    """
    command = [str(interpreter or sys.executable), "-m", *map(str, words)]
    with ExitStack() as files:  # and not pipes: whoever fails first is to be heard first
        logs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in envs]
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**env, **QUIET, "OMP_NUM_THREADS": str(threads)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for env, log in zip(envs, logs, strict=True)
        ]
        try:
            while None in (codes := [process.poll() for process in processes]) and not any(codes):
                time.sleep(POLL)
            for process, log in zip(processes, logs, strict=True):
                log.seek(0)
                if process.returncode:
                    end = _end(log.read())
                    raise SideFailed(f"{words[0]} ended with code {process.returncode}; the end of its output:\n{end}")
            return [log.read() for log in logs]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _end(output: str) -> str:
    return "\n".join(output.splitlines()[-LINES:])
