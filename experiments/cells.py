"""One cell of an experiment: a subject, a seed and a recipe, taken through the stages by the trainer itself.

Everything lies in a local store under names made from what went in (spec, weights, code), so that a second call does
only what is missing, a changed recipe never meets the files of an old one, and cells that differ in reinforcement alone
share their personalization, its evaluation and that of the base model. A stage that is stopped goes on from its last
checkpoint.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from experiments.pods import pod_environment
from experiments.versions import code_version, drawing_version
from instructbooth.artifacts.layout import MANIFEST, RunLayout
from instructbooth.contract import ExitCode, Stage
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob
from instructbooth_miniature.pictures import draw_subject
from instructbooth_miniature.subjects import HELD_OUT_SUBJECTS

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "miniature" / "weights"
NAMESPACE = "experiments"
LINES_OF_LOG = 15


class CellFailed(Exception):
    """A stage of a cell ended with an error; the message holds the end of its log."""


class CellStopped(Exception):
    """A stage was ended because the laboratory was asked to stop; it goes on when it is run again."""


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes:
        subject: name in HELD_OUT_SUBJECTS.
        seed: of personalization and reinforcement; evaluation draws from the same noise in every cell.
        recipe: name, for tables.
        changes: what the recipe changes in the base spec, by dotted path; None removes a field.
    """

    subject: str
    seed: int
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.recipe}/{self.subject}/{self.seed}"


def changed(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a spec with some dotted paths set, or removed where the value is None.

    Raises KeyError for a path whose parent is not there.
    """
    out = copy.deepcopy(dict(spec))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = out
        for name in parents:
            place = place[name]
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return out


def subject_changes(name: str) -> dict[str, Any]:
    """What makes a manifest of the miniature world one of another subject."""
    return {
        "subject.images": {"s3": {"prefix": f"subjects/{name}"}},
        "subject.description": HELD_OUT_SUBJECTS[name].description(2),
    }


def all_prompts(spec: Mapping[str, Any]) -> list[str]:
    """The prompts that are evaluated: those trained on, then those held out."""
    lines = [*spec["reinforcement"]["prompts"]["inline"], *spec["evaluation"]["prompts"]["inline"]]
    return list(dict.fromkeys(lines))


class Laboratory:
    """A local store with the miniature world's models and subjects, and the runs in it."""

    def __init__(self, folder: Path, manifest: Path) -> None:
        """Reads the manifest that every cell starts from."""
        self.folder = folder
        self.spec: dict[str, Any] = yaml.safe_load(manifest.read_text())["spec"]
        self.bucket: Path = folder / "store" / str(self.spec["artifacts"]["bucket"])
        self.code = code_version()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._guard, self._stopped = threading.Lock(), False
        self._claim: IO[str] | None = None
        files = sorted(WEIGHTS.rglob("*.safetensors"))
        self.weights = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    @property
    def spec_metrics(self) -> list[str]:
        """Names of the metrics that the manifest evaluates."""
        return [metric["name"] for metric in self.spec["evaluation"]["metrics"]]

    def prepare(self, subjects: list[str]) -> None:
        """Put models and pictures into the store. Raises KeyError for an unknown subject."""
        models = self.bucket / "models"
        models.mkdir(parents=True, exist_ok=True)
        if (models / "miniature").resolve() != WEIGHTS:  # none yet, or another checkout's
            (models / "miniature").unlink(missing_ok=True)
            (models / "miniature").symlink_to(WEIGHTS)
        for name in subjects:
            draw_subject(name, self.bucket / "subjects" / name)
        (self.folder / "logs").mkdir(exist_ok=True)

    def claim(self) -> None:
        """Wait until nobody else works in this folder: neither another laboratory, nor the stages a killed one left.

        The stages inherit the lock, so that it is free only when the last of them has ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{self.folder} is in use, or a stage of an earlier run ends there; waiting", file=sys.stderr)
            fcntl.flock(self._claim, fcntl.LOCK_EX)

    def stop(self) -> None:
        """End the stages that run, each at a checkpoint, and begin no other one. Callable from any thread."""
        with self._guard:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def job(self, cell: Cell) -> ResolvedJob:
        """A cell's resolved job: one process, the seed put in, trained and held-out prompts evaluated."""
        seeds = {"personalization.seed": cell.seed, "reinforcement.seed": cell.seed, "reinforcement.nodes": 1}
        spec = changed(changed(self.spec, {**subject_changes(cell.subject), **seeds}), cell.changes)
        spec["evaluation"]["prompts"] = {"inline": all_prompts(spec)}
        return self._resolved(cell.subject, spec, spec)

    def _resolved(self, name: str, spec: Mapping[str, Any], key: object) -> ResolvedJob:
        text = json.dumps([key, self.weights, self.code], sort_keys=True)
        uid = hashlib.sha256(text.encode()).hexdigest()[:16]
        return ResolvedJob(
            namespace=NAMESPACE, name=name, uid=uid, spec=InstructBoothJobSpec.model_validate(dict(spec))
        )

    def output(self, job: ResolvedJob, stage: Stage) -> Path:
        """Where a stage of a job publishes."""
        return self.bucket / RunLayout.of(job).output(stage, 1)

    def run(self, cell: Cell) -> Path:
        """Take a cell through all stages; returns the evaluation's output. Raises CellFailed, CellStopped."""
        job = self.personalized(cell)
        self._stage(job, Stage.REINFORCE)
        self._share_evaluation(job)
        self._stage(job, Stage.EVALUATE)
        self._share_evaluation(job)
        return self.output(job, Stage.EVALUATE)

    def personalized(self, cell: Cell) -> ResolvedJob:
        """A cell's job with its first stage done, by this cell or another one. Raises CellFailed, CellStopped."""
        job = self.job(cell)
        wire = job.spec.to_wire()
        first = self._resolved(cell.subject, wire, [wire["subject"], wire["model"], wire["personalization"]])
        with self._locks[first.uid]:  # cells that share it run side by side
            self._stage(first, Stage.PERSONALIZE)
        shared = self.bucket / RunLayout.of(job).stage(Stage.PERSONALIZE)
        if not shared.exists():
            shared.parent.mkdir(parents=True, exist_ok=True)
            shared.symlink_to(self.bucket / RunLayout.of(first).stage(Stage.PERSONALIZE))
        return job

    def _share_evaluation(self, job: ResolvedJob) -> None:
        """Take the pictures of models that cells have in common from who drew them first, or lend one's own.

        An evaluation takes parts that are there if they were drawn as it would draw them itself (decision 0017).
        """
        wire, done = job.spec.to_wire(), (self.output(job, Stage.EVALUATE) / MANIFEST).exists()
        own = self.bucket / RunLayout.of(job).attempt(Stage.EVALUATE, 1) / "parts"
        drawn_by = {"base": ["subject", "model", "evaluation"]}
        drawn_by["personalized"] = [*drawn_by["base"], "personalization"]
        for model, fields in drawn_by.items():
            made_of = [[wire[name] for name in fields], self.weights, self.code, drawing_version()]
            key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
            common = self.folder / "drawn" / f"{model}-{key}"
            source, target = (own / model, common) if done else (common, own / model)
            with self._locks[str(common)]:
                if source.exists() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial = target.with_name(f".{target.name}")
                    shutil.rmtree(partial, ignore_errors=True)
                    shutil.copytree(source, partial, copy_function=os.link)
                    partial.rename(target)

    def _stage(self, job: ResolvedJob, stage: Stage) -> None:
        """Run a stage as the pod would, unless its output is there. Raises CellFailed, CellStopped."""
        if (self.output(job, stage) / MANIFEST).exists():
            return
        stem = self.folder / "logs" / f"{job.uid}-{stage.value}"
        env = pod_environment(job, stage, self.folder / "store", stem)
        log = stem.with_suffix(".log")
        code = self._run(env, log)
        if code in (ExitCode.CHECKPOINTED, -signal.SIGTERM):  # the latter before it could listen
            raise CellStopped(str(stem))
        if code:
            end = "\n".join(log.read_text().splitlines()[-LINES_OF_LOG:])
            raise CellFailed(f"{stage.value} ended with code {code}; the end of {log}:\n{end}")

    def _run(self, env: Mapping[str, str], log: Path) -> int:
        """The trainer's exit code. A session of its own: an interrupt of the keyboard is this process's to pass on."""
        inherited = [self._claim.fileno()] if self._claim else []
        with log.open("w") as out:
            with self._guard:
                if self._stopped:
                    return ExitCode.CHECKPOINTED
                child = subprocess.Popen(
                    [sys.executable, "-m", "instructbooth_trainer.main"],
                    env=env, stdout=out, stderr=out, start_new_session=True, pass_fds=inherited,
                )  # fmt: skip
                self._children.add(child)
            try:
                return child.wait()
            finally:
                with self._guard:
                    self._children.discard(child)
