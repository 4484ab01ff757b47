"""The three stages one after the other on this machine, as the operator would run them: attempts, inputs, retries."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from instructbooth.artifacts.layout import MANIFEST, RunLayout
from instructbooth.artifacts.local import LocalStore
from instructbooth.cli.gang import Gang, GangEnd, GangSpec
from instructbooth.cli.output import CliError, note
from instructbooth.cli.progress import StageProgress
from instructbooth.contract import STAGES, ExitCode, Outcome, Stage
from instructbooth.spec.job import ResolvedJob

_LAST_LINES = 20
_OUTPUT = re.compile(rf"(\d+)/output/{re.escape(MANIFEST)}")

Show = Callable[[Stage, int], AbstractContextManager[StageProgress]]


class Interrupted(Exception):
    """The person pressed Ctrl-C; the trainers have saved what they could."""


@dataclass
class LocalRun:
    """One job below one folder.

    Attributes:
        job: localized.
        store: root of the local store.
        logs: folder for logs and outcomes.
        show: shows a stage's attempt while it runs.
        outcomes: how the stages ended, as far as they ran now or left a word then.
    """

    job: ResolvedJob
    store: Path
    logs: Path
    show: Show
    outcomes: dict[Stage, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = RunLayout.of(self.job)
        self.bucket = LocalStore(self.store, self.job.spec.artifacts.bucket)

    def run(self) -> dict[Stage, int]:
        """Run what is not done yet; returns the attempt that succeeded of each stage.

        Raises CliError when a stage fails for good, Interrupted on Ctrl-C, BlockingIOError if another run goes on.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        config = self.logs / "job.json"
        config.write_text(self.job.model_dump_json(by_alias=True, exclude_none=True, indent=1))
        inputs: dict[Stage, int] = {}
        with self._locked() as lock:
            for stage in STAGES:
                inputs[stage] = self.committed(stage) or self._run_stage(stage, inputs, config, lock)
        return inputs

    def committed(self, stage: Stage) -> int | None:
        """The newest attempt of a stage whose output is complete."""
        keys = (o.key.removeprefix(self.layout.stage(stage)) for o in self.bucket.list(self.layout.stage(stage)))
        return max((int(found[1]) for key in keys if (found := _OUTPUT.fullmatch(key))), default=None)

    def next_attempt(self, stage: Stage) -> int:
        """One more than any attempt that has left a trace, in the store or in the logs."""
        prefix = self.layout.stage(stage)
        stored = [o.key.removeprefix(prefix).partition("/")[0] for o in self.bucket.list(prefix)]
        logged = [path.stem.split("-")[1] for path in self.logs.glob(f"{stage.value}-*-*.log")]
        return max((int(text) for text in (*stored, *logged)), default=0) + 1

    def _run_stage(self, stage: Stage, inputs: dict[Stage, int], config: Path, lock: int) -> int:
        shape, failures = self.job.spec.stage(stage), 0
        while True:
            attempt = self.next_attempt(stage)
            spec = GangSpec(
                config=config,
                store=self.store,
                stage=stage,
                attempt=attempt,
                inputs=dict(inputs),
                nodes=shape.nodes,
                processes=max(1, shape.gpus_per_node),
                logs=self.logs,
                lock=lock,
            )
            with self.show(stage, attempt) as shown:
                end = _run_gang(spec, shown)
            if end.code == ExitCode.OK:
                self.outcomes[stage] = end.outcome
                return attempt
            failures += 1
            limit = self.job.spec.run_policy.backoff_limit
            if end.code == ExitCode.USER_ERROR or failures > limit:
                raise CliError(_failed(stage, spec, end))
            note(f"{stage.value}, attempt {attempt}: {end.outcome.reason}: {end.outcome.message}")
            note(f"going on from the last checkpoint ({failures} of at most {limit} restarts)")

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """A lock that the trainers inherit: it is free once nobody of a run is left, however the run ended."""
        descriptor = os.open(self.logs / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield descriptor
        finally:
            os.close(descriptor)


def _run_gang(spec: GangSpec, shown: StageProgress) -> GangEnd:
    gang = Gang(spec, shown.on_line)
    try:
        return gang.wait()
    except KeyboardInterrupt:
        note("asking the trainers to save and stop; once more Ctrl-C ends them at once")
        try:
            gang.stop()
        except KeyboardInterrupt:
            note("ended without saving")
        raise Interrupted from None
    finally:
        gang.kill()


def _failed(stage: Stage, spec: GangSpec, end: GangEnd) -> str:
    log = spec.log(end.node)
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
    hint = "\n  without GPUs: --cpu" if end.outcome.reason == "GpuMissing" else ""
    told = "" if end.code == ExitCode.USER_ERROR else "\n" + "\n".join(f"  | {line}" for line in lines)
    where = f"{stage.value}, attempt {spec.attempt}, node {end.node}, exit code {end.code}"
    return f"{where}: {end.outcome.reason}: {end.outcome.message}{hint}\n  log: {log}{told}"
