"""The pod's first process: gathers with the others, starts one process per GPU, and passes on how they end.

Not torchrun: it replaces a worker's exit code by its own 1, and the exit code is what tells the operator whether to
try again (docs/decisions/0004-launcher.md).
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from instructbooth.contract import Env, ExitCode, Outcome, Port
from instructbooth_trainer.runtime import outcome as outcomes
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.rendezvous import meet
from instructbooth_trainer.runtime.tail import log_to_stdout, read_tail
from instructbooth_trainer.runtime.threads import choose_threads
from instructbooth_trainer.runtime.watchdog import STACKS

log = logging.getLogger(__name__)

PEER_GRACE = 20.0
STACKS_AFTER = 20.0  # seconds from SIGTERM to asking who still runs where it is: well within the pod's grace
POLL = 0.2
WORKER = (sys.executable, "-m", "instructbooth_trainer.runtime.worker")


def worker_environments(pod: PodEnvironment, env: Mapping[str, str], logs: Path, rank0: str) -> list[dict[str, str]]:
    """The environment of each process of this pod, as torch.distributed and accelerate read it.

    Args:
        rank0: address of pod 0.
    """
    return [
        {
            **env,
            "RANK": str(pod.node_rank * pod.processes + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(pod.world_size),
            "LOCAL_WORLD_SIZE": str(pod.processes),
            "MASTER_ADDR": rank0,
            "MASTER_PORT": env.get("MASTER_PORT") or str(int(Port.COORDINATOR)),
            "TMPDIR": str(pod.workdir),  # a process's own scratch goes with the pod's
            "OMP_NUM_THREADS": str(choose_threads(pod.processes, env)),
            Env.TERMINATION_LOG: str(logs / f"{local}.json"),
            Env.LOG_TAIL: str(logs / f"{local}.log"),
        }
        for local in range(pod.processes)
    ]


def run_workers(pod: PodEnvironment, env: Mapping[str, str], command: tuple[str, ...] = WORKER) -> int:
    """Start this pod's processes and wait for them; returns the pod's exit code, the outcome is written.

    The first process that fails speaks for the pod. SIGTERM goes to all of them; whoever still runs some time after
    another's death is killed.
    """
    terminated = False
    children: list[subprocess.Popen[bytes]] = []

    def forward(_signum: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    log_to_stdout(f"[pod {pod.node_rank}]")
    rank0 = meet(pod, env)  # until then SIGTERM ends this process (main.py): nobody waits for others in vain
    signal.signal(signal.SIGTERM, forward)
    with tempfile.TemporaryDirectory(prefix="outcomes-", dir=pod.workdir) as name:
        for child_env in worker_environments(pod, env, Path(name), rank0):
            children.append(subprocess.Popen(command, env=child_env))
        if terminated:  # before the last start
            forward(signal.SIGTERM, None)
        rank, code = _wait(children, stopping=lambda: terminated)
        word = _outcome(Path(name) / f"{rank}.json", rank, code)
    if terminated and code == 128 + signal.SIGTERM:  # ours, and it came before that process could listen to it
        word = Outcome("Checkpointed", "asked to stop before training began")
        code = ExitCode.CHECKPOINTED
    outcomes.write(word, env)
    return code


def _wait(children: list[subprocess.Popen[bytes]], stopping: Callable[[], bool] = lambda: False) -> tuple[int, int]:
    """(local rank, exit code) that speak for the pod, once all children have ended.

    A process that was asked to stop and does not leaves its stack in the log before the pod is killed for it.
    """
    ended: dict[int, int] = {}
    deadline: float | None = None
    stacks: float | None = None
    while len(ended) < len(children):
        if stacks is None and stopping():
            stacks = time.monotonic() + STACKS_AFTER
        if stacks is not None and time.monotonic() > stacks:
            for rank, child in enumerate(children):
                if rank not in ended and child.poll() is None:
                    log.warning("process %d still runs %.0f s after SIGTERM; its stacks:", rank, STACKS_AFTER)
                    child.send_signal(STACKS)
            stacks = float("inf")
        for rank, child in enumerate(children):
            if rank not in ended and (returned := child.poll()) is not None:
                ended[rank] = returned if returned >= 0 else 128 - returned
        if deadline is None and any(ended.values()):
            deadline = time.monotonic() + PEER_GRACE
        if deadline is not None and time.monotonic() > deadline:
            for rank, child in enumerate(children):
                if rank not in ended:
                    log.warning("killing process %d, which outlived its peers", rank)
                    child.kill()
            deadline = float("inf")
        if len(ended) < len(children):
            time.sleep(POLL)
    return first_failure(ended)


def first_failure(ended: Mapping[int, int]) -> tuple[int, int]:
    """Who speaks for the pod: the first to fail, but never a mere victim if there is a culprit.

    A process whose peer died ends with TRANSIENT at nearly the same time as the peer, so that order alone lies.

    Args:
        ended: exit code by local rank, in the order they ended.
    """
    failed = [(rank, code) for rank, code in ended.items() if code]
    if not failed:
        return 0, ExitCode.OK
    return next(((rank, code) for rank, code in failed if code != ExitCode.TRANSIENT), failed[0])


def _outcome(path: Path, rank: int, code: int) -> Outcome:
    try:
        return outcomes.parse(path.read_bytes())
    except (OSError, ValueError, TypeError):
        tail = read_tail(path.with_suffix(".log"))
        if code > 128:
            name = signal.Signals(code - 128).name
            hint = "; probably out of memory: raise resources.limits.memory" if name == "SIGKILL" else ""
            return Outcome("Killed", f"process {rank} of the pod was ended by {name}{hint}", log=tail)
        left = f"process {rank} of the pod ended with exit code {code} and left no word"
        return Outcome("InternalError", left, log=tail)
