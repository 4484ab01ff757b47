"""`instructbooth-trainer`: the entry point of a trainer pod. Configured by the environment (instructbooth.contract).

Heavy imports come late: caches must be pointed into scratch before the libraries read the environment.
"""

from __future__ import annotations

import os
import shutil
import sys

from instructbooth_trainer.runtime import outcome as outcomes
from instructbooth_trainer.runtime.environment import SCRATCH_PREFIX, PodEnvironment, prepare_home, read_environment
from instructbooth_trainer.runtime.errors import RunError


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
        prepare_home(pod.workdir)
        return _run(pod)
    except RunError as error:
        from instructbooth_trainer.runtime.exits import classify

        code, outcome = classify(error)
        print(f"{outcome.reason}: {outcome.message}", file=sys.stderr)
        outcomes.write(outcome, os.environ)
        return code
    finally:
        if pod is not None and pod.workdir.name.startswith(SCRATCH_PREFIX):
            shutil.rmtree(pod.workdir, ignore_errors=True)


def _run(pod: PodEnvironment) -> int:
    if pod.nodes * pod.processes == 1:
        from instructbooth_trainer.runtime.worker import run_worker

        return run_worker(pod)
    from instructbooth_trainer.launch import run_workers

    return run_workers(pod, os.environ)


if __name__ == "__main__":
    main()
