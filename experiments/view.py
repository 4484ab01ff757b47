"""The records that belong to the experiment as it is defined now, and how complete it is."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.cells import Cell, Laboratory
from experiments.compare import Row
from experiments.records import Book, Record, State, record_key


class View:
    """A book through the eyes of a laboratory: its manifest, weights and code."""

    def __init__(self, lab: Laboratory, book: Book) -> None:
        self.lab, self._book = lab, book
        self._keys: dict[tuple[str, str, int], str] = {}

    def _key(self, cell: Cell) -> str:
        place = (cell.recipe, cell.subject, cell.seed)
        if place not in self._keys:
            self._keys[place] = record_key(self.lab.job(cell), self.lab.weights)
        return self._keys[place]

    def find(self, cell: Cell) -> Record | None:
        """The cell's record, of this code or an older one."""
        return self._book.get(cell, self._key(cell))

    def states(self, cells: Sequence[Cell]) -> dict[State, int]:
        """How many cells stand how."""
        found = [self._book.state(cell, self._key(cell), self.lab.code) for cell in cells]
        return {state: found.count(state) for state in State}

    def complete(self, row: Row) -> str:
        """`25`, or `7 of 25`, with how many are of older code."""
        states = self.states(row.cells)
        there = len(row.cells) - states[State.MISSING]
        text = str(there) if there == len(row.cells) else f"{there} of {len(row.cells)}"
        return text + (f" ({states[State.OLDER_CODE]} of older code)" if states[State.OLDER_CODE] else "")
