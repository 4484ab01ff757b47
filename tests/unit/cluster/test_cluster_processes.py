"""Processes are known by pid and start time, and only they are ended; what a killed call left running is waited for."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest
from raising import cgroups, processes
from raising.processes import Component, running_pid, start_time, stop
from raising.shell import ClusterError


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PIDS", tmp_path / "pids")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(cgroups, "join_host_leaf", lambda: None)
    started = []

    def component(*code, ready=lambda: True, **options):
        made = Component("sleeper", [sys.executable, "-c", *code], ready, **options)
        started.append(made)
        return made

    yield component
    for made in started:
        stop(made.pid_file)


SLEEP = "import time; time.sleep(60)"


def test_a_running_process_is_left_alone(sandbox):
    component = sandbox(SLEEP)
    component.start()
    first = component.pid()
    component.start()
    assert component.pid() == first is not None


def test_another_command_replaces_the_process(sandbox):
    component = sandbox(SLEEP)
    component.start()
    first = component.pid()
    changed = sandbox(SLEEP + "  # other")
    changed.start()
    assert start_time(first) is None
    assert changed.pid() not in (None, first)


def test_another_configuration_replaces_the_process(sandbox, tmp_path):
    config = tmp_path / "config"
    config.write_text("a")
    component = sandbox(SLEEP, config=config)
    component.start()
    first = component.pid()
    config.write_text("b")
    component.start()
    assert component.pid() != first


def test_a_pid_that_belongs_to_another_process_by_now_is_not_touched(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as other:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{other.pid} some-boot/12345\n")
        assert running_pid(pid_file) is None
        stop(pid_file)
        assert other.poll() is None
        other.kill()


def test_what_ignores_sigterm_is_killed(sandbox):
    ready = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    component = sandbox(ready)
    component = Component("sleeper", component.command, lambda: component.log.stat().st_size > 0)
    component.start()
    component.wait()
    pid = component.pid()
    assert pid is not None
    stop(component.pid_file, seconds=0.3)
    assert start_time(pid) is None
    assert not component.pid_file.exists()


def test_the_end_of_the_log_tells_why_a_component_ended(sandbox):
    component = sandbox("raise SystemExit('the port is taken')", ready=lambda: False)
    component.start()
    with pytest.raises(ClusterError, match="the port is taken"):
        component.wait()


def test_a_starter_killed_at_once_leaves_a_known_process(tmp_path):
    """The child writes its own record before it becomes the program: no kill can come between."""
    starter = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(processes.__file__))!r})
from pathlib import Path
from raising import cgroups, processes
processes.PIDS = processes.LOGS = Path({str(tmp_path)!r})
cgroups.join_host_leaf = lambda: None
processes.Component("sleeper", [sys.executable, "-c", {SLEEP!r}], lambda: True).start()
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    subprocess.run([sys.executable, "-c", starter], check=False)
    assert running_pid(tmp_path / "sleeper") is not None
    stop(tmp_path / "sleeper")


def is_locked(path) -> bool:
    with path.open() as handle, contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


@pytest.mark.parametrize("keeps_lock", [True, False])
def test_the_lock_outlives_a_killed_call_as_long_as_the_command_it_ran(tmp_path, keeps_lock):
    """Else the next call would build, or take down, what the command still writes."""
    command = "echo $$ > pid.tmp; mv pid.tmp pid; exec sleep 60"
    caller = f"""
import sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(processes.__file__))!r})
from pathlib import Path
from raising.shell import locked, run
with locked(Path("lock")):
    run(["sh", "-c", {command!r}], keeps_lock={keeps_lock})
"""
    with subprocess.Popen([sys.executable, "-c", caller], cwd=tmp_path) as call:
        end = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert is_locked(tmp_path / "lock")
        call.kill()
    pid = int((tmp_path / "pid").read_text())
    try:
        assert is_locked(tmp_path / "lock") is keeps_lock
    finally:
        os.kill(pid, signal.SIGKILL)
    while start_time(pid) is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_locked(tmp_path / "lock")
