"""`make results`: what is missing of the experiment is run and kept, and docs/results.md is written from what is there.

    python -m experiments.results --minutes 30          # go on for half an hour
    python -m experiments.results --minutes 0           # write the document alone
    python -m experiments.results --only full peer      # some recipes
    python -m experiments.results --quick               # one subject, one seed of the main recipes
    python -m experiments.results --only try-updates-8  # a recipe of the group `tuning`

May be killed at any time: finished cells are in docs/results/cells, unfinished ones go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import ResNetModel

from experiments.cells import ROOT, Cell, Laboratory
from experiments.diversity import encoder, with_diversity
from experiments.figures import sheet_prompts, strip
from experiments.page import HEADLINE_CELL, STRIPS, write_document
from experiments.recipes import MAIN_SUBJECTS, RECIPES, plan
from experiments.records import DIGITS, Book, Record, State, nested, record_key
from experiments.runner import Tally, ending_on, eta_minutes, run_cells
from experiments.tables import cell_numbers
from experiments.view import View
from instructbooth.contract import Stage
from instructbooth_trainer.report.evaluation import Evaluation

FOLDER = ROOT / "docs" / "results"
DOCUMENT = ROOT / "docs" / "results.md"
KEPT_CURVES = ("reward_mean", "reward/clip-score", "reward/subject-identity", "kl", "clip_fraction")


class Experiment:
    """The laboratory with the book of what it found."""

    def __init__(self, lab: Laboratory, book: Book, folder: Path) -> None:
        self.lab, self.book, self._folder = lab, book, folder
        self._encoder: ResNetModel | None = None

    def state(self, cell: Cell) -> State:
        """How a cell stands."""
        return self.book.state(cell, self.key(cell), self.lab.code)

    def key(self, cell: Cell) -> str:
        """What its record must be of."""
        return record_key(self.lab.job(cell), self.lab.weights)

    def todo(self, cells: list[Cell]) -> list[Cell]:
        """What is to be run: missing cells in order, then those of older code."""
        states = [(self.state(cell), cell) for cell in cells]
        return [cell for wanted in (State.MISSING, State.OLDER_CODE) for state, cell in states if state is wanted]

    def run(self, cell: Cell) -> None:
        """Run a cell and keep its record. Raises CellFailed, CellStopped."""
        began = time.monotonic()
        output = self.lab.run(cell)
        job = self.lab.job(cell)
        evaluation = Evaluation.model_validate_json((output / "evaluation.json").read_text())
        self._encoder = self._encoder or encoder()
        evaluation = with_diversity(evaluation, output, self._encoder)
        trained = job.spec.reinforcement.prompts.inline or []
        report = json.loads((self.lab.output(job, Stage.REINFORCE) / "reinforce.json").read_text())
        epochs = report["epochs"]
        record = Record(
            key=self.key(cell),
            code=self.lab.code,
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            minutes=round((time.monotonic() - began) / 60, 2),
            numbers=nested(cell_numbers(evaluation, trained)),
            curve={n: [round(e[n], DIGITS) for e in epochs] for n in KEPT_CURVES if all(n in e for e in epochs)},
            stopped=report.get("stopped"),
        )
        self._keep_strips(cell, evaluation, output, trained)
        self.book.put(cell, record)

    def _keep_strips(self, cell: Cell, evaluation: Evaluation, output: Path, trained: list[str]) -> None:
        if (cell.subject, cell.seed) != HEADLINE_CELL or RECIPES[cell.recipe].group != "main":
            return
        (self._folder / STRIPS).mkdir(parents=True, exist_ok=True)
        for model in evaluation.summary:
            picture = strip(evaluation, output, model, sheet_prompts(trained))
            picture.save(self._folder / STRIPS / f"{cell.recipe}-{model}.png", optimize=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="stop after so many, at a checkpoint; 0 only writes the document")
    parser.add_argument("--only", nargs="+", choices=sorted(RECIPES), default=[], metavar="RECIPE")
    parser.add_argument("--quick", action="store_true", help="the main recipes on one subject with one seed")
    parser.add_argument("--subjects", nargs="+", choices=MAIN_SUBJECTS, help="these alone")
    parser.add_argument("--seeds", nargs="+", type=int, help="these alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time, a core each")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "experiments", help="store and logs")
    parser.add_argument("--manifest", type=Path, default=ROOT / "examples" / "demo" / "job.yaml")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> list[Cell]:
    """The cells the arguments ask for, in order."""
    cells = plan(given.only)
    if given.quick:
        cells = [c for c in cells if RECIPES[c.recipe].group == "main" and (c.subject, c.seed) == HEADLINE_CELL]
    return [c for c in cells if c.subject in (given.subjects or [c.subject]) and c.seed in (given.seeds or [c.seed])]


def main() -> int:
    """Run, keep, write; exit code 1 if any cell failed."""
    given = _arguments()
    torch.set_num_threads(1)
    lab = Laboratory(given.folder, given.manifest)
    book = Book(FOLDER / "cells")
    work = Experiment(lab, book, FOLDER)
    cells = chosen(given)
    todo = work.todo(cells)
    print(f"{len(cells) - len(todo)} of {len(cells)} cells are there", file=sys.stderr, flush=True)
    tally = Tally(left=todo)
    if todo and given.minutes != 0:
        tally = _go(work, todo, given)
    write_document(DOCUMENT, FOLDER, View(work.lab, book))
    for cell, reason in tally.failed:
        print(f"{cell} failed: {reason}", file=sys.stderr)
    print(
        f"{len(tally.done)} done, {len(tally.failed)} failed, {len(tally.stopped)} stopped on the way, "
        f"{len(tally.left)} not begun; {DOCUMENT.relative_to(ROOT)} is written",
        file=sys.stderr,
    )
    return 1 if tally.failed else 0


def _go(work: Experiment, todo: list[Cell], given: argparse.Namespace) -> Tally:
    work.lab.claim()
    work.lab.prepare(sorted({cell.subject for cell in todo}))
    began = time.monotonic()

    def say(what: str, cell: Cell, tally: Tally) -> None:
        left = len(todo) - len(tally.done) - len(tally.failed)
        spent = (time.monotonic() - began) / 60
        eta = eta_minutes(left, work.book.minutes(), given.workers)
        budget = "" if given.minutes is None else f"; {max(0.0, given.minutes - spent):.0f} min of this run left"
        number = len(tally.done) + len(tally.failed)
        print(
            f"[{spent:.1f} min] {number}/{len(todo)} {cell} {what}; {left} cells left, about {eta / 60:.1f} h{budget}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    with ending_on(signal.SIGINT, signal.SIGTERM) as asked:
        return run_cells(
            todo, work.run, work.lab.stop, workers=given.workers, minutes=given.minutes, asked=asked, say=say
        )


if __name__ == "__main__":
    sys.exit(main())
