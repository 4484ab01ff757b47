"""What a recipe gets to see of the world: the job, the gang, the storage. Recipes do no I/O of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from PIL import Image

from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Outcome, PromptRole, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.sources import ModelSource, PromptSource
from instructbooth_trainer.runtime.captions import load_captions
from instructbooth_trainer.runtime.checkpoints import Checkpointer
from instructbooth_trainer.runtime.errors import Checkpointed, UserError
from instructbooth_trainer.runtime.gang import Gang
from instructbooth_trainer.runtime.progress import ProgressReporter
from instructbooth_trainer.runtime.sources import Sources, load_subject_images
from instructbooth_trainer.runtime.state import TrainState
from instructbooth_trainer.runtime.stop import StopFlag


@dataclass
class RunContext:
    """One process of one attempt of one stage.

    Attributes:
        job: the resolved job.
        stage: the stage that runs.
        attempt: 1, 2, ...; the fence of everything written.
        accelerator: devices and collectives; its world size is the spec's.
        gang: what the processes say to each other beside training.
        store: object storage.
        layout: where the run lies in it.
        workdir: scratch.
        progress: what the operator and people see.
        inputs: the attempt that succeeded, of each earlier stage.
        stop: whether SIGTERM came.
        sources: models, pictures, prompts.
    """

    job: ResolvedJob
    stage: Stage
    attempt: int
    accelerator: Accelerator
    gang: Gang
    store: ObjectStore
    layout: RunLayout
    workdir: Path
    progress: ProgressReporter
    inputs: dict[Stage, int]
    stop: StopFlag
    sources: Sources
    _checkpointer: Checkpointer = field(init=False, repr=False)
    _subject: Path | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._checkpointer = Checkpointer(
            store=self.store,
            layout=self.layout,
            stage=self.stage,
            attempt=self.attempt,
            gang=self.gang,
            stop_asked=lambda: self.stop.asked,
            workdir=self.workdir,
            keep=self.job.spec.artifacts.retention.checkpoints,
        )

    def model_folder(self, source: ModelSource) -> Path:
        """The model's local folder, downloaded once a node and checked. Collective. Raises UserError."""
        return self.gang.once_per_node(lambda: self.sources.model_folder(source))

    def adapter_folder(self, source: ModelSource) -> Path:
        """A LoRA's local folder, downloaded once a node and checked. Collective. Raises UserError."""
        return self.gang.once_per_node(lambda: self.sources.adapter_folder(source))

    def input_folder(self, stage: Stage) -> Path:
        """The verified output of an earlier stage. Collective."""
        if stage not in self.inputs:
            raise UserError(
                "InputMissing", f"{self.stage.value} needs the output of {stage.value}, which has not succeeded"
            )

        def download() -> Path:
            folder = self.workdir / "inputs" / stage.value
            fetch(self.store, self.layout.output(stage, self.inputs[stage]), folder)
            return folder

        return self.gang.once_per_node(download)

    def subject_images(self) -> list[Image.Image]:
        """The subject's pictures, RGB, in order of their names. Collective. Raises UserError SubjectImagesInvalid."""
        folder = self.subject_folder()
        return self.gang.together(lambda: load_subject_images(folder))

    def subject_captions(self) -> list[str]:
        """The caption beside each picture, placeholders and all. Collective. Raises UserError CaptionsInvalid."""
        folder = self.subject_folder()
        return self.gang.together(lambda: load_captions(folder, self.job.spec.subject))

    def subject_folder(self) -> Path:
        """Where the subject's pictures are, downloaded once a node and a run. Collective."""
        if self._subject is None:
            self._subject = self.gang.once_per_node(lambda: self.sources.image_folder(self.job.spec.subject.images))
        return self._subject

    def prompts(self, source: PromptSource, role: PromptRole) -> list[str]:
        """The prompts of a source, `{subject}` and all. Collective. Raises UserError PromptsWithoutSubject."""
        return self.gang.once(lambda: self.sources.prompt_lines(source, role))

    def training_prompts(self) -> list[tuple[str, float]]:
        """What the policy is trained on, with weights. Collective. Raises UserError as `prompts` does."""
        spec = self.job.spec.reinforcement
        return self.gang.once(
            lambda: self.sources.weighted_prompts(spec.prompts, PromptRole.REINFORCEMENT, spec.prompt_weights)
        )

    def start_checkpoints(self, interval: int) -> None:
        """Save every `interval` steps from now on."""
        self._checkpointer.interval = interval

    def checkpoint(self, step: int, state: TrainState, *, force: bool = False) -> None:
        """Call after every step on all ranks. Saves when due; raises Checkpointed (saved) if any rank must stop."""
        self._checkpointer.step_done(step, state, force=force)

    def resume(self, state: TrainState) -> int:
        """Load this stage's newest whole checkpoint; returns the step to go on from, 0 if there is none. Collective."""
        return self._checkpointer.resume(state)

    def stop_if_asked(self) -> None:
        """Where all that is done is kept already: raise Checkpointed if any rank must stop. Collective."""
        if self.gang.any(self.stop.asked):
            raise Checkpointed(f"asked to stop; {self.stage.value} goes on from what it has kept")

    def keep_validation(self, step: int, folder: Path) -> None:
        """Commit the pictures of one step; `folder` is rank 0's. Collective."""
        prefix = self.layout.validation(self.stage, self.attempt, step)

        def write() -> None:
            commit(self.store, folder, prefix)

        self.gang.once(write)

    def fetch_validation(self, attempt: int, step: int, folder: Path) -> None:
        """Get the pictures that this or an earlier attempt kept. Rank 0's own doing."""
        fetch(self.store, self.layout.validation(self.stage, attempt, step), folder)

    def publish(self, folder: Path, metrics: dict[str, float]) -> Outcome:
        """Commit the stage's output; `folder` is rank 0's. Collective: all return once it is durable."""
        prefix = self.layout.output(self.stage, self.attempt)

        def write() -> str:
            commit(self.store, folder, prefix)
            return self.store.url(prefix)

        return Outcome(reason="Completed", artifact=self.gang.once(write), metrics=metrics)
