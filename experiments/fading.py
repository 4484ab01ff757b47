"""The section of the guards: one prompt pays for a subject that fades away, without and with what is to stop it."""

from __future__ import annotations

from typing import Final

from experiments.compare import ENOUGH, LIKENESS, REWARD, Row, counted, difference, signed
from experiments.recipes import RECIPES, Recipe
from experiments.tables import TRAINED, Interval
from experiments.view import View

SAYS: Final = (
    "Trained on one prompt, `a small [*]`, without description and KL, paid for alignment alone: whatever is small is "
    "paid."
)


def guards_section(view: View) -> str:
    """A table of the recipes, and what follows from it."""
    chosen = [recipe for recipe in RECIPES.values() if recipe.group == "guards"]
    lines = [
        "| guard | cells | reward: after - before | likeness: before | after | ended early |",
        "|---|---|---|---|---|---|",
        *(_line(recipe, view) for recipe in chosen),
    ]
    return "\n".join([SAYS, "", *lines, "", *_sentences(chosen[0], chosen[1:], view)])


def _row(recipe: Recipe, model: str) -> Row:
    return Row(recipe.title, recipe.name, model, tuple(recipe.cells()))


def _change(recipe: Recipe, metric: str, view: View) -> Interval | None:
    return difference(_row(recipe, "reinforced"), _row(recipe, "personalized"), view.find, metric, TRAINED)


def _line(recipe: Recipe, view: View) -> str:
    before, after = _row(recipe, "personalized"), _row(recipe, "reinforced")
    gained = _change(recipe, REWARD, view)
    stopped = sum(bool(record and record.stopped) for record in map(view.find, after.cells))
    likeness = [row.mean(view.find, LIKENESS, TRAINED) or "-" for row in (before, after)]
    return (
        f"| {recipe.title}: {recipe.says} | {view.complete(after)} | {signed(gained) if gained else '-'} | "
        f"{likeness[0]} | {likeness[1]} | {stopped} |"
    )


def _sentences(free: Recipe, guarded: list[Recipe], view: View) -> list[str]:
    paid, faded = _change(free, REWARD, view), _change(free, LIKENESS, view)
    if paid is None or faded is None or paid.cells < ENOUGH:
        return ["- Not judged yet: too few cells."]
    seen = paid.low > 0 and faded.high < 0
    lines = [
        f"- Without a guard the reward moves by {signed(paid)} and the likeness by {signed(faded)}: the fading is "
        f"**{'seen' if seen else 'not seen'}**."
    ]
    for recipe in guarded:
        kept = difference(_row(recipe, "reinforced"), _row(free, "reinforced"), view.find, LIKENESS, TRAINED)
        if kept is None or kept.cells < ENOUGH:
            lines.append(f"- {recipe.title}: not judged yet.")
            continue
        word = "it holds the subject" if kept.low > 0 else "no effect established"
        lines.append(f"- {recipe.title}: likeness {signed(kept)} against no guard, {counted(kept)}: **{word}**.")
    return lines
