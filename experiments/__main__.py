"""`python -m experiments`: recipes x subjects x seeds in the miniature world, and the table of what came out.

    python -m experiments --seeds 0 1 --recipe "quiet: reinforcement.klWeight=0.05"

A recipe is a name and changes of the manifest's spec, values in YAML; without any the manifest itself is run. What is
there already is not run again. Needs no cluster: the trainer runs as it does in a pod, on one core a cell.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from experiments.cells import ROOT, Cell, CellFailed, Laboratory
from experiments.tables import Key, cell_numbers, render
from instructbooth_miniature.subjects import HELD_OUT_SUBJECTS
from instructbooth_trainer.report.evaluation import Evaluation


def recipe(text: str) -> tuple[str, dict[str, Any]]:
    """`name: path=value path=value` -> name and changes. Raises argparse.ArgumentTypeError."""
    name, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split()]
    if not name.strip() or any(not middle for _, middle, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 'name: reinforcement.klWeight=0.05 ...'")
    return name.strip(), {path: yaml.safe_load(value) for path, _, value in pairs}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "experiments", help="store, logs and tables")
    parser.add_argument("--manifest", type=Path, default=ROOT / "examples" / "demo" / "job.yaml")
    parser.add_argument("--subjects", nargs="+", choices=sorted(HELD_OUT_SUBJECTS), default=["demo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipe", action="append", type=recipe, help="may be given more than once")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells run side by side")
    return parser.parse_args()


def main() -> int:
    """Run the cells, print the table; exit code 1 if any cell failed."""
    given = _arguments()
    lab = Laboratory(given.folder, given.manifest)
    lab.prepare(given.subjects)
    recipes = dict(given.recipe or [("manifest", {})])
    cells = [Cell(s, seed, name, c) for name, c in recipes.items() for seed in given.seeds for s in given.subjects]
    rows: dict[str, list[dict[Key, float]]] = {}
    failed, began = 0, time.monotonic()

    def take(cell: Cell) -> dict[Key, float] | CellFailed:
        try:
            output = lab.run(cell)
        except CellFailed as error:
            return error
        evaluation = Evaluation.model_validate_json((output / "evaluation.json").read_text())
        return cell_numbers(evaluation, lab.job(cell).spec.to_wire()["reinforcement"]["prompts"]["inline"])

    with ThreadPoolExecutor(given.workers) as pool:
        for done, (cell, result) in enumerate(zip(cells, pool.map(take, cells), strict=True), 1):
            spent = time.monotonic() - began
            left = spent / done * (len(cells) - done)
            said = "failed" if isinstance(result, CellFailed) else "done"
            print(f"[{spent / 60:.1f} min] {cell} {said}; about {left / 60:.0f} min left", file=sys.stderr, flush=True)
            if isinstance(result, CellFailed):
                print(result, file=sys.stderr, flush=True)
                failed += 1
            else:
                rows.setdefault(cell.recipe, []).append(result)
    print(render(rows, lab.spec_metrics))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
