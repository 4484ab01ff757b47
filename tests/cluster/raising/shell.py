"""Running commands, waiting with a bound, telling a person what goes on."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

#: The file descriptor of the lock that this call holds, for `run` to pass on.
_lock: tuple[int, ...] = ()


class ClusterError(Exception):
    """Something that a person must know about, in words for that person."""


def say(text: str) -> None:
    """One line of progress, on stderr: stdout belongs to what a command was asked for."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say how long something took once it is done; a slow one is announced when it has run for two seconds."""
    start = time.monotonic()
    announcement = threading.Timer(2.0, say, [f"  …        {what}"])
    announcement.start()
    try:
        yield
    finally:
        announcement.cancel()
    say(f"  {time.monotonic() - start:6.1f} s {what}")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    keeps_lock: bool = True,
) -> str:
    """Run a command to its end and return its stdout; with `log`, all output goes to that file instead.

    The command shares the lock: should we be killed, the next call waits until it has ended. A command that may leave
    daemons behind must not (`keeps_lock=False`). Raises ClusterError with the end of the output when the command fails.
    """
    words = [str(word) for word in command]
    shared = _lock if keeps_lock else ()
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as sink:
            done = subprocess.run(
                words, env=env, input=stdin, cwd=cwd, text=True, stdout=sink, stderr=sink, pass_fds=shared
            )
        if done.returncode:
            raise ClusterError(f"{' '.join(words)}: exit code {done.returncode}; the end of {log}:\n{tail(log)}")
        return ""
    done = subprocess.run(words, env=env, input=stdin, cwd=cwd, text=True, capture_output=True, pass_fds=shared)
    if done.returncode:
        said = (done.stderr or done.stdout)[-3000:]
        raise ClusterError(f"{' '.join(words)}: exit code {done.returncode}:\n{said}")
    return done.stdout


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a file, indented; says so when there is none."""
    try:
        content = path.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join("    " + line for line in content)


def wait_until(what: str, check: Callable[[], bool], seconds: float, interval: float = 0.3) -> None:
    """Call `check` until it is true. Raises ClusterError when that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise ClusterError(f"waited {seconds:.0f} s for {what}, in vain")
        time.sleep(interval)


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    data = content.encode() if isinstance(content, str) else content
    temporary.write_bytes(data)
    temporary.chmod(mode)
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock: two people, or a person and CI, may ask for the cluster at the same time.

    The kernel lets go of it when this process and the commands that it runs have ended, however they end.
    """
    global _lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another call, or what a killed one left running, is at work on the cluster; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        _lock = (handle.fileno(),)
        try:
            yield
        finally:
            _lock = ()
