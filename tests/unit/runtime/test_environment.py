"""What a pod is told, and how many threads it gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.launch import worker_environments
from instructbooth_trainer.runtime.environment import read_environment
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.threads import choose_threads, cpu_quota


@pytest.fixture
def env(tmp_path: Path, make_job: Callable[..., ResolvedJob]) -> dict[str, str]:
    (tmp_path / "job.json").write_text(json.dumps(make_job(reinforcement={"nodes": 2, "gpusPerNode": 4}).to_wire()))
    return {
        "INSTRUCTBOOTH_CONFIG": str(tmp_path / "job.json"),
        "INSTRUCTBOOTH_STAGE": "reinforce",
        "INSTRUCTBOOTH_ATTEMPT": "2",
        "INSTRUCTBOOTH_INPUTS": '{"personalize": 3}',
        "INSTRUCTBOOTH_POD_IP": "10.1.2.3",
        "INSTRUCTBOOTH_STORE": str(tmp_path),
        "JOB_COMPLETION_INDEX": "1",
    }


def test_a_pod_knows_its_place(env: dict[str, str]) -> None:
    pod = read_environment(env)
    shutil.rmtree(pod.workdir)
    assert (pod.stage, pod.attempt, pod.node_rank, pod.nodes, pod.processes) == (Stage.REINFORCE, 2, 1, 2, 4)
    assert pod.inputs == {Stage.PERSONALIZE: 3}
    assert pod.local


def test_one_process_per_gpu_numbered_over_the_gang(env: dict[str, str], tmp_path: Path) -> None:
    pod = read_environment(env)
    shutil.rmtree(pod.workdir)
    workers = worker_environments(pod, env, tmp_path, "10.1.2.1")
    assert [w["RANK"] for w in workers] == ["4", "5", "6", "7"]
    assert [w["LOCAL_RANK"] for w in workers] == ["0", "1", "2", "3"]
    assert {w["WORLD_SIZE"] for w in workers} == {"8"}
    assert {w["LOCAL_WORLD_SIZE"] for w in workers} == {"4"}
    assert {w["MASTER_ADDR"] for w in workers} == {"10.1.2.1"}
    assert {w["MASTER_PORT"] for w in workers} == {"29500"}
    assert len({w["INSTRUCTBOOTH_TERMINATION_LOG"] for w in workers}) == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"INSTRUCTBOOTH_CONFIG": "/nowhere/job.json"}, "INSTRUCTBOOTH_CONFIG: cannot read"),
        ({"INSTRUCTBOOTH_STAGE": "bake"}, "INSTRUCTBOOTH_STAGE: 'bake'.*personalize, reinforce, evaluate"),
        ({"INSTRUCTBOOTH_ATTEMPT": "one"}, "INSTRUCTBOOTH_ATTEMPT: 'one'"),
        ({"INSTRUCTBOOTH_INPUTS": '{"bake": 1}'}, "INSTRUCTBOOTH_INPUTS"),
        ({"INSTRUCTBOOTH_INPUTS": "[1]"}, "INSTRUCTBOOTH_INPUTS"),
        ({"INSTRUCTBOOTH_POD_IP": ""}, "INSTRUCTBOOTH_POD_IP: unset, but the gang has 2 nodes"),
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX: 2, but the gang has 2 nodes"),
        ({"INSTRUCTBOOTH_NODES": "1"}, "INSTRUCTBOOTH_NODES: 1, but the stage has 2 nodes"),
        ({"INSTRUCTBOOTH_NODES": "3"}, "INSTRUCTBOOTH_NODES: 3, but the stage has 2 nodes"),
        ({"INSTRUCTBOOTH_STALL_TIMEOUT": "soon"}, "INSTRUCTBOOTH_STALL_TIMEOUT: 'soon'"),
    ],
)
def test_a_bad_environment_names_its_variable(env: dict[str, str], change: dict[str, str], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        read_environment({**env, **change})
    assert caught.value.reason == "ConfigInvalid"


def test_an_attempt_has_as_many_nodes_as_found_room(
    env: dict[str, str], tmp_path: Path, make_job: Callable[..., ResolvedJob]
) -> None:
    job = make_job(reinforcement={"nodes": 4, "minNodes": 2, "gpusPerNode": 2})
    (tmp_path / "job.json").write_text(json.dumps(job.to_wire()))
    pod = read_environment({**env, "INSTRUCTBOOTH_NODES": "3"})
    shutil.rmtree(pod.workdir)
    assert (pod.nodes, pod.world_size) == (3, 6)
    assert {w["WORLD_SIZE"] for w in worker_environments(pod, env, tmp_path, "10.1.2.1")} == {"6"}
    with pytest.raises(UserError, match="1, but the stage has 2 to 4 nodes"):
        read_environment({**env, "INSTRUCTBOOTH_NODES": "1"})


def test_the_timeout_is_the_attempt_s_and_else_the_job_s(env: dict[str, str]) -> None:
    for given, seconds in (({}, 1800), ({"INSTRUCTBOOTH_STALL_TIMEOUT": "0"}, 0)):
        pod = read_environment({**env, **given})
        shutil.rmtree(pod.workdir)
        assert pod.stall_timeout == seconds


def test_cpu_quota_of_both_cgroup_versions(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpu_quota(tmp_path) == 0.5


def test_threads_follow_the_quota_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert choose_threads(1, {}, tmp_path) == 1
    assert choose_threads(4, {}, tmp_path) == 1
    assert choose_threads(4, {"OMP_NUM_THREADS": "3"}, tmp_path) == 3
