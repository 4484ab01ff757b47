"""The workload as a job of ours, in a local store: the experiments' laboratory lends store, model and subject."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.trainer.workload import Workload, recordable
from experiments.cells import ROOT, WEIGHTS, Cell, Laboratory
from experiments.pods import pod_environment
from instructbooth.artifacts.layout import RunLayout
from instructbooth.contract import STAGES, Env, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.prompts import expand, identifier_free

SUBJECT = "demo"
MANIFEST = ROOT / "examples/demo/job.yaml"
CAPTION = "a {subject} on a white background"
PROMPTS = [
    f"a {{subject}} {where}"
    for where in (
        "on a blue background", "on a red background", "on a green background", "on a yellow background",
        "on the left", "on the right", "on the left on blue", "on the right on red",
    )
]  # fmt: skip
COPIES = 4  # of each picture: a data loader of the peer gives no batch larger than its folder
ADAPTER = "adapter"  # uid of the job whose first stage every reinforcement starts from


class Bench:
    """A laboratory with one model, and the jobs of a workload in it."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        """Put models and pictures into the store.

        Args:
            folder: for everything that is written.
            model: a diffusers folder in place of the miniature world's.
        """
        self.lab = Laboratory(folder, MANIFEST)
        self.lab.prepare([SUBJECT])
        self.store, self.model = folder / "store", model or WEIGHTS / "pipeline"
        self._prefix = "models/miniature/pipeline"
        if model is not None:
            self._prefix = "models/benched"
            (self.lab.bucket / self._prefix).symlink_to(model.resolve())
        self.subject = self.lab.bucket / "subjects" / "benched"
        self.subject.mkdir()
        for picture in sorted((self.lab.bucket / "subjects" / SUBJECT).iterdir()):
            for copy in range(COPIES):
                shutil.copyfile(picture, self.subject / f"{picture.stem}-{copy}{picture.suffix}")

    def workload(self, resolution: int, **sizes: Any) -> Workload:
        """A workload on this model and subject; `sizes` as Workload has them."""
        spec = self.lab.job(Cell(SUBJECT, 0, "bench")).spec
        subject, free = spec.subject, identifier_free(spec.subject, spec.reinforcement.identifier_free_phrase)
        prompts = [expand(t, (free, subject)[n % 2], identifier=bool(n % 2)) for n, t in enumerate(PROMPTS)]
        caption = expand(CAPTION, subject, identifier=True)
        return Workload(str(self.model), str(self.subject), prompts, caption, resolution, **sizes)

    def job(self, work: Workload, uid: str, nodes: int = 1, updates: int = 1, compiled: bool = False) -> ResolvedJob:
        """The job that does this work. Its artifacts lie under `uid`, which must be new for each process measured."""
        gpus = {"gpusPerNode": 1} if work.device == "cuda" else {}
        changes = {
            "subject.images": {"s3": {"prefix": "subjects/benched"}},
            "model.source": {"s3": {"prefix": self._prefix}},
            "model.dtype": work.dtype,
            "model.compile": compiled,
            "model.cudaGraphs": recordable(work) and not compiled,
            "personalization": {
                "steps": work.steps,
                "batchSize": work.batch,
                "learningRate": work.learning_rate,
                "lora": {"rank": work.rank, "alpha": work.rank, "targets": "attention"},
                "captionTemplates": [CAPTION],
                "priorPreservation": {"weight": 0},
                **gpus,
            },
            "reinforcement": {
                "prompts": {"inline": PROMPTS},
                "rewards": [{"name": "brightness"}],
                "epochs": work.warmup_epochs + work.epochs,
                "promptsPerEpoch": len(PROMPTS),
                "imagesPerPrompt": work.pictures // len(PROMPTS),
                "sampling": {"steps": work.sampling_steps, "guidanceScale": work.guidance},
                "batchSize": work.train_batch,
                "updatesPerEpoch": updates,
                "learningRate": work.learning_rate,
                "clipRange": work.clip_range,
                "advantageClip": work.advantage_clip,
                "klWeight": 0,
                "nodes": nodes,
                **gpus,
            },
        }
        return self.lab.job(Cell(SUBJECT, 0, "bench", changes)).model_copy(update={"uid": uid})

    def environment(
        self, work: Workload, job: ResolvedJob, stage: Stage, rank: int = 0, port: int = 0
    ) -> dict[str, str]:
        """What a process of a stage is told; with a port it is one of a gang of two that find each other there."""
        for earlier in STAGES[: STAGES.index(stage)]:  # what they would have made, another job did
            place = self.lab.bucket / RunLayout.of(job).stage(earlier)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(self.lab.bucket / RunLayout.of(job.model_copy(update={"uid": ADAPTER})).stage(earlier))
        stem = self.lab.folder / "logs" / f"{job.uid}-{stage.value}-{rank}"
        env = pod_environment(job, stage, self.store, stem, work.threads)
        if port:
            env |= {Env.COORDINATOR: "127.0.0.1", Env.NODE_RANK: str(rank), "RANK": str(rank), "LOCAL_RANK": "0"}
            env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return env
