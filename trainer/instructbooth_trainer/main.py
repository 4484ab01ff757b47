"""`instructbooth-trainer`: the entry point of a trainer pod. Configured by the environment (instructbooth.contract)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run this pod's share of a stage and exit by the contract (instructbooth.contract.ExitCode)."""
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no thread and no broken process group may keep the pod from ending


def run() -> int:
    """What `main` does, returning the exit code."""
    from instructbooth_trainer.runtime import outcome as outcomes
    from instructbooth_trainer.runtime.environment import read_environment
    from instructbooth_trainer.runtime.errors import RunError

    try:
        pod = read_environment(os.environ)
        if pod.nodes * pod.processes == 1:
            from instructbooth_trainer.runtime.worker import run_worker

            return run_worker()
        from instructbooth_trainer.launch import run_workers

        return run_workers(pod, os.environ)
    except RunError as error:
        from instructbooth_trainer.runtime.exits import classify

        code, outcome = classify(error)
        print(f"{outcome.reason}: {outcome.message}", file=sys.stderr)
        outcomes.write(outcome, outcomes.termination_log(os.environ))
        return code


if __name__ == "__main__":
    main()
