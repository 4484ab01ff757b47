"""An artifact that jobs share, seen from a gang: its ranks make the pieces that are missing, and all read them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from instructbooth.artifacts.commit import fetch
from instructbooth.artifacts.errors import ArtifactMissing, Corrupt
from instructbooth.artifacts.pieces import INPUTS, Piece, find_pieces, put_piece, seal
from instructbooth.artifacts.store import ObjectStore
from instructbooth_trainer.runtime.gang import Gang

log = logging.getLogger(__name__)


@dataclass
class SharedArtifact:
    """Tensors in numbered pieces under a key.

    Attributes:
        store: where it lies.
        prefix: of the artifact.
        inputs: what the key was made of, JSON for people.
        gang: the processes that read and write together.
        workdir: scratch.
        damaged: whether what lay there did not verify; it is then made anew.
    """

    store: ObjectStore
    prefix: str
    inputs: str
    gang: Gang
    workdir: Path
    damaged: bool = False

    def read(self) -> list[Tensor] | None:
        """The tensors of all pieces in order, None where the artifact is not whole. Collective."""
        folder = self.workdir / "shared"
        verdicts = self.gang.gather(self.gang.once_per_node(lambda: self._fetch(folder)))
        self.damaged = "damaged" in verdicts
        if set(verdicts) != {"whole"}:
            return None
        return [load_file(path)["latents"] for path in sorted(folder.glob("*.safetensors"))]

    def present(self) -> dict[int, Piece]:
        """The pieces that need not be made. Collective."""
        return {} if self.damaged else self.gang.once(lambda: find_pieces(self.store, self.prefix))

    def put(self, number: int, latents: Tensor) -> Piece:
        """Keep a piece. This rank's own doing."""
        with tempfile.TemporaryDirectory(dir=self.workdir, prefix="piece-") as name:
            path = Path(name) / "piece.safetensors"
            save_file({"latents": latents.detach().to("cpu").contiguous()}, path)
            return put_piece(self.store, self.prefix, number, path)

    def seal(self, pieces: Iterable[Piece]) -> None:
        """Complete the artifact with these pieces, one of each number. Collective."""

        def write() -> None:
            with tempfile.TemporaryDirectory(dir=self.workdir, prefix="inputs-") as name:
                path = Path(name) / INPUTS
                path.write_text(self.inputs)
                seal(self.store, self.prefix, path, pieces, replace=self.damaged)

        self.gang.once(write)

    def _fetch(self, folder: Path) -> str:
        try:
            fetch(self.store, self.prefix, folder)
        except ArtifactMissing:
            return "missing"
        except Corrupt as error:
            log.warning("making %s anew: %s", self.store.url(self.prefix), error.message)
            return "damaged"
        return "whole"
