"""Artifacts made piece by piece by many writers: content in the name, the first manifest stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructbooth.artifacts.commit import fetch, read_manifest
from instructbooth.artifacts.errors import ArtifactMissing
from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.local import LocalStore
from instructbooth.artifacts.pieces import INPUTS, find_pieces, put_piece, seal

PREFIX = "class-images/key/"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path / "store", "bucket")
    found.ensure_bucket(create=True)
    return found


def file(tmp_path: Path, content: str, name: str = "piece") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


def test_pieces_count_only_once_they_are_sealed(store: LocalStore, tmp_path: Path) -> None:
    pieces = [put_piece(store, PREFIX, number, file(tmp_path, f"content {number}")) for number in (1, 0)]
    assert find_pieces(store, PREFIX) == {piece.number: piece for piece in pieces}
    with pytest.raises(ArtifactMissing):
        read_manifest(store, PREFIX)
    seal(store, PREFIX, file(tmp_path, "{}", "inputs"), pieces)
    fetch(store, PREFIX, tmp_path / "out")
    assert [p.read_text() for p in sorted((tmp_path / "out").glob("*.safetensors"))] == ["content 0", "content 1"]


def test_writers_of_other_bytes_do_not_touch_each_other(store: LocalStore, tmp_path: Path) -> None:
    """Two gangs on unlike machines draw the same piece: whoever seals first is read from then on, whole."""
    inputs = file(tmp_path, "{}", "inputs")
    ours = put_piece(store, PREFIX, 0, file(tmp_path, "ours"))
    theirs = put_piece(store, PREFIX, 0, file(tmp_path, "theirs"))
    assert ours.name != theirs.name
    first = seal(store, PREFIX, inputs, [ours])
    assert seal(store, PREFIX, inputs, [theirs]) == first
    fetch(store, PREFIX, tmp_path / "out")
    assert (tmp_path / "out" / ours.name).read_text() == "ours"
    assert len(find_pieces(store, PREFIX)) == 1, "one of each number"
    # Unless what the first one names is damaged.
    assert theirs.name in seal(store, PREFIX, inputs, [theirs], replace=True).files


def test_what_is_no_piece_is_passed_over(store: LocalStore) -> None:
    for name in (MANIFEST, INPUTS, "00000-abc.safetensors", "x/00000-" + "0" * 64 + ".safetensors"):
        store.put_bytes(PREFIX + name, b"")
    assert find_pieces(store, PREFIX) == {}


def test_a_torn_manifest_is_replaced(store: LocalStore, tmp_path: Path) -> None:
    piece = put_piece(store, PREFIX, 0, file(tmp_path, "ours"))
    store.put_bytes(PREFIX + MANIFEST, b"{")
    seal(store, PREFIX, file(tmp_path, "{}", "inputs"), [piece])
    assert piece.name in read_manifest(store, PREFIX).files
