"""Deleting, sharing, and losing the operator: nothing is left behind, nothing is disturbed, nothing happens twice."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e import jobs, lab

STAGES = ("personalize", "reinforce", "evaluate")


@pytest.mark.parametrize("stage", STAGES)
def test_deleting_the_job_removes_every_child(namespace, stage):
    name = jobs.submit(jobs.small(f"delete-{stage}"), namespace=namespace)
    lab.wait(f"{stage} to run", lambda: jobs.running_pods(name, stage, namespace=namespace), seconds=300, interval=0.5)
    lab.kubectl("delete", "ibj", name, "-n", namespace, "--timeout=30s")
    lab.wait("every child to be gone", lambda: not jobs.children(name, namespace=namespace), seconds=30)


def test_two_jobs_at_once_survive_the_loss_of_the_operator_in_each_stage(namespace):
    first = jobs.submit(jobs.small("first"), namespace=namespace)
    second = jobs.submit(jobs.small("second", reinforcement__seed=7), namespace=namespace)
    for stage in STAGES:
        lab.wait(
            f"{stage} to run",
            partial(jobs.running_pods, first, stage, namespace=namespace),
            seconds=400,
            interval=0.5,
        )
        lab.kubectl("delete", "pod", "-n", lab.SYSTEM, "-l", "app.kubernetes.io/component=operator", "--wait=false")
    for name in (first, second):
        job = lab.wait_finished(name, namespace=namespace, seconds=600)
        assert job["status"]["phase"] == "Succeeded", job["status"]
        # No second gang: one Job per stage was ever made, and none restarted.
        made = [child for child in jobs.children(name, namespace=namespace) if child.startswith("jobs/")]
        assert sorted(made) == sorted(f"jobs/{name}-{stage}-1" for stage in STAGES)
        for stage in STAGES:
            assert lab.stage(job, stage)["restarts"] == {"failures": 0, "disruptions": 0}
    finals = {name: lab.stage(lab.job(name, namespace=namespace), "evaluate")["artifact"] for name in (first, second)}
    assert finals[first] != finals[second]
