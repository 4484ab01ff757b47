"""A process of a gang that runs all stages of several jobs, one after the other: starting Python costs the most.

    python -m tests.unit.trainer.gang_of_families STORE...

Each store holds job.json. Rank and world are in the environment, as torchrun would set them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from instructbooth.contract import Env, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import load_recipe, make_context


def main() -> None:
    """Run them; any error ends the process."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for store in map(Path, sys.argv[1:]):
        os.environ[Env.STORE] = str(store)
        job = ResolvedJob.model_validate_json((store / "job.json").read_text())
        inputs: dict[Stage, int] = {}
        for stage in Stage:
            workdir = store / f"gang-{stage.value}-{rank}"
            workdir.mkdir()
            pod = PodEnvironment(job, stage, 1, dict(inputs), rank, "127.0.0.1", local=True, workdir=workdir)
            context = make_context(pod, StopFlag())
            load_recipe(stage)(context)
            context.gang.barrier()
            inputs[stage] = 1


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
