"""Commits survive a writer's death between any two writes, and readers believe nothing they have not verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instructbooth.artifacts.commit import commit, delete_artifact, describe, fetch, read_manifest
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt, ObjectMissing
from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.local import LocalStore

PREFIX = "runs/ns/job/uid/personalize/1/output/"


class Died(Exception):
    """The process is gone."""


class DyingStore(LocalStore):
    """Dies at the n-th operation that changes something, before or after it took effect."""

    deadline: int | None = None
    after: bool = False
    count: int = 0

    def _tick(self, act: object) -> None:
        assert callable(act)
        self.count += 1
        if self.count == self.deadline:
            if self.after:
                act()
            raise Died
        act()

    def put_bytes(self, key: str, data: bytes) -> None:
        self._tick(lambda: super(DyingStore, self).put_bytes(key, data))

    def put_file(self, key: str, path: Path) -> None:
        self._tick(lambda: super(DyingStore, self).put_file(key, path))

    def delete(self, key: str) -> None:
        self._tick(lambda: super(DyingStore, self).delete(key))


def folder_of(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


OLD = {"a.json": "old a", "b.json": "old b"}
NEW = {"a.json": "new a", "deep/c.json": "new c", "z.txt": "zzz"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "bucket")


def test_what_was_committed_comes_back(store: LocalStore, tmp_path: Path) -> None:
    artifact = commit(store, folder_of(tmp_path / "in", NEW), PREFIX)
    assert fetch(store, PREFIX, tmp_path / "out") == artifact.manifest
    assert contents(tmp_path / "out") == NEW


def test_manifest_is_written_last_and_says_size_and_hash(store: LocalStore, tmp_path: Path) -> None:
    commit(store, folder_of(tmp_path / "in", {"a": "hello"}), PREFIX)
    said = json.loads(store.get_bytes(PREFIX + MANIFEST))
    # sha256 of "hello", from coreutils
    assert said["files"] == {
        "a": {"size": 5, "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
    }


def test_a_manifest_in_the_folder_is_not_taken_for_a_file(tmp_path: Path) -> None:
    assert list(describe(folder_of(tmp_path, {"a": "x", MANIFEST: "{}"})).files) == ["a"]


def test_an_empty_folder_is_no_artifact(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="nothing to commit"):
        commit(store, tmp_path / "in", PREFIX)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("before", [None, OLD])
def test_a_torn_commit_is_never_read(tmp_path: Path, before: dict[str, str] | None, after: bool) -> None:
    """Kill the writer at every operation: a reader sees the old artifact, none, or the new one; and a retry heals."""
    source = folder_of(tmp_path / "new", NEW)
    seen: list[str] = []
    for deadline in range(1, 20):
        store = DyingStore(tmp_path / f"store{deadline}", "bucket")
        if before:
            commit(store, folder_of(tmp_path / "old", before), PREFIX)
        store.count, store.deadline, store.after = 0, deadline, after
        try:
            commit(store, source, PREFIX)
        except Died:
            died = True
        else:
            died = False
        store.deadline = None
        try:
            fetch(store, PREFIX, tmp_path / "out")
        except ArtifactMissing:
            seen.append("none")
        else:
            seen.append({str(OLD): "old", str(NEW): "new"}[str(contents(tmp_path / "out"))])
        commit(store, source, PREFIX)
        fetch(store, PREFIX, tmp_path / "out")
        assert contents(tmp_path / "out") == NEW
        if not died:
            break
    # delete manifest, three files, manifest: five operations, then an undisturbed run
    first = "old" if before and not after else "none"
    last = "new" if after else "none"
    assert seen == [first, "none", "none", "none", last, "new"]


@pytest.mark.parametrize("after", [False, True])
def test_a_torn_delete_is_never_read(tmp_path: Path, after: bool) -> None:
    for deadline in range(1, 5):
        store = DyingStore(tmp_path / f"store{deadline}", "bucket")
        commit(store, folder_of(tmp_path / "new", NEW), PREFIX)
        store.count, store.deadline, store.after = 0, deadline, after
        with pytest.raises(Died):
            delete_artifact(store, PREFIX)
        store.deadline = None
        if deadline == 1 and not after:
            fetch(store, PREFIX, tmp_path / "out")
        else:
            with pytest.raises(ArtifactMissing):
                fetch(store, PREFIX, tmp_path / "out")
        delete_artifact(store, PREFIX)
        assert store.list(PREFIX) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.put_bytes(PREFIX + "a.json", b"new A"), "sha256"),
        (lambda s: s.put_bytes(PREFIX + "a.json", b"new"), "3 bytes, its manifest says 5"),
        (lambda s: s.delete(PREFIX + "a.json"), "absent"),
        (lambda s: s.put_bytes(PREFIX + MANIFEST, b"{"), "not a manifest"),
        (lambda s: s.put_bytes(PREFIX + MANIFEST, b'{"format": 2, "files": {}}'), "not a manifest"),
        (
            lambda s: s.put_bytes(
                PREFIX + MANIFEST, json.dumps({"files": {"../x": {"size": 0, "sha256": "0" * 64}}}).encode()
            ),
            "outside",
        ),
    ],
    ids=["other-bytes", "cut", "absent", "manifest-cut", "manifest-of-the-future", "path-escapes"],
)
def test_a_damaged_artifact_is_refused_and_leaves_nothing(
    store: LocalStore, tmp_path: Path, damage: object, message: str
) -> None:
    commit(store, folder_of(tmp_path / "in", NEW), PREFIX)
    assert callable(damage)
    damage(store)
    with pytest.raises(Corrupt, match=message):
        fetch(store, PREFIX, tmp_path / "downloads" / "out")
    downloads = tmp_path / "downloads"
    assert not downloads.exists() or list(downloads.iterdir()) == []


def test_fetch_replaces_what_was_there_only_when_all_is_well(store: LocalStore, tmp_path: Path) -> None:
    out = folder_of(tmp_path / "out", OLD)
    commit(store, folder_of(tmp_path / "in", NEW), PREFIX)
    store.put_bytes(PREFIX + "z.txt", b"yyy")
    with pytest.raises(Corrupt):
        fetch(store, PREFIX, out)
    assert contents(out) == OLD
    store.put_bytes(PREFIX + "z.txt", b"zzz")
    fetch(store, PREFIX, out)
    assert contents(out) == NEW


def test_no_manifest_no_artifact(store: LocalStore) -> None:
    store.put_bytes(PREFIX + "a.json", b"{}")
    with pytest.raises(ArtifactMissing, match="never completed"):
        read_manifest(store, PREFIX)
    with pytest.raises(ObjectMissing):
        store.get_bytes(PREFIX + "b.json")
