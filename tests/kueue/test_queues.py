"""Two jobs in a queue with room for one, and an urgent third: who waits says why, and ends with the same bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from instructbooth.spec.status import InstructBoothJobStatus, Phase, Restarts
from tests.e2e import jobs, lab
from tests.e2e.test_e2e_restart import lora
from tests.kueue import queues
from tests.kueue.witness import Witness

CALM, STOPPED, URGENT = "calm", "stopped", "urgent"
LIMITS = jobs.RESOURCES["limits"]
WHOLE = {"requests": {"cpu": queues.CPU, "memory": "512Mi"}, "limits": LIMITS}
HALF = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": LIMITS}
# Not one failure and not one disruption is forgiven.
STRICT = {"queueName": queues.QUEUE, "backoffLimit": 0, "disruptionLimit": 0, "activeDeadlineSeconds": 3600}


def manifest(name: str, **policy: str) -> lab.Object:
    """A job each of whose gangs takes the whole queue."""
    return jobs.small(
        name,
        runPolicy={**STRICT, **policy},
        reinforcement__epochs=8,
        personalization__resources=WHOLE,
        reinforcement__resources=HALF,
        evaluation__resources=WHOLE,
    )


@dataclass
class Story:
    """What was seen, and how it ended."""

    witness: Witness
    finished: dict[str, InstructBoothJobStatus]
    step_when_stopped: int
    log: str


@pytest.fixture(scope="module")
def story(queue: str) -> Story:
    with Witness(queue) as witness:
        for name in (CALM, STOPPED):
            jobs.submit(manifest(name), namespace=queue)
        before = jobs.wait_stage_moves(STOPPED, "reinforce", step=2, namespace=queue, seconds=900)
        step = lab.stage(before, "reinforce")["progress"]["step"]
        jobs.submit(manifest(URGENT, workloadPriorityClassName=queues.URGENT), namespace=queue)
        lab.wait(
            "the urgent job to run", lambda: jobs.running_pods(URGENT, "personalize", namespace=queue), seconds=180
        )
        lab.kubectl("delete", "ibj", URGENT, "-n", queue, "--timeout=60s")
        found = {name: lab.wait_finished(name, namespace=queue, seconds=900) for name in (CALM, STOPPED)}
    finished = {name: InstructBoothJobStatus.model_validate(job["status"]) for name, job in found.items()}
    child = lab.stage(found[STOPPED], "reinforce")["jobName"]
    log = lab.kubectl("logs", f"job/{child}", "-n", queue, check=False)
    return Story(witness, finished, step, log)


def test_two_jobs_over_quota_run_one_after_the_other(story):
    for status in story.finished.values():
        assert status.phase is Phase.SUCCEEDED, status.to_wire()
    print(f"{len(story.witness.seen)} looks")
    assert [sight.running for sight in story.witness.seen if len(sight.running & {CALM, STOPPED}) > 1] == []
    assert {name for sight in story.witness.seen for name in sight.running} >= {CALM, STOPPED}


def test_who_waits_says_why_in_kueue_s_own_words(story):
    said = [condition.message for name in (CALM, STOPPED) for condition in story.witness.queued(name)]
    print("\n".join(said))
    assert any("insufficient unused quota for cpu" in message for message in said)


def test_the_preempted_job_goes_on_from_its_checkpoint_and_ends_with_the_same_bits(story, queue, tmp_path: Path):
    reasons = [(found.reason, found.message) for found in story.witness.queued(STOPPED)]
    assert any(reason == "Preempted" and "Preempted to accommodate a workload" in text for reason, text in reasons)
    assert not any(found.reason == "Preempted" for found in story.witness.queued(CALM)), "there is no undisturbed run"
    resumed = re.search(r"reinforce: going on from step (\d+) of attempt (\d+)", story.log)
    assert resumed is not None
    assert int(resumed[1]) >= story.step_when_stopped
    attempt = story.finished[STOPPED].stages[1].attempt
    print(f"stopped at {story.step_when_stopped}, {resumed[0]}, ended as attempt {attempt}")
    calm, stopped = (lora(name, tmp_path / name, namespace=queue) for name in (CALM, STOPPED))
    assert calm == stopped


def test_nobody_is_charged_and_no_clock_runs_in_the_queue(story):
    for name, status in story.finished.items():
        assert [stage.restarts for stage in status.stages] == [Restarts()] * 3
        assert [stage.failure for stage in status.stages] == [None] * 3
        waited, whole = story.witness.seconds_queued(name), story.witness.seen[-1].time - story.witness.seen[0].time
        print(f"{name}: active for {status.active_seconds} s, seen waiting for {waited:.0f} s of {whole:.0f} s")
        assert waited > 10
        assert status.active_seconds <= whole - waited
        waiting = [sight.status[name] for sight in story.witness.seen if sight.condition(name, "Queued")]
        assert {(found.phase, found.active_since) for found in waiting} == {(Phase.QUEUED, None)}
        assert not [sight for sight in story.witness.seen if sight.condition(name, "Blocked")]
