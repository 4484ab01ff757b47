"""`make test`: everything CI runs, in one order, with one summary. Standard library only, to start on a bare machine.

The cluster is raised (its binaries and images built) in the background while the Python environment is installed and
the tests that need no cluster run. Every step runs even after an earlier one failed, so that one run tells all; the
exit code is 1 if any failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "out" / "test"


@dataclass
class Result:
    """One finished step."""

    name: str
    code: int
    seconds: float
    last_line: str


def run(name: str, *command: str) -> Result:
    """Run one step, its output on the screen and in out/test/<name>.log."""
    print(f"\n=== {name}: {' '.join(command)}", flush=True)
    start, last = time.monotonic(), ""
    with (LOGS / f"{name}.log").open("w") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            log.write(line)
            last = line.strip() or last
        code = child.wait()
    return Result(name, code, time.monotonic() - start, last)


def main() -> int:
    """Run all steps and print the summary."""
    LOGS.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    cluster_log = (LOGS / "cluster.log").open("w")
    cluster = subprocess.Popen(
        [sys.executable, "tests/cluster/cluster.py", "up"], cwd=ROOT, stdout=cluster_log, stderr=subprocess.STDOUT
    )
    results = [run("setup", "make", "setup")]
    results += [run("lint", "make", "lint"), run("unit", "make", "unit")]
    print("\n=== cluster: waiting for `make cluster`, started above in the background", flush=True)
    code = cluster.wait()
    cluster_log.close()
    text = (LOGS / "cluster.log").read_text()
    print(text if code else "\n".join(text.splitlines()[-8:]), flush=True)
    results.append(Result("cluster", code, time.monotonic() - start, ""))
    # Also after a failed cluster: these tests then fail, and say why, instead of being passed over.
    results += [
        run("integration", "make", "integration"),
        run("chaos", "make", "chaos"),
        run("e2e", "make", "e2e"),
    ]
    print(f"\n{'step':<12} {'result':<7} {'seconds':>8}")
    for r in results:
        word = "failed" if r.code else "ok"
        print(f"{r.name:<12} {word:<7} {r.seconds:>8.0f}  {r.last_line[:100]}")
    failed = sum(bool(r.code) for r in results)
    print(
        f"\nsteps: {sum(not r.code for r in results)} passed, {failed} failed in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
