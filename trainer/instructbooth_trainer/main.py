"""`instructbooth-trainer`: the entry point of a trainer pod. Configured by the environment (instructbooth.contract).

Heavy imports come late: caches must be pointed into scratch before the libraries read the environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from types import FrameType

from instructbooth.contract import ExitCode, Outcome
from instructbooth_trainer.runtime import outcome as outcomes
from instructbooth_trainer.runtime.environment import SCRATCH_PREFIX, PodEnvironment, prepare_home, read_environment


def main() -> None:
    """Run this pod's share of a stage and exit by the contract (instructbooth.contract.ExitCode)."""
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no thread and no broken process group may keep the pod from ending


def run() -> int:
    """What `main` does, returning the exit code."""
    pod: PodEnvironment | None = None
    try:
        pod = read_environment(os.environ)
        _end_when_asked(pod)
        prepare_home(pod.workdir)
        return _run(pod)
    except Exception as error:  # noqa: BLE001 - the border of the process: everything becomes a code and a word
        from instructbooth_trainer.runtime.exits import classify

        code, outcome = classify(error)
        print(f"{outcome.reason}: {outcome.message}", file=sys.stderr)
        outcomes.write(outcome, os.environ)
        return code
    finally:
        if pod is not None:
            _clean(pod)


def _end_when_asked(pod: PodEnvironment) -> None:
    """Until training listens to SIGTERM itself, end on it: there is nothing to save.

    The heavy imports take long enough to be hit, and the kernel keeps SIGTERM from a pod's first process that has no
    handler: the pod would live until it is killed, a minute later.
    """

    def end(_signum: int, _frame: FrameType | None) -> None:
        outcomes.write(Outcome("Checkpointed", "asked to stop before training began"), os.environ)
        _clean(pod)
        os._exit(ExitCode.CHECKPOINTED)

    signal.signal(signal.SIGTERM, end)


def _clean(pod: PodEnvironment) -> None:
    if pod.workdir.name.startswith(SCRATCH_PREFIX):
        shutil.rmtree(pod.workdir, ignore_errors=True)


def _run(pod: PodEnvironment) -> int:
    if pod.world_size == 1:
        from instructbooth_trainer.runtime.worker import run_worker

        return run_worker(pod)
    from instructbooth_trainer.launch import run_workers

    return run_workers(pod, os.environ)


if __name__ == "__main__":
    main()
