"""Which checkpoints there are, which is the newest whole one, and which may go."""

from __future__ import annotations

from dataclasses import dataclass

from instructbooth.artifacts.commit import delete_artifact
from instructbooth.artifacts.layout import RunLayout, parse_checkpoint_manifest
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
    prefix = layout.stage(stage)
    found = (parse_checkpoint_manifest("/" + o.key.removeprefix(prefix)) for o in store.list(prefix))
    return sorted((CheckpointRef(step, a) for a, step in filter(None, found) if a <= attempt), reverse=True)


def prune_checkpoints(store: ObjectStore, layout: RunLayout, stage: Stage, attempt: int, keep: int) -> list[int]:
    """Delete all but the newest `keep` checkpoints of this attempt; returns the steps deleted.

    Other attempts' checkpoints are left alone: nobody writes or deletes outside of their own attempt.
    """
    own = [c for c in list_checkpoints(store, layout, stage, attempt) if c.attempt == attempt]
    old = own[keep:]
    for ref in old:
        delete_artifact(store, layout.checkpoint(stage, attempt, ref.step))
    return [ref.step for ref in old]
