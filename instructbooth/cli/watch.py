"""Showing a job until it is finished: a live table for a person, a line per change for a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from rich.live import Live

from instructbooth.cli.cluster import Cluster, ClusterUnreachable, Object
from instructbooth.cli.output import CliError, note, out
from instructbooth.cli.render import one_line, render_job
from instructbooth.spec.status import InstructBoothJobStatus, Phase

INTERVAL = 2.0  # seconds; the operator writes progress no more often than every few seconds
MAX_FAILURES = 15  # reads in a row that may fail
NOBODY_ACTS = 10  # reads without a status after which a word is due
FINISHED = (Phase.SUCCEEDED, Phase.FAILED)


def read_status(job: Object) -> InstructBoothJobStatus:
    """The status of a job; one of a newer operator keeps the fields that are known here."""
    return InstructBoothJobStatus.from_object(job)


def print_job(cluster: Cluster, job: Object) -> None:
    """The job once."""
    title = f"{cluster.namespace}/{job['metadata']['name']}"
    out().print(render_job(title, read_status(job), datetime.now(UTC)))


def watch_job(cluster: Cluster, name: str) -> None:
    """Show the job until it is finished. Raises CliError (exit code 1) if it failed."""
    try:
        show = _show_live if out().is_terminal else _show_lines
        job = show(f"{cluster.namespace}/{name}", _states(cluster, name))
    except KeyboardInterrupt:
        note(f"the job goes on; look again: instructbooth status {name} -n {cluster.namespace} --watch")
        raise SystemExit(130) from None
    if read_status(job).phase is Phase.FAILED:
        raise CliError(f"{cluster.namespace}/{name} failed; its log: instructbooth logs {name} -n {cluster.namespace}")


def _states(cluster: Cluster, name: str) -> Iterator[Object]:
    """The job every few seconds, until it is finished. An API server that is away for a minute is waited for."""
    failures, reads = 0, 0
    while True:
        try:
            job = cluster.job(name)
        except ClusterUnreachable as error:
            failures += 1
            if failures == MAX_FAILURES:
                raise
            note(f"{error.message}; trying again")
        else:
            failures, reads = 0, reads + 1
            yield job
            if read_status(job).phase in FINISHED:
                return
            if reads == NOBODY_ACTS and not job.get("status"):
                note("no operator has acted on the job yet; is it installed, and does it watch this namespace?")
        time.sleep(INTERVAL)


def _show_live(title: str, states: Iterable[Object]) -> Object:
    job: Object = {}
    with Live(console=out(), auto_refresh=False) as live:
        for job in states:
            live.update(render_job(title, read_status(job), datetime.now(UTC)), refresh=True)
    return job


def _show_lines(title: str, states: Iterable[Object]) -> Object:
    last, job = "", {}
    for job in states:
        line = one_line(read_status(job))
        if line != last:
            last = line
            print(f"{datetime.now(UTC):%H:%M:%S}  {line}", flush=True)
    out().print(render_job(title, read_status(job), datetime.now(UTC)))
    return job
