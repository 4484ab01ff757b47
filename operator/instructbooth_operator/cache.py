"""What is known of jobs and their children: an index fed by the watches, by the full lists and by own writes.

The newest version of an object wins, whoever brought it: an own write is known at once, and the watch's echo of
something older changes nothing. (resourceVersions of one resource may be compared as numbers: KEP-5504.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any, NamedTuple

from instructbooth.contract import KIND
from instructbooth.reconcile.observed import DECISIVE

JsonObject = dict[str, Any]


class Key(NamedTuple):
    """Which InstructBoothJob."""

    namespace: str
    name: str


def version(obj: JsonObject) -> int:
    """The resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


def job_key(obj: Mapping[str, Any]) -> Key:
    """The key of an InstructBoothJob."""
    return Key(obj["metadata"]["namespace"], obj["metadata"]["name"])


def owner_of(obj: JsonObject) -> tuple[Key, str] | None:
    """Key and uid of the InstructBoothJob that controls an object; None if none does."""
    for owner in obj["metadata"].get("ownerReferences", ()):
        if owner.get("controller") and owner["kind"] == KIND:
            return Key(obj["metadata"]["namespace"], owner["name"]), owner["uid"]
    return None


class Cache:
    """Jobs by key, and child Jobs by the key of their job. Specs of jobs are kept as text: a quarter of the memory."""

    def __init__(self) -> None:
        self._jobs: dict[Key, JsonObject] = {}
        self._children: dict[Key, dict[str, JsonObject]] = {}

    def jobs(self) -> list[JsonObject]:
        """All jobs, without their specs. May be called by another thread: what is kept is replaced, never changed."""
        kept = list(self._jobs.values())  # at once
        return [{field: value for field, value in job.items() if field != "spec"} for job in kept]

    def job(self, key: Key) -> JsonObject | None:
        """The job, if it exists."""
        job = self._jobs.get(key)
        return job and job | {"spec": json.loads(job["spec"])}

    def children(self, key: Key, uid: str) -> list[JsonObject]:
        """The child Jobs of the job with that uid, not those of an earlier job of the same name."""
        return [child for child in self._children.get(key, {}).values() if owner_of(child) == (key, uid)]

    def begun(self, key: Key, child: str) -> bool:
        """Whether some pod of a child Job is ready, or was."""
        status = self._children.get(key, {}).get(child, {}).get("status", {})
        return bool(status.get("ready") or status.get("succeeded"))

    def objects(self) -> Iterator[JsonObject]:
        """Everything as it is kept, for comparison with a full list."""
        yield from self._jobs.values()
        for children in self._children.values():
            yield from children.values()

    def put(self, obj: JsonObject) -> Key | None:
        """Take in a job or child Job; returns the key of the job that it concerns, if it tells anything new of one."""
        place = self._place(obj)
        if place is None:
            return None
        key, table, name = place
        known = table.get(name)
        if known is not None and version(obj) < version(known):
            return None
        # The echo of an own write. A job of the same version may have other defaults: those of another definition.
        if known is not None and obj["kind"] != KIND and version(obj) == version(known):
            return None
        table[name] = slim = _slim(obj, known or {})
        return key if known is None or _substance(known) != _substance(slim) else None

    def remove(self, obj: JsonObject) -> Key | None:
        """Forget an object that is gone; another one of the same name stays."""
        place = self._place(obj)
        if place is None:
            return None
        key, table, name = place
        known = table.get(name)
        if known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]:
            del table[name]
        if not self._children.get(key, True):
            del self._children[key]
        return key

    def known(self, obj: JsonObject) -> JsonObject | None:
        """What is kept under the name of that object."""
        place = self._place(obj)
        return None if place is None else place[1].get(place[2])

    def _place(self, obj: JsonObject) -> tuple[Key, dict[Any, JsonObject], Any] | None:
        if obj["kind"] == KIND:
            key = job_key(obj)
            return key, self._jobs, key
        owner = owner_of(obj)
        if owner is None:
            return None
        return owner[0], self._children.setdefault(owner[0], {}), obj["metadata"]["name"]


def _substance(slim: JsonObject) -> tuple[Any, ...]:
    """What of an object a plan may wait for. Of a child: whether it has begun, whether it is whole, how it ended."""
    meta = {field: value for field, value in slim["metadata"].items() if field != "resourceVersion"}
    status = slim["status"]
    if slim["kind"] == KIND:
        return meta, slim["spec"], status
    decided = [condition for condition in status.get("conditions") or () if condition["type"] in DECISIVE]
    whole = status.get("ready", 0) + status.get("succeeded", 0) >= slim["spec"].get("parallelism", 1)
    return meta, slim["spec"], decided, whole, "startTime" in status


_META = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "ownerReferences")
SHORT = 64
_TIMES = ("creationTimestamp", "deletionTimestamp")
# Not what the Job controller notes for itself at each pod that comes or goes.
_CHILD_STATUS = ("conditions", "active", "ready", "succeeded", "startTime")


def _slim(obj: JsonObject, known: JsonObject) -> JsonObject:
    """What is needed of an object: without managedFields, annotations and, of a child, its pod template.

    Args:
        known: what was kept of it before.
    """
    meta = {field: obj["metadata"][field] for field in (*_META, *_TIMES) if field in obj["metadata"]}
    spec, status = obj.get("spec", {}), obj.get("status") or {}
    if obj["kind"] == KIND:
        spec = json.dumps(spec, separators=(",", ":")).encode()
    else:
        spec = {field: spec[field] for field in ("parallelism", "suspend") if field in spec}
        status = {field: status[field] for field in _CHILD_STATUS if field in status}
    slim: JsonObject = _shared({"kind": obj["kind"], "metadata": meta, "spec": spec, "status": status}, known)
    return slim


def _shared(value: Any, known: Any = None) -> Any:
    """A copy whose keys and short texts are one object each, however many jobs hold them: two fifths of the memory.

    Where nothing has changed, what is `known` is taken: most of an object is the same from one version to the next.
    """
    if isinstance(value, dict):
        if value == known:
            return known
        before = known if isinstance(known, dict) else {}
        return {intern(key): _shared(item, before.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        return known if value == known else [_shared(item) for item in value]
    return intern(value) if isinstance(value, str) and len(value) < SHORT else value
