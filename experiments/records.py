"""What is kept of a finished cell: small JSON in the repository, so that any session on any machine can go on.

One file a recipe, one line a cell. A cell's key is made of all that it was asked for and of the base model's weights:
a record with another key is of another experiment and is not shown. A record of older code (versions.py) is shown, said
to be so, and made again when nothing is missing any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from experiments.cells import Cell
from experiments.tables import Key
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob

DIGITS = 5
_ELSEWHERE = ("artifacts", "runPolicy", "podTemplate")
_OF_A_STAGE = ("resources", "nodes", "gpusPerNode", "checkpointIntervalSteps", "checkpointIntervalEpochs")


class State(StrEnum):
    """Of a cell's record."""

    CURRENT = "current"
    OLDER_CODE = "older code"
    MISSING = "missing"


class Record(BaseModel):
    """A finished cell.

    Attributes:
        key: of what was asked for.
        code: version of what computed it.
        made: when, UTC, to the minute.
        minutes: that it took in the session that finished it.
        numbers: means by model, metric and group of prompts.
        curve: of the reinforcement, a number for each epoch, by name.
        stopped: why the reinforcement ended early, if it did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    code: str
    made: str
    minutes: float
    numbers: dict[str, dict[str, dict[str, float]]]
    curve: dict[str, list[float]]
    stopped: str | None = None

    def number(self, key: Key) -> float | None:
        """The mean of a model, metric and group; None where nothing of the kind was drawn."""
        model, metric, group = key
        return self.numbers.get(model, {}).get(metric, {}).get(group)


def nested(numbers: dict[Key, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Means by key as the record keeps them, rounded."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for (model, metric, group), value in numbers.items():
        out.setdefault(model, {}).setdefault(metric, {})[group] = round(value, DIGITS)
    return out


def record_key(job: ResolvedJob, weights: str) -> str:
    """Sixteen hex digits of what decides a cell's numbers: what the job sets, without where and how it runs.

    Fields that are at their default are left out, so that a new field does not make an old cell another one.
    """
    text = json.dumps([what_matters(job.spec), weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def what_matters(spec: InstructBoothJobSpec) -> dict[str, Any]:
    """The part of a spec that decides numbers, without what is at its default."""
    said: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for name in _ELSEWHERE:
        said.pop(name, None)
    for stage in ("personalization", "reinforcement", "evaluation"):
        for name in _OF_A_STAGE:
            said.get(stage, {}).pop(name, None)
    return said


class Book:
    """All records, in a folder with one file a recipe. Safe for several threads, and for a kill at any time."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there. Raises pydantic.ValidationError for a file that is damaged."""
        self._folder, self._lock = folder, threading.Lock()
        self._records: dict[str, dict[str, Record]] = {}
        for path in sorted(folder.glob("*.json")):
            rows = json.loads(path.read_text())
            self._records[path.stem] = {name: Record.model_validate(row) for name, row in rows.items()}

    def put(self, cell: Cell, record: Record) -> None:
        """Keep a record; durable when it returns."""
        with self._lock:
            rows = self._records.setdefault(cell.recipe, {})
            rows[f"{cell.subject}/{cell.seed}"] = record
            lines = [f"{json.dumps(name)}: {row.model_dump_json()}" for name, row in sorted(rows.items())]
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{cell.recipe}.json"
            new = path.with_suffix(".json.new")
            with new.open("w") as file:
                file.write("{\n" + ",\n".join(lines) + "\n}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)

    def get(self, cell: Cell, key: str) -> Record | None:
        """The cell's record, if it is of this key."""
        record = self._records.get(cell.recipe, {}).get(f"{cell.subject}/{cell.seed}")
        return record if record and record.key == key else None

    def state(self, cell: Cell, key: str, code: str) -> State:
        """How the cell stands under a version of the code."""
        record = self.get(cell, key)
        if record is None:
            return State.MISSING
        return State.CURRENT if record.code == code else State.OLDER_CODE

    def minutes(self) -> list[float]:
        """What finished cells took."""
        return [record.minutes for rows in self._records.values() for record in rows.values()]
