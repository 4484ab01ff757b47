"""Which checkpoint a resumed run picks, which ones go, and who may write where."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructbooth.artifacts.checkpoints import CheckpointRef, list_checkpoints, prune_checkpoints, raise_fence
from instructbooth.artifacts.commit import commit
from instructbooth.artifacts.errors import Corrupt
from instructbooth.artifacts.layout import MANIFEST, RunLayout, parse_checkpoint_manifest
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import Stage

LAYOUT = RunLayout("runs/ns/job/uid/")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "bucket")


def save(store: LocalStore, folder: Path, stage: Stage, attempt: int, step: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "state").write_text(f"{attempt}/{step}")
    commit(store, folder, LAYOUT.checkpoint(stage, attempt, step))


def test_layout_is_the_contract() -> None:
    assert LAYOUT.output(Stage.EVALUATE, 3) == "runs/ns/job/uid/evaluate/3/output/"
    assert LAYOUT.checkpoint(Stage.REINFORCE, 12, 40) == "runs/ns/job/uid/reinforce/12/checkpoints/40/"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("/3/checkpoints/120/manifest.json", (3, 120)),
        ("/3/checkpoints/120/state.safetensors", None),
        ("/3/output/manifest.json", None),
        ("/x/checkpoints/120/manifest.json", None),
    ],
)
def test_only_manifests_of_checkpoints_are_checkpoints(key: str, expected: tuple[int, int] | None) -> None:
    assert parse_checkpoint_manifest(key) == expected


def test_newest_is_the_furthest_step_then_the_latest_attempt(store: LocalStore, tmp_path: Path) -> None:
    for attempt, step in [(1, 90), (1, 100), (2, 100), (2, 9)]:
        save(store, tmp_path / "f", Stage.REINFORCE, attempt, step)
    found = list_checkpoints(store, LAYOUT, Stage.REINFORCE, attempt=2)
    assert found == [CheckpointRef(100, 2), CheckpointRef(100, 1), CheckpointRef(90, 1), CheckpointRef(9, 2)]


def test_later_attempts_other_stages_and_torn_checkpoints_do_not_count(store: LocalStore, tmp_path: Path) -> None:
    save(store, tmp_path / "f", Stage.REINFORCE, 1, 10)
    save(store, tmp_path / "f", Stage.REINFORCE, 1, 20)
    save(store, tmp_path / "f", Stage.REINFORCE, 3, 30)
    save(store, tmp_path / "f", Stage.PERSONALIZE, 1, 40)
    store.delete(LAYOUT.checkpoint(Stage.REINFORCE, 1, 20) + MANIFEST)
    assert list_checkpoints(store, LAYOUT, Stage.REINFORCE, attempt=2) == [CheckpointRef(10, 1)]


def test_retention_keeps_the_newest_of_the_own_attempt_and_touches_no_other(store: LocalStore, tmp_path: Path) -> None:
    for attempt, step in [(1, 10), (1, 20), (1, 30), (2, 9), (2, 10), (2, 100)]:
        save(store, tmp_path / "f", Stage.REINFORCE, attempt, step)
    assert prune_checkpoints(store, LAYOUT, Stage.REINFORCE, attempt=2, keep=2) == [9]
    assert store.list(LAYOUT.checkpoint(Stage.REINFORCE, 2, 9)) == []
    left = list_checkpoints(store, LAYOUT, Stage.REINFORCE, attempt=2)
    assert left == [CheckpointRef(100, 2), CheckpointRef(30, 1), CheckpointRef(20, 1), *sorted(
        [CheckpointRef(10, 1), CheckpointRef(10, 2)], reverse=True)]  # fmt: skip


def test_retention_deletes_the_manifest_first(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    for step in (1, 2):
        save(store, tmp_path / "f", Stage.REINFORCE, 1, step)
    real = LocalStore.delete

    def delete(self: LocalStore, key: str) -> None:
        deleted.append(key)
        real(self, key)

    monkeypatch.setattr(LocalStore, "delete", delete)
    prune_checkpoints(store, LAYOUT, Stage.REINFORCE, attempt=1, keep=1)
    assert deleted[0] == LAYOUT.checkpoint(Stage.REINFORCE, 1, 1) + MANIFEST
    assert store.list(LAYOUT.checkpoint(Stage.REINFORCE, 1, 1)) == []


def test_what_a_zombie_saves_after_the_fence_is_believed_by_no_later_attempt(store: LocalStore, tmp_path: Path) -> None:
    def begin(attempt: int) -> list[CheckpointRef]:
        return raise_fence(store, LAYOUT, Stage.REINFORCE, attempt)

    assert begin(1) == []
    save(store, tmp_path / "f", Stage.REINFORCE, 1, 10)
    assert begin(2) == [CheckpointRef(10, 1)]
    save(store, tmp_path / "f", Stage.REINFORCE, 1, 99)  # the zombie
    save(store, tmp_path / "f", Stage.REINFORCE, 2, 20)
    assert begin(3) == [CheckpointRef(20, 2), CheckpointRef(10, 1)]
    save(store, tmp_path / "f", Stage.REINFORCE, 2, 98)  # another one
    # Attempt 4 died before it began: it made nothing, and left no fence.
    save(store, tmp_path / "f", Stage.REINFORCE, 3, 30)
    assert begin(5) == [CheckpointRef(30, 3), CheckpointRef(20, 2), CheckpointRef(10, 1)]


def test_runs_of_before_there_were_fences_go_on(store: LocalStore, tmp_path: Path) -> None:
    save(store, tmp_path / "f", Stage.REINFORCE, 1, 10)
    save(store, tmp_path / "f", Stage.REINFORCE, 2, 20)
    assert raise_fence(store, LAYOUT, Stage.REINFORCE, 3) == [CheckpointRef(20, 2), CheckpointRef(10, 1)]


def test_a_fence_that_cannot_be_read_is_an_error(store: LocalStore) -> None:
    store.put_bytes(LAYOUT.fence(Stage.REINFORCE, 1), b"{}")
    with pytest.raises(Corrupt, match="no list of checkpoints"):
        raise_fence(store, LAYOUT, Stage.REINFORCE, 2)
