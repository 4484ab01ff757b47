"""Artifacts that several processes, gangs and jobs make together, piece by piece, under a key made of all their inputs.

A piece's name ends in the sha256 of its content, so that writers never replace each other's bytes, and a piece that is
there is whole: a put is atomic. The manifest comes last and names one piece of each number. Nothing is ever deleted
here. Why this needs no fence: docs/decisions/0013-class-image-cache.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from instructbooth.artifacts.commit import FileEntry, Manifest, read_manifest, sha256_of
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt
from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.store import ObjectStore

INPUTS = "inputs.json"
_PIECE = re.compile(r"^(\d{5,})-([0-9a-f]{64})\.safetensors$")


@dataclass(frozen=True)
class Piece:
    """One piece: its number and its file, the name relative to the artifact."""

    number: int
    name: str
    entry: FileEntry


def put_piece(store: ObjectStore, prefix: str, number: int, path: Path) -> Piece:
    """Upload a safetensors file as a piece. The same bytes twice are one object."""
    entry = FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
    piece = Piece(number, f"{number:05d}-{entry.sha256}.safetensors", entry)
    store.put_file(prefix + piece.name, path)
    return piece


def find_pieces(store: ObjectStore, prefix: str) -> dict[int, Piece]:
    """The pieces that are there already, by number; of several with one number the first by name. Not verified."""
    found: dict[int, Piece] = {}
    for item in store.list(prefix):
        if match := _PIECE.match(item.key.removeprefix(prefix)):
            piece = Piece(int(match[1]), match[0], FileEntry(size=item.size, sha256=match[2]))
            found.setdefault(piece.number, piece)
    return found


def seal(store: ObjectStore, prefix: str, inputs: Path, pieces: Iterable[Piece], *, replace: bool = False) -> Manifest:
    """Write the manifest that makes the pieces an artifact; returns the one that counts.

    Args:
        store: where.
        prefix: of the artifact, made of the key.
        inputs: the file that says, for people, what the key was made of.
        pieces: one of each number.
        replace: also where there is a manifest already, for it names a damaged file. Else the first manifest stays,
            so that all who come later read the same bytes.
    """
    if not replace:
        try:
            return read_manifest(store, prefix)
        except (ArtifactMissing, Corrupt):
            pass  # not there yet, or no manifest: this one takes its place
    files = {INPUTS: FileEntry(size=inputs.stat().st_size, sha256=sha256_of(inputs))}
    store.put_file(prefix + INPUTS, inputs)
    files |= {piece.name: piece.entry for piece in sorted(pieces, key=lambda piece: piece.number)}
    manifest = Manifest(files=files)
    store.put_bytes(prefix + MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest
