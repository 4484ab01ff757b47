"""A field that nobody reads is a defect: somebody sets it and nothing happens.

The operator plans, and the trainer runs all three stages on the tiny models, while every read of a spec's field is
written down by its path. A field's name may stand in many places: only the path tells which one was read.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic.alias_generators import to_camel

from instructbooth.artifacts.access import open_store
from instructbooth.contract import Env, PromptRole, Stage
from instructbooth.reconcile.children import child_job
from instructbooth.reconcile.observed import Evidence, Pod
from instructbooth.spec.base import ApiModel
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob, RunPolicy
from instructbooth.spec.sources import ImageSource, ModelSource, PromptSource
from instructbooth_trainer.diffusion.matching import FlowObjective
from instructbooth_trainer.runtime import sources
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.progress import ProgressReporter
from instructbooth_trainer.runtime.sources import Sources
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import load_recipe, make_context
from tests.unit.reconcile.world import DEFAULTS, World, job_object
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import make_tiny_world

# Alternatives, of which one object has one, and that stand in many places: each is to be read somewhere.
SOURCES = (ImageSource, ModelSource, PromptSource)
ROOTS: dict[type[ApiModel], str] = {InstructBoothJobSpec: "spec", RunPolicy: "spec.runPolicy"}


def members(annotation: Any) -> Iterator[type[ApiModel]]:
    """The models that a field's type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from members(argument)


def paths(model: type[ApiModel], path: str) -> Iterator[str]:
    """Every field below a model, by its path in the manifest; below a source by the source's type."""
    if model in SOURCES:
        path = model.__name__
    for name, info in model.model_fields.items():
        below = f"{path}.{to_camel(name)}"
        yield below
        for member in members(info.annotation):
            yield from paths(member, below)


@dataclass
class Reads:
    """What was read, by path. Objects are known by having been read from an object that is known."""

    seen: set[str] = field(default_factory=set)
    places: dict[int, tuple[object, str]] = field(default_factory=dict)

    def note(self, owner: ApiModel, name: str, value: object) -> None:
        """A field of a model was read."""
        root = ROOTS.get(type(owner))
        if id(owner) not in self.places and root is None:
            return  # being validated, or no part of a spec
        path = self.places[id(owner)][1] if id(owner) in self.places else root
        below = f"{path}.{to_camel(name)}"
        self.seen.add(below)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ApiModel):
                self.places[id(child)] = (child, type(child).__name__ if isinstance(child, SOURCES) else below)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Writes down what is read from now on."""
    found = Reads()
    original = ApiModel.__getattribute__

    def spy(self: ApiModel, name: str) -> Any:
        value = original(self, name)
        if name in type(self).model_fields:
            found.note(self, name, value)
        return value

    monkeypatch.setattr(ApiModel, "__getattribute__", spy)
    return found


def operate() -> None:
    """All that the operator decides: pods of each stage, restarts, suspension, queue, deadline, clean-up."""
    for policy in ({"queueName": "team"}, {"activeDeadlineSeconds": 60}, {}):
        shape: dict[str, Any] = {
            "reinforcement": {"minNodes": 1},
            "runPolicy": {**policy, "ttlSecondsAfterFinished": 1},
        }
        world = World(job_object(**shape))
        world.settle()
        world.edit(suspend=True)
        world.settle()
        world.edit(suspend=False)
        world.settle()
        world.disrupt(world.launched[-1])
        world.settle()
        world.fail(world.launched[-1], 1)
        world.settle()
        world.wait(10)
        world.settle()
        for _ in Stage:
            world.wait(11)
            world.evidence[world.launched[-1]] = Evidence((Pod("p0", 0, unschedulable="no room"),))
            world.settle()
            world.complete(world.launched[-1])
            world.settle()


def train(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three stages with everything in use that has a default of None."""
    scorer = {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}
    prompts = {"inline": ["a {subject} on red"]}
    job = lab.job(
        "read",
        personalization={
            "steps": 1,
            "ema": {},
            "earlyStopping": {"intervalSteps": 1},
            "validation": {"prompts": prompts, "imagesPerPrompt": 1},
        },
        reinforcement={
            "epochs": 1,
            "earlyStopping": {"prompts": prompts, "imagesPerPrompt": 2, "intervalEpochs": 1},
            "guards": {
                "klCeiling": 1e6,
                "identity": {
                    "name": "subject-identity",
                    "model": {"s3": {"prefix": "models/vision"}},
                    "params": {"ceiling": 0.9},
                    "floorShare": 0.01,
                },
                "diversityFloor": 0.01,
            },
            "timestepsPerTrajectory": 1,
            "timestepWindow": {"end": 2, "intervalEpochs": 1},
        },
        evaluation={"prompts": prompts, "metrics": [scorer], "imagesPerPrompt": 1},
    )
    monkeypatch.setattr(ProgressReporter, "serve", lambda self, port: port)
    monkeypatch.setenv(Env.STORE, str(lab.root))
    inputs: dict[Stage, int] = {}
    for stage in Stage:
        child_job(job, stage, 1, inputs, DEFAULTS)
        workdir = lab.root / f"read-{stage.value}"
        workdir.mkdir()
        pod = PodEnvironment(job, stage, 1, dict(inputs), 0, None, local=False, workdir=workdir)
        load_recipe(stage)(make_context(pod, StopFlag()))
        inputs[stage] = 1


def flow() -> None:
    """What only families of flow matching read."""
    spec = ResolvedJob.from_object(job_object(personalization={"flowMatching": {}})).spec
    objective = FlowObjective(1000, 1.0, spec.personalization.flow_matching or pytest.fail("no flowMatching"))
    objective.draw_timesteps(1, torch.Generator())


def look_up(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of every kind, and storage with a certificate of its own."""
    hub = {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "hub", "key": "token"}}
    pvc = {"claimName": "claim", "path": "folder"}
    text = {"configMap": {"name": "texts", "key": "a.txt"}}
    changes: dict[str, Any] = {
        "subject": {"images": {"configMap": {"name": "pictures"}}},
        "artifacts": {"caBundle": {"name": "ca"}, "region": "here"},
        "reinforcement": {
            "prompts": {**text, "contexts": ["on red"]},
            "rewards": [{"name": "clip-score", "model": {"hub": hub}}],
        },
    }
    job = ResolvedJob.from_object(job_object(**changes))
    other = ResolvedJob.from_object(job_object(model={"source": {"pvc": pvc}}, subject={"images": {"pvc": pvc}}))
    for each in (job, other):
        for stage in Stage:
            child_job(each, stage, 1, {}, DEFAULTS)
    (folder / "ca.crt").write_text("")
    for role in PromptRole:
        (folder / role.value).mkdir()
        (folder / role.value / "a.txt").write_text("a {subject} {context}")
    monkeypatch.delenv(Env.STORE)
    open_store(job.spec.artifacts, {Env.ACCESS_KEY: "a", Env.SECRET_KEY: "b"}, ca_dir=folder)
    with pytest.raises(Exception, match="unset or empty"):
        open_store(job.spec.artifacts, {}, ca_dir=folder)
    monkeypatch.setenv(Env.STORE, str(lab.root))
    store = open_store(job.spec.artifacts, {Env.STORE: str(lab.root)})
    roots = dict.fromkeys(("/mnt/subject", "/mnt/prompts", "/mnt/volumes"), folder)
    found = Sources(store, folder, None, beat=lambda: None, roots=roots)
    monkeypatch.setattr(sources, "check_model_folder", lambda path: None)
    monkeypatch.setattr(sources, "download_snapshot", lambda source, path, token: (source.repo, source.revision))
    found.model_folder(job.spec.reinforcement.rewards[0].model or pytest.fail("no model"))
    (folder / "claim" / "folder").mkdir(parents=True)
    found.model_folder(other.spec.model.source)
    found.image_folder(job.spec.subject.images)
    found.image_folder(other.spec.subject.images)
    found.prompt_lines(job.spec.reinforcement.prompts, PromptRole.REINFORCEMENT)
    store.put_bytes("prompts.txt", b"a {subject}")
    in_store = job_object(reinforcement={"prompts": {"s3": {"prefix": "prompts.txt"}}})
    prompts = ResolvedJob.from_object(in_store).spec.reinforcement.prompts
    found.prompt_lines(prompts, PromptRole.REINFORCEMENT)


def test_every_field_of_the_spec_is_read(reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path / "store", make_tiny_world(tmp_path / "tiny"))
    operate()
    train(lab, monkeypatch)
    flow()
    folder = tmp_path / "mounts"
    folder.mkdir()
    look_up(lab, folder, monkeypatch)
    expected = set(paths(InstructBoothJobSpec, "spec"))
    assert expected - reads.seen == set()
