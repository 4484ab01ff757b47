"""What the operator would tell a pod, for a stage that runs on this machine without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from instructbooth.contract import STAGES, Env, Stage
from instructbooth.spec.job import ResolvedJob


def pod_environment(job: ResolvedJob, stage: Stage, store: Path, stem: Path, threads: int = 1) -> dict[str, str]:
    """Environment variables of the stage's first attempt, this process's own among them.

    Args:
        job: the resolved job; it is written to `stem`.json.
        stage: earlier stages count as done at their first attempt.
        store: folder of the local store.
        stem: path of the stage's files, without suffix.
        threads: CPU threads of a process.
    """
    config = stem.with_suffix(".json")
    config.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    return os.environ | {
        Env.CONFIG: str(config),
        Env.STAGE: stage.value,
        Env.ATTEMPT: "1",
        Env.INPUTS: json.dumps({earlier.value: 1 for earlier in STAGES[: STAGES.index(stage)]}),
        Env.STORE: str(store),
        Env.TERMINATION_LOG: str(stem.with_suffix(".end")),
        "OMP_NUM_THREADS": str(threads),
    }
