"""MinIO goes away in the middle of each stage, and the stage ends with what it would have made anyway.

Real stages as pods run them, on the tiny model. A stage either sits the outage out, or ends as a transient failure and
is started again, as the operator would; then it goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructbooth.artifacts.checkpoints import list_checkpoints
from instructbooth.artifacts.commit import fetch
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.s3 import S3Store
from instructbooth.contract import Env, ExitCode, Stage
from instructbooth.spec.job import ResolvedJob
from tests.chaos.effort import LONG, OUTAGE_SECONDS
from tests.integration.minio_server import PASSWORD, USER, Server
from tests.integration.storage.conftest import SHORT, config
from tests.integration.storage.test_stages_local import PATIENCE, Cluster
from tests.unit.trainer.harness import BUCKET, Lab, spec
from tests.unit.trainer.tiny import make_tiny_world

pytestmark = [pytest.mark.minio, pytest.mark.skipif(not LONG, reason="minutes of training: make chaos SEEDS=100")]

# What a stage says when it is in the middle: after it come further checkpoints, or the download of the models.
IN_THE_MIDDLE = {
    Stage.PERSONALIZE: "checkpoint at step 2",
    Stage.REINFORCE: "checkpoint at step 1",
    Stage.EVALUATE: "process 1 of 1",
}


class Site:
    """A MinIO with the tiny models and the subject's pictures in it, and pods that know how to reach it."""

    def __init__(self, folder: Path) -> None:
        (folder / "minio").mkdir()
        self.server = Server(folder / "minio")
        self.server.start()
        (folder / "lab").mkdir()
        self.lab = Lab(folder / "lab", make_tiny_world(folder / "tiny"))
        self.cluster = Cluster(self.lab)
        self.store = S3Store(config(self.server.endpoint, BUCKET), SHORT)
        self.store.ensure_bucket(create=True)
        models = self.lab.root / BUCKET
        for path in sorted(p for p in models.rglob("*") if p.is_file()):
            self.store.put_file(path.relative_to(models).as_posix(), path)
        for link in (p for p in (models / "models").iterdir() if p.is_symlink()):
            for path in sorted(p for p in link.resolve().rglob("*") if p.is_file()):
                self.store.put_file(f"models/{link.name}/{path.relative_to(link.resolve()).as_posix()}", path)

    def job(self, uid: str) -> ResolvedJob:
        wire = spec(
            personalization={"steps": 8, "checkpointIntervalSteps": 2},
            reinforcement={"epochs": 3, "checkpointIntervalEpochs": 1},
            evaluation={"metrics": [{"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}]},
        )
        wire["artifacts"] |= {"endpoint": self.server.endpoint}
        return ResolvedJob.model_validate({"namespace": "test", "name": "tiny", "uid": uid, "spec": wire})

    def start(self, job: ResolvedJob, stage: Stage, attempt: int, inputs: str) -> None:
        keys = {Env.ACCESS_KEY: USER, Env.SECRET_KEY: PASSWORD}
        self.cluster.start(job, stage, attempt, **{Env.STORE: "", Env.INPUTS: inputs}, **keys)

    def wait(self) -> int:
        """The exit code of the pod that was started last."""
        return self.cluster.children[-1].wait(PATIENCE)

    def log(self, job: ResolvedJob, stage: Stage, attempt: int) -> str:
        return self.cluster.log(job, stage, attempt, 0).read_text()

    def wait_for(self, job: ResolvedJob, stage: Stage, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.log(job, stage, 1):
            ended = self.cluster.children[-1].poll()
            assert ended is None, f"{stage} ended with {ended} before it said {text!r}:\n{self.log(job, stage, 1)}"
            assert time.monotonic() < deadline, f"{stage} never said {text!r}"
            time.sleep(0.02)

    def close(self) -> None:
        for child in self.cluster.children:
            if child.poll() is None:
                child.kill()
                child.wait()
        self.server.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


def test_an_outage_in_every_stage(site: Site, tmp_path: Path) -> None:
    job, layout, attempts = site.job("outage"), RunLayout("test/tiny/outage/"), dict[Stage, int]()
    for stage in Stage:
        inputs = "{" + ", ".join(f'"{name.value}": {attempt}' for name, attempt in attempts.items()) + "}"
        site.start(job, stage, 1, inputs)
        site.wait_for(job, stage, IN_THE_MIDDLE[stage])
        site.server.kill()
        site.wait_for(job, stage, "trying again in")  # it is felt
        time.sleep(OUTAGE_SECONDS)
        site.server.start()
        code, attempts[stage] = site.wait(), 1
        if code:
            said = site.cluster.outcome(job, stage, 1, 0)
            assert (code, said.reason) == (ExitCode.TRANSIENT, "EndpointUnreachable"), site.log(job, stage, 1)
            site.start(job, stage, 2, inputs)
            assert site.wait() == 0, site.log(job, stage, 2)
            attempts[stage] = 2
            if stage is not Stage.EVALUATE:
                assert "going on from step" in site.log(job, stage, 2)
        fetch(site.store, layout.output(stage, attempts[stage]), tmp_path / stage.value)
    assert (tmp_path / "evaluate" / "evaluation.json").is_file()


def test_a_damaged_artifact_stops_the_next_stage_and_a_damaged_checkpoint_is_passed_over(site: Site) -> None:
    """After the outage's job, so that there is one: its artifact is damaged for another stage to read."""
    layout = RunLayout("test/tiny/outage/")
    job = site.job("outage")
    newest = list_checkpoints(site.store, layout, Stage.PERSONALIZE, 9)[0]
    damage(site.store, layout.checkpoint(Stage.PERSONALIZE, newest.attempt, newest.step) + "state.safetensors")
    site.start(job, Stage.PERSONALIZE, 9, "{}")
    assert site.wait() == 0, site.log(job, Stage.PERSONALIZE, 9)
    log = site.log(job, Stage.PERSONALIZE, 9)
    assert f"passing over the checkpoint of step {newest.step}" in log
    assert f"going on from step {newest.step}" not in log

    damage(site.store, layout.output(Stage.PERSONALIZE, 9) + "pytorch_lora_weights.safetensors")
    site.start(job, Stage.REINFORCE, 9, '{"personalize": 9}')
    assert site.wait() == ExitCode.USER_ERROR, site.log(job, Stage.REINFORCE, 9)
    said = site.cluster.outcome(job, Stage.REINFORCE, 9, 0)
    assert said.reason == "ArtifactCorrupt"
    assert "sha256" in said.message


def damage(store: S3Store, key: str) -> None:
    """Change one bit of an object."""
    data = bytearray(store.get_bytes(key))
    data[-1] ^= 1
    store.put_bytes(key, bytes(data))
