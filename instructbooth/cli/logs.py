"""`instructbooth logs`: what the pods of a job say, all ranks and attempts in one stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import click

from instructbooth.cli.cluster import Cluster, KubeOptions, Pod, kube_options
from instructbooth.cli.output import CliError, note
from instructbooth.cli.watch import FINISHED, INTERVAL, read_status
from instructbooth.contract import STAGES, Stage
from instructbooth.spec.status import InstructBoothJobStatus, StageState

_DONE = (StageState.SUCCEEDED, StageState.FAILED)


@click.command()
@click.argument("name")
@click.option("--stage", type=click.Choice([s.value for s in STAGES]), help="Only this stage; the latest by default.")
@click.option("--rank", type=click.IntRange(min=0), help="Only this pod of the gang; all by default.")
@click.option("--tail", type=click.IntRange(min=0), help="Only so many last lines of each pod.")
@click.option("--follow", is_flag=True, help="Go on with new lines, restarted gangs and later stages until the end.")
@kube_options
def logs(name: str, stage: str | None, rank: int | None, tail: int | None, follow: bool, kube: KubeOptions) -> None:
    """Print the log of a job's pods, each line with its stage, attempt and rank."""
    cluster = Cluster(kube)
    status = read_status(cluster.job(name))
    pods = choose(cluster.pods(name, stage), rank=rank)
    if follow:
        _follow(cluster, name, Stage(stage) if stage else None, rank, tail)
        return
    if not pods:
        raise CliError(_nothing(f"{cluster.namespace}/{name}", status, stage))
    for pod in pods:
        if not pod.started:
            note(f"{pod.name} has not started; see `kubectl describe pod {pod.name} -n {cluster.namespace}`")
            continue
        for line in cluster.log_lines(pod.name, follow=False, tail=tail):
            click.echo(prefix(pod) + line)


def choose(pods: Iterable[Pod], *, rank: int | None) -> list[Pod]:
    """The pods of the newest attempt of the latest stage, by rank; only those of `rank` if given."""
    order = {stage.value: position for position, stage in enumerate(STAGES)}
    known = [pod for pod in pods if pod.stage in order]
    newest = max(((order[pod.stage], pod.attempt) for pod in known), default=None)
    chosen = [p for p in known if (order[p.stage], p.attempt) == newest and rank in (None, p.rank)]
    return sorted(chosen, key=lambda pod: pod.rank)


def prefix(pod: Pod) -> str:
    """`reinforce-2/1 | `: stage, attempt and rank before each line."""
    return f"{pod.stage}-{pod.attempt}/{pod.rank} | "


def _nothing(job: str, status: InstructBoothJobStatus, stage: str | None) -> str:
    """Why there is no log, with the failure's own words where the status has them."""
    wanted = f" of stage {stage}" if stage else ""
    lines = [f"{job} has no pods{wanted}: not started yet, or removed since; its phase is {status.phase}"]
    for known in status.stages:
        if known.failure and stage in (None, known.name):
            failure = known.failure
            lines.append(f"  {known.name} attempt {failure.attempt} ended with {failure.reason}: {failure.message}")
    return "\n".join(lines)


def finished(status: InstructBoothJobStatus, stage: Stage | None) -> bool:
    """Whether no pod of the stage (of the job) can come any more."""
    if status.phase in FINISHED:
        return True
    return any(known.name is stage and known.state in _DONE for known in status.stages)


def _follow(cluster: Cluster, name: str, stage: Stage | None, rank: int | None, tail: int | None) -> None:
    seen: dict[str, threading.Thread] = {}
    lock = threading.Lock()

    def stream(pod: Pod) -> None:
        try:
            for line in cluster.log_lines(pod.name, follow=True, tail=tail):
                with lock:
                    click.echo(prefix(pod) + line)
        except CliError as error:  # the pod went away while it was read: said, the others go on
            note(f"{prefix(pod)}{error.message}")

    while True:
        over = finished(read_status(cluster.job(name)), stage)
        for pod in choose(cluster.pods(name, stage), rank=rank):
            if pod.started and pod.uid not in seen:
                seen[pod.uid] = threading.Thread(target=stream, args=(pod,), daemon=True)
                seen[pod.uid].start()
        if over:
            break
        time.sleep(INTERVAL)
    for thread in seen.values():
        thread.join()
    if not seen:
        note(f"{cluster.namespace}/{name} is finished and none of its pods is left")
