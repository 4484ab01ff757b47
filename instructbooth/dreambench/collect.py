"""What a fleet of jobs measured: each job's evaluation.json from object storage, and means over subjects.

A job that is missing, unfinished or damaged is named with the reason; it is never left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from instructbooth.artifacts.commit import read_file
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt
from instructbooth.artifacts.layout import MANIFEST, RunLayout, parse_part_manifest, runs_prefix
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import STAGES, Stage
from instructbooth.dreambench.dataset import DataSetError
from instructbooth.intervals import Interval, interval
from instructbooth.spec.job import Artifacts
from instructbooth_trainer.report.evaluation import Evaluation

RECORD = "evaluation.json"
_OUTPUT = re.compile(rf"^([^/]+)/{Stage.EVALUATE.value}/(\d+)/output/{re.escape(MANIFEST)}$")


@dataclass(frozen=True)
class Job:
    """Where to look for a job's runs."""

    namespace: str
    name: str
    artifacts: Artifacts


class NotThere(Exception):
    """A job has no evaluation that counts; the message says how far it is."""


@dataclass
class Collection:
    """What was found.

    Attributes:
        evaluations: by name of the job.
        absent: the others, and why.
    """

    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, equal for all."""
        return next((list(found.metrics) for found in self.evaluations.values()), [])

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return next((list(found.summary) for found in self.evaluations.values()), [])

    def over_subjects(self, model: str, metric: str) -> Interval:
        """Mean over subjects of a subject's mean, and the interval that comes of drawing subjects."""
        return interval([found.summary[model][metric].mean for found in self.evaluations.values()])

    def check(self) -> None:
        """Raise DataSetError where numbers of two jobs do not belong into one column."""
        first: Evaluation | None = None
        for found in self.evaluations.values():
            first = first or found
            for what, one, other in _compared(first, found):
                if one != other:
                    raise DataSetError(
                        f"{first.job} and {found.job} are not comparable: {what} is {one} and {other}; evaluate both "
                        "alike, or collect them apart"
                    )


def _compared(one: Evaluation, other: Evaluation) -> list[tuple[str, object, object]]:
    def drawn(found: Evaluation) -> tuple[int, float, int, str]:
        drawing = found.drawing
        return drawing.steps, drawing.guidance_scale, drawing.resolution, drawing.dtype

    scorers = [(f"what measures {m}", str(one.scorers.get(m)), str(other.scorers.get(m))) for m in one.metrics]
    sampling = ("(steps, guidance, resolution, dtype)", drawn(one), drawn(other))
    return [("the list of metrics", one.metrics, other.metrics), *scorers, sampling]


def collect(jobs: Sequence[Job], stores: Sequence[ObjectStore], runs: Mapping[str, str]) -> Collection:
    """Look for every job in every store. Raises DataSetError where what is found is not comparable.

    Args:
        jobs: which are expected.
        stores: where to look; a job in several of them is ambiguous.
        runs: the uid that counts, by name of the job, where it has several finished runs.
    """
    found = Collection()
    for job in jobs:
        try:
            found.evaluations[job.name] = _evaluation(job, stores, runs.get(job.name))
        except NotThere as reason:
            found.absent[job.name] = str(reason)
    found.check()
    return found


def _evaluation(job: Job, stores: Sequence[ObjectStore], uid: str | None) -> Evaluation:
    prefix = runs_prefix(job.artifacts, job.namespace, job.name)
    finished: dict[str, tuple[int, ObjectStore]] = {}
    keys: list[str] = []
    for store in stores:
        names = [item.key.removeprefix(prefix) for item in store.list(prefix)]
        keys += names
        for match in filter(None, map(_OUTPUT.match, names)):
            known = finished.get(match[1], (0, store))
            finished[match[1]] = max(known, (int(match[2]), store), key=lambda pair: pair[0])
    if uid is not None:
        finished = {found: place for found, place in finished.items() if found == uid}
    if not finished:
        raise NotThere(how_far(keys))
    if len(finished) > 1:
        raise NotThere(f"several finished runs, {', '.join(sorted(finished))}: say which by --run {job.name}=UID")
    ((found_uid, (attempt, store)),) = finished.items()
    return read_evaluation(store, RunLayout(f"{prefix}{found_uid}/").output(Stage.EVALUATE, attempt))


def read_evaluation(store: ObjectStore, prefix: str) -> Evaluation:
    """The evaluation.json of an output, verified. Raises NotThere when it is damaged."""
    try:
        data = read_file(store, prefix, RECORD)
    except (ArtifactMissing, Corrupt) as error:
        raise NotThere(f"damaged: {error.message}") from error
    try:
        return Evaluation.model_validate_json(data)
    except ValidationError as error:
        raise NotThere(f"{store.url(prefix + RECORD)} is of another version: {error.errors()[0]['msg']}") from error


def how_far(keys: Sequence[str]) -> str:
    """How far an unfinished job is, from the keys below its name: `<uid>/<stage>/<attempt>/...`."""
    reached = [stage for stage in STAGES if any(key.split("/")[1:2] == [stage.value] for key in keys)]
    if not reached:
        return "no trace of it in object storage: not started, or not this bucket, prefix or namespace"
    last = reached[-1]
    parts = len({part[1:] for part in map(parse_part_manifest, keys) if part})
    return f"not finished: it is at {last.value}" + (f", {parts} prompts drawn" if last is Stage.EVALUATE else "")
