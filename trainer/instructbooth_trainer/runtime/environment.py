"""What the operator tells a pod: contract.Env, read once and checked."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from instructbooth import contract
from instructbooth.contract import Env, Stage
from instructbooth.spec.base import LET_IN
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime.errors import UserError

SCRATCH_PREFIX = "instructbooth-"


@dataclass(frozen=True)
class PodEnvironment:
    """One pod of a gang.

    Attributes:
        job: the resolved job.
        stage: the stage to run.
        attempt: 1, 2, ...
        inputs: attempt that succeeded, by earlier stage.
        node_rank: index of the pod in the gang.
        coordinator: host of pod 0 where it is known beforehand; else the pods of the gang find each other.
        attempt_nodes: pods of the gang, where this attempt has fewer than the stage's nodes.
        stall_timeout: seconds after which a process that does not move ends itself; 0: never.
        address: this pod's; None outside of a cluster.
        local: whether artifacts go to a local folder (no cluster).
        workdir: scratch folder, made if absent.
    """

    job: ResolvedJob
    stage: Stage
    attempt: int
    inputs: dict[Stage, int]
    node_rank: int
    coordinator: str | None
    local: bool
    workdir: Path
    attempt_nodes: int | None = None
    stall_timeout: int = 0
    address: str | None = None

    @property
    def nodes(self) -> int:
        """Pods of the gang in this attempt."""
        return self.attempt_nodes or self.job.spec.stage(self.stage).nodes

    @property
    def processes(self) -> int:
        """Processes of this pod: one per GPU, one on CPU."""
        return max(1, self.job.spec.stage(self.stage).gpus_per_node)

    @property
    def world_size(self) -> int:
        """Processes of the gang in this attempt."""
        return self.nodes * self.processes


def read_environment(env: Mapping[str, str]) -> PodEnvironment:
    """Read and check. Raises UserError ConfigInvalid naming the variable."""
    config = Path(env.get(Env.CONFIG) or f"{contract.Path.CONFIG_DIR}/{contract.Path.CONFIG_KEY}")
    try:
        # Its rules were checked when the job began, by those of that day.
        job = ResolvedJob.model_validate_json(config.read_text(), context=LET_IN)
    except OSError as error:
        raise _invalid(Env.CONFIG, f"cannot read {config}: {error}") from error
    except ValidationError as error:
        raise _invalid(Env.CONFIG, f"{config} is no resolved job of this version: {error}") from error
    try:
        stage = Stage(env.get(Env.STAGE, ""))
    except ValueError as error:
        raise _invalid(Env.STAGE, f"{error}; one of {', '.join(Stage)}") from error
    try:
        inputs = {Stage(k): int(v) for k, v in json.loads(env.get(Env.INPUTS) or "{}").items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise _invalid(Env.INPUTS, f'{error}; an object such as {{"personalize": 1}}') from error
    shape = job.spec.stage(stage)
    nodes = _number(env, Env.NODES, shape.nodes)
    if not (shape.min_nodes or shape.nodes) <= nodes <= shape.nodes:
        least = f"{shape.min_nodes} to " if shape.min_nodes else ""
        raise _invalid(Env.NODES, f"{nodes}, but the stage has {least}{shape.nodes} nodes")
    address, coordinator = env.get(Env.POD_IP) or None, env.get(Env.COORDINATOR) or None
    if nodes > 1 and address is None and coordinator is None:
        raise _invalid(Env.POD_IP, f"unset, but the gang has {nodes} nodes")
    node_rank = _number(env, Env.NODE_RANK, None if nodes > 1 else 0)
    if node_rank >= nodes:
        raise _invalid(Env.NODE_RANK, f"{node_rank}, but the gang has {nodes} nodes")
    return PodEnvironment(
        job=job,
        stage=stage,
        attempt=_number(env, Env.ATTEMPT, 1),
        inputs=inputs,
        node_rank=node_rank,
        address=address,
        coordinator=coordinator,
        local=bool(env.get(Env.STORE)),
        workdir=_workdir(env),
        attempt_nodes=nodes,
        stall_timeout=_number(env, Env.STALL_TIMEOUT, job.spec.run_policy.stall_timeout_seconds),
    )


def prepare_home(workdir: Path) -> None:
    """Point every cache of the libraries below into scratch, where the rest of a pod's file system may be read-only,
    and keep their progress bars out of the log. What the pod's environment says goes first.
    """
    for name, value in {
        "HF_HOME": str(workdir / "hf"),
        "XDG_CACHE_HOME": str(workdir / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(workdir / "inductor"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


def _workdir(env: Mapping[str, str]) -> Path:
    """The pod's scratch volume; outside of a pod a folder of this process, which main removes at the end."""
    if env.get("HOME") == contract.Path.WORK or "KUBERNETES_SERVICE_HOST" in env:
        return Path(contract.Path.WORK)
    return Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))


def _number(env: Mapping[str, str], name: str, default: int | None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise _invalid(name, f"{text!r} is no number")
    return int(text)


def _invalid(name: str, problem: str) -> UserError:
    return UserError("ConfigInvalid", f"{name}: {problem}")
