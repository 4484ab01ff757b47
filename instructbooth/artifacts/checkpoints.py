"""Which checkpoints there are, which is the newest whole one, and which may go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from instructbooth.artifacts.commit import delete_artifact
from instructbooth.artifacts.errors import Corrupt
from instructbooth.artifacts.layout import RunLayout, parse_checkpoint_manifest, parse_fence
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Stage


@dataclass(frozen=True, order=True)
class CheckpointRef:
    """A whole checkpoint. Ordered by step, then attempt: further is newer, and of two equally far the later gang's."""

    step: int
    attempt: int


def list_checkpoints(store: ObjectStore, layout: RunLayout, stage: Stage, attempt: int) -> list[CheckpointRef]:
    """The whole checkpoints of a stage by attempts up to and with `attempt`, newest first.

    Later attempts are not looked at: a zombie must not go on from what its successor made.
    """
    return _whole(_keys(store, layout, stage), attempt)


def raise_fence(store: ObjectStore, layout: RunLayout, stage: Stage, attempt: int) -> list[CheckpointRef]:
    """The checkpoints from which an attempt may go on, newest first; to be called once, when it begins.

    What it found is written down before it makes anything itself. Whatever a zombie of an earlier attempt writes after
    that is believed by no later attempt: what counts of those before a fence is what the fence names.

    Raises Corrupt for a fence that cannot be read.
    """
    keys = _keys(store, layout, stage)
    present = _whole(keys, attempt)
    last = max((found for found in map(parse_fence, keys) if found is not None and found < attempt), default=None)
    if last is not None:
        believed = _read_fence(store, layout.fence(stage, last))
        present = [ref for ref in present if ref.attempt >= last or ref in believed]
    body = json.dumps({"checkpoints": [{"step": ref.step, "attempt": ref.attempt} for ref in present]}, indent=1)
    store.put_bytes(layout.fence(stage, attempt), body.encode())
    return present


def _keys(store: ObjectStore, layout: RunLayout, stage: Stage) -> list[str]:
    """What a stage has in the store, relative to it."""
    prefix = layout.stage(stage)
    return ["/" + item.key.removeprefix(prefix) for item in store.list(prefix)]


def _whole(keys: Iterable[str], attempt: int) -> list[CheckpointRef]:
    found = filter(None, map(parse_checkpoint_manifest, keys))
    return sorted((CheckpointRef(step, a) for a, step in found if a <= attempt), reverse=True)


def _read_fence(store: ObjectStore, key: str) -> frozenset[CheckpointRef]:
    try:
        found = json.loads(store.get_bytes(key))["checkpoints"]
        return frozenset(CheckpointRef(int(ref["step"]), int(ref["attempt"])) for ref in found)
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{store.url(key)} is no list of checkpoints: {error}") from error


def prune_checkpoints(store: ObjectStore, layout: RunLayout, stage: Stage, attempt: int, keep: int) -> list[int]:
    """Delete all but the newest `keep` checkpoints of this attempt; returns the steps deleted.

    Other attempts' checkpoints are left alone: nobody writes or deletes outside of their own attempt.
    """
    own = [c for c in list_checkpoints(store, layout, stage, attempt) if c.attempt == attempt]
    old = own[keep:]
    for ref in old:
        delete_artifact(store, layout.checkpoint(stage, attempt, ref.step))
    return [ref.step for ref in old]
