"""The table of single changes: what becomes of the whole when one value is another one."""

from __future__ import annotations

from experiments.cells import Cell
from experiments.compare import LIKENESS, ORACLE, Find, Row, difference, points, signed
from experiments.recipes import FEW_SEEDS, FEW_SUBJECTS, FULL, RECIPES, Recipe
from experiments.tables import HELD_OUT, TRAINED

AT_ZERO = {"no-identifier-free": "identifierFreeShare 0", "no-kl": "klWeight 0"}
"""Main recipes that are also a value of this table, on its few subjects and seeds."""


def few(recipe: Recipe) -> tuple[Cell, ...]:
    """The recipe's cells on the subjects and seeds of this table."""
    return tuple(c for c in recipe.cells() if c.subject in FEW_SUBJECTS and c.seed in FEW_SEEDS)


def sensitivity_table(find: Find) -> str:
    """Differences to the whole, on the same subjects and seeds."""
    whole = Row("", FULL, "reinforced", few(RECIPES[FULL]))
    lines = [
        f"One value changed, the others as in the manifest; subjects {', '.join(FEW_SUBJECTS)}, seeds "
        f"{', '.join(map(str, FEW_SEEDS))}. Differences to the whole on the same cells.",
        "",
        "| changed | pairs | alignment, RL prompts | alignment, unseen | likeness, unseen |",
        "|---|---|---|---|---|",
    ]
    named = [(RECIPES[name], title) for name, title in AT_ZERO.items()]
    named += [(recipe, recipe.title) for recipe in RECIPES.values() if recipe.group == "sensitivity"]
    for recipe, title in sorted(named, key=lambda pair: pair[1].rpartition(" ")[0]):
        row = Row(title, recipe.name, "reinforced", few(recipe))
        trained, unseen = (difference(row, whole, find, ORACLE, group) for group in (TRAINED, HELD_OUT))
        likeness = difference(row, whole, find, LIKENESS, HELD_OUT)
        cells = (points(trained) if trained else "-", points(unseen) if unseen else "-")
        pairs = unseen.cells if unseen else 0
        lines.append(
            f"| {title} | {pairs} of {len(row.cells)} | {' | '.join(cells)} | {signed(likeness) if likeness else '-'} |"
        )
    return "\n".join(lines)
