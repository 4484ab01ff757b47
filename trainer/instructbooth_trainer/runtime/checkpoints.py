"""Saving and resuming: bit for bit on the same world size, correctly on another.

A checkpoint is an artifact of `state.safetensors`, `meta.json` and `rng-<rank>.safetensors` of every rank.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructbooth.artifacts.checkpoints import CheckpointRef, prune_checkpoints, raise_fence
from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Stage
from instructbooth_trainer.runtime.errors import Checkpointed
from instructbooth_trainer.runtime.gang import Gang
from instructbooth_trainer.runtime.state import TrainState, load_rng_tensors, rng_tensors

log = logging.getLogger(__name__)

STATE, META = "state.safetensors", "meta.json"


def rng_file(rank: int) -> str:
    """Name of a rank's file of generator states."""
    return f"rng-{rank}.safetensors"


@dataclass
class Checkpointer:
    """Saves the recipe's state at an interval and when asked to stop, and finds it again.

    Attributes:
        store: where checkpoints lie.
        layout: of the run.
        stage: of this process.
        attempt: of this process; the fence.
        gang: the processes that save together.
        stop_asked: whether this process got SIGTERM.
        workdir: scratch.
        keep: newest checkpoints kept of this attempt.
        interval: steps between two checkpoints; 0 saves only on request.
    """

    store: ObjectStore
    layout: RunLayout
    stage: Stage
    attempt: int
    gang: Gang
    stop_asked: Callable[[], bool]
    workdir: Path
    keep: int
    interval: int = 0
    _last_saved: int | None = None

    def step_done(self, step: int, state: TrainState, *, force: bool = False) -> None:
        """To be called on all ranks after every step: saves when due, and raises Checkpointed if any rank must stop."""
        stop = self.gang.any(self.stop_asked())
        due = force or stop or (self.interval > 0 and step % self.interval == 0)
        if due and self._last_saved != step:
            self._save(step, state)
            self._last_saved = step
        if stop:
            raise Checkpointed(f"asked to stop; {self.stage.value} is saved at step {step} and goes on from there")

    def resume(self, state: TrainState) -> int:
        """Load the newest checkpoint that is whole; returns its step, 0 if there is none.

        A checkpoint that does not verify is passed over with a warning: an older one is as good, only slower.
        """
        for ref in self.gang.once(lambda: raise_fence(self.store, self.layout, self.stage, self.attempt)):
            folder = self.workdir / "resume"
            whole = self.gang.once_per_node(lambda ref=ref, folder=folder: self._fetch(ref, folder))  # type: ignore[misc]
            if all(self.gang.gather(whole)):
                self._load(folder, state)
                log.info("%s: going on from step %d of attempt %d", self.stage.value, ref.step, ref.attempt)
                self._last_saved = ref.step
                return ref.step
        log.info("%s: no checkpoint, starting at the beginning", self.stage.value)
        return 0

    def _fetch(self, ref: CheckpointRef, folder: Path) -> bool:
        try:
            fetch(self.store, self.layout.checkpoint(self.stage, ref.attempt, ref.step), folder)
        except (Corrupt, ArtifactMissing) as error:
            log.warning("passing over the checkpoint of step %d: %s", ref.step, error.message)
            return False
        return True

    def _save(self, step: int, state: TrainState) -> None:
        rngs = self.gang.gather(rng_tensors(state.generators()))
        tensors = {name: _plain(t) for name, t in state.tensors().items()}

        def write() -> None:
            with tempfile.TemporaryDirectory(dir=self.workdir, prefix="checkpoint-") as name:
                folder = Path(name)
                save_file(tensors, folder / STATE)
                meta: dict[str, JsonValue] = {
                    "step": step,
                    "world_size": self.gang.world_size,
                    "threads": torch.get_num_threads(),
                    "recipe": state.meta(),
                }
                (folder / META).write_text(json.dumps(meta, indent=1, allow_nan=True))
                for rank, rng in enumerate(rngs):
                    save_file(rng, folder / rng_file(rank))
                commit(self.store, folder, self.layout.checkpoint(self.stage, self.attempt, step))
            prune_checkpoints(self.store, self.layout, self.stage, self.attempt, self.keep)
            log.info("%s: checkpoint at step %d", self.stage.value, step)

        self.gang.once(write)

    def _load(self, folder: Path, state: TrainState) -> None:
        meta = json.loads((folder / META).read_text())
        state.load(load_file(folder / STATE), meta["recipe"])
        if meta["world_size"] != self.gang.world_size:
            log.warning(
                "the checkpoint was made by %d processes, these are %d: going on with fresh random numbers",
                meta["world_size"],
                self.gang.world_size,
            )
            return
        if meta["threads"] != torch.get_num_threads():
            log.warning(
                "the checkpoint was made with %d CPU threads, this process has %d: results differ in the last bits",
                meta["threads"],
                torch.get_num_threads(),
            )
        load_rng_tensors(load_file(folder / rng_file(self.gang.rank)), state.generators())


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU: safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()
