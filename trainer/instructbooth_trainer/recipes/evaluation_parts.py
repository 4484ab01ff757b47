"""What an evaluation has done so far: a part is all pictures of one prompt by one model, with their scores.

Each part is committed under its attempt as soon as it is there, so that a gang which dies loses only what it was
drawing. A later attempt takes the parts that were drawn as it would draw them itself (decision 0017),
and the stage's output is put together from parts alone: it is the same, however often the stage began anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt
from instructbooth.artifacts.layout import parse_part_manifest
from instructbooth.contract import Stage
from instructbooth_trainer.report.evaluation import Drawing, Part, Picture
from instructbooth_trainer.runtime.context import RunContext

log = logging.getLogger(__name__)

RECORD = "part.json"
Key = tuple[str, int]
"""(model, number of the prompt)."""


class Parts:
    """The parts of one evaluation, of this and earlier attempts."""

    def __init__(self, run: RunContext, drawing: Drawing) -> None:
        """Take how pictures are drawn now: parts drawn otherwise are not taken."""
        self._run, self._drawing = run, drawing
        self._folder = run.workdir / "parts"
        self._attempts: dict[Key, int] = {}

    def find(self) -> dict[Key, list[Picture]]:
        """The parts that need not be drawn. Collective."""
        self._attempts, found = self._run.gang.once(self._find)
        return found

    def keep(self, key: Key, pictures: list[Picture], pngs: Mapping[str, bytes]) -> None:
        """Commit a part; `pngs` by the pictures' files. This rank's own doing."""
        folder = self._local(key)
        for file, png in pngs.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(png)
        part = Part(drawing=self._drawing, inputs=self._inputs(), pictures=pictures)
        (folder / RECORD).write_text(part.model_dump_json(by_alias=True))
        commit(self._run.store, folder, self._prefix(key, self._run.attempt))

    def gather(self, keys: Iterable[Key], output: Path) -> list[Picture]:
        """All pictures in order of `keys`, their files put into `output`. Rank 0's own doing."""
        pictures: list[Picture] = []
        for key in keys:
            folder = self._local(key)
            if not (folder / RECORD).is_file():
                fetch(self._run.store, self._prefix(key, self._attempts.get(key, self._run.attempt)), folder)
            for picture in _read(folder).pictures:
                target = output / picture.file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((folder / picture.file).read_bytes())
                pictures.append(picture)
        return pictures

    def _find(self) -> tuple[dict[Key, int], dict[Key, list[Picture]]]:
        run, attempts = self._run, dict[Key, int]()
        found: dict[Key, list[Picture]] = {}
        listed = run.store.list(run.layout.stage(run.stage))
        refs = [ref for item in listed if (ref := parse_part_manifest(item.key)) is not None]
        # Later attempts are not looked at: a zombie must not go on from what its successor made.
        for attempt, model, prompt in sorted((ref for ref in refs if ref[0] <= run.attempt), reverse=True):
            key = (model, prompt)
            if key not in found and (part := self._fetch(key, attempt)) is not None:
                attempts[key], found[key] = attempt, part.pictures
        if found:
            log.info("%s: %d parts of earlier attempts are there", run.stage.value, len(found))
        return attempts, found

    def _fetch(self, key: Key, attempt: int) -> Part | None:
        """A part that is whole and was drawn as it would be now."""
        prefix = self._prefix(key, attempt)
        try:
            fetch(self._run.store, prefix, self._local(key))
        except (Corrupt, ArtifactMissing) as error:
            log.warning("drawing %s anew: %s", prefix, error.message)
            return None
        part = _read(self._local(key))
        if part.drawing != self._drawing or part.inputs != self._inputs():
            log.warning("drawing %s anew: it was drawn on another machine, or otherwise than now", prefix)
            return None
        return part

    def _inputs(self) -> dict[str, int]:
        earlier = (Stage.PERSONALIZE, Stage.REINFORCE)
        return {stage.value: self._run.inputs[stage] for stage in earlier if stage in self._run.inputs}

    def _local(self, key: Key) -> Path:
        return self._folder / key[0] / f"{key[1]:03d}"

    def _prefix(self, key: Key, attempt: int) -> str:
        return self._run.layout.part(self._run.stage, attempt, *key)


def _read(folder: Path) -> Part:
    return Part.model_validate_json((folder / RECORD).read_text())
