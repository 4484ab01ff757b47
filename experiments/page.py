"""docs/results.md, written from the records: every number and every verdict in it comes from here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from experiments.compare import (
    LIKENESS,
    ORACLE,
    REWARD,
    Row,
    counted,
    difference,
    effect_line,
    goal_line,
    points,
    signed,
)
from experiments.diversity import DIVERSITY
from experiments.fading import guards_section
from experiments.figures import curves_picture, sheet, sheet_prompts
from experiments.recipes import FULL, KINDS, MAIN_SEEDS, MAIN_SUBJECTS, RECIPES, prompts_of
from experiments.records import State
from experiments.sensitivity import sensitivity_table
from experiments.tables import HELD_OUT, TRAINED, Interval
from experiments.view import View

TEXT: Final = Path(__file__).with_name("text")
STRIPS: Final = "strips"
HEADLINE_CELL: Final = ("demo", 0)
"""Subject and seed of the contact sheet and of `make results-quick`."""
COLUMNS: Final = (
    ("alignment, RL prompts", ORACLE, TRAINED),
    ("alignment, unseen", ORACLE, HELD_OUT),
    ("likeness, RL prompts", LIKENESS, TRAINED),
    ("likeness, unseen", LIKENESS, HELD_OUT),
    ("reward, RL prompts", REWARD, TRAINED),
    ("diversity, unseen", DIVERSITY, HELD_OUT),
)
COMPARED: Final = ((ORACLE, TRAINED), (ORACLE, HELD_OUT), (LIKENESS, HELD_OUT))
"""(metric, group) of what a sentence or a line about two rows says."""
RL_GOAL, UNSEEN_GOAL, LOSS_ALLOWED = 0.30, 0.20, -0.02


def rows() -> dict[str, Row]:
    """The rows of the main tables, by a short name that is the contact sheet's column."""
    whole = tuple(RECIPES[FULL].cells())
    bare = tuple(RECIPES["no-description"].cells())
    out = {
        "base": Row("base model", FULL, "base", whole),
        "DreamBooth": Row("DreamBooth", "no-description", "personalized", bare),
        "DB + descr.": Row("DreamBooth + description", FULL, "personalized", whole),
    }
    short = {"peer": "plain DDPO", "no-identifier-free": "no id-free", "no-description": "no descr.", "no-kl": "no KL"}
    for name in ("peer", "no-identifier-free", "no-description", "no-kl", FULL):
        recipe = RECIPES[name]
        out[short.get(name, "full")] = Row(recipe.title, name, "reinforced", tuple(recipe.cells()))
    return out


def table(chosen: Sequence[Row], columns: Sequence[tuple[str, str, str]], view: View) -> str:
    """Rows down; columns (title, metric, group) across."""
    lines = ["| row | cells |" + "".join(f" {title} |" for title, _, _ in columns)]
    lines.append("|---|---|" + "---|" * len(columns))
    for row in chosen:
        means = [row.mean(view.find, metric, group) for _, metric, group in columns]
        lines.append(f"| {row.title} | {view.complete(row)} |" + "".join(f" {mean or '-'} |" for mean in means))
    return "\n".join(lines)


def goals(view: View) -> str:
    """What was to be reached, and whether it was."""
    row = rows()
    lines = ["| full InstructBooth against | difference | verdict |", "|---|---|---|"]
    for short in ("DreamBooth", "DB + descr."):
        other = row[short]

        def less(metric: str, group: str, other: Row = other) -> Interval | None:
            return difference(row["full"], other, view.find, metric, group)

        name = other.title
        lines += [
            goal_line(f"{name}: alignment on RL prompts, at least +30", less(ORACLE, TRAINED), RL_GOAL, points),
            goal_line(
                f"{name}: alignment on unseen prompts, at least +20", less(ORACLE, HELD_OUT), UNSEEN_GOAL, points
            ),
            goal_line(
                f"{name}: likeness, RL prompts, no loss above .02", less(LIKENESS, TRAINED), LOSS_ALLOWED, signed
            ),
            goal_line(f"{name}: likeness, unseen, no loss above .02", less(LIKENESS, HELD_OUT), LOSS_ALLOWED, signed),
        ]
    return "\n".join(lines)


def headline(view: View) -> str:
    """The result in a sentence or two; nothing where there are no pairs."""
    row = rows()
    out = []
    for short in ("DreamBooth", "DB + descr.", "plain DDPO"):
        found = [difference(row["full"], row[short], view.find, metric, group) for metric, group in COMPARED]
        if all(found):
            trained, unseen, likeness = (interval for interval in found if interval)
            out.append(
                f"Full InstructBooth against {row[short].title}: {points(trained)} of alignment on RL prompts, "
                f"{points(unseen)} on unseen ones, likeness {signed(likeness)} ({counted(unseen)})."
            )
    return "\n".join(out)


def techniques(view: View) -> str:
    """What each part brings: the whole against the same without it."""
    row = rows()
    lines = [
        "| what | alignment, RL prompts | alignment, unseen | likeness, unseen | pairs | alignment | likeness |",
        "|---|---|---|---|---|---|---|",
    ]
    compared = [
        ("identifier-free prompts: full - without", "full", "no id-free"),
        ("description, with RL: full - without", "full", "no descr."),
        ("description, before RL: DreamBooth with - without", "DB + descr.", "DreamBooth"),
        ("KL: full - without", "full", "no KL"),
        ("RL: full - DreamBooth + description", "full", "DB + descr."),
        ("full - plain DDPO", "full", "plain DDPO"),
        ("plain DDPO - DreamBooth", "plain DDPO", "DreamBooth"),
    ]
    for text, one, other in compared:
        found = [difference(row[one], row[other], view.find, metric, group) for metric, group in COMPARED]
        lines.append(effect_line(text, found))
    return "\n".join(lines)


def write_document(path: Path, folder: Path, view: View) -> None:
    """Write the document, and the pictures beside it that can be made."""
    row = rows()
    main = [recipe for recipe in RECIPES.values() if recipe.group == "main"]
    known = [c for r in RECIPES.values() if r.group != "tuning" for c in r.cells()]
    states = view.states(known)
    made = sorted(record.made for record in map(view.find, known) if record)
    folder.mkdir(parents=True, exist_ok=True)
    curves = {r.title: [record for record in map(view.find, r.cells()) if record] for r in main}
    if any(curves.values()):
        (folder / "curves.svg").write_text(curves_picture(curves))
    there = f"{len(known) - states[State.MISSING]} of {len(known)} cells are there"
    if states[State.OLDER_CODE]:
        there += f", {states[State.OLDER_CODE]} of them of older code"
    if made:
        there += f"; made from {made[0]} to {made[-1]} UTC by `make results`"
    parts = [
        (TEXT / "head.txt").read_text(),
        f"{there}; code {view.lab.code}, weights {view.lab.weights[:12]}.",
        headline(view),
        "## What was to be reached",
        goals(view),
        "## The rows",
        table(list(row.values()), COLUMNS, view),
        "Alignment on unseen prompts, by what they ask for:",
        table(list(row.values()), [(kind, ORACLE, f"{HELD_OUT}: {kind}") for kind in KINDS], view),
        "## What each part brings",
        techniques(view),
        *_pictures(folder, row, view, curves=any(curves.values())),
        "## Guards",
        guards_section(view),
        "## Sensitivity",
        sensitivity_table(view.find),
        (TEXT / "how.txt")
        .read_text()
        .format(
            subjects=", ".join(MAIN_SUBJECTS),
            seeds=", ".join(map(str, MAIN_SEEDS)),
            trained=len(view.lab.spec["reinforcement"]["prompts"]["inline"]),
            kinds=", ".join(f"{kind} ({len(prompts_of(kind))})" for kind in KINDS),
            recipes="\n".join(f"- **{r.title}** (`{r.name}`): {r.says}." for r in main),
        ),
    ]
    path.write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


def _pictures(folder: Path, row: dict[str, Row], view: View, *, curves: bool) -> list[str]:
    """The sections of the curves and the contact sheet, as far as they can be made."""
    out = []
    if curves:
        says = "Mean over the cells in each epoch, with its 95 % interval; charts have axes of their own."
        out += ["## Training curves", says, "![Curves by recipe](results/curves.svg)"]
    if drawn := _draw_sheet(folder, row, view):
        out += ["## Contact sheet", drawn, "![Rows are prompts, columns models](results/contact-sheet.png)"]
    return out


def _draw_sheet(folder: Path, row: dict[str, Row], view: View) -> str:
    """Put the contact sheet together; returns what is said below it, nothing if there is none."""
    subject, seed = HEADLINE_CELL
    strips = {}
    for short, wanted in row.items():
        file = folder / STRIPS / f"{wanted.recipe}-{wanted.model}.png"
        cell = next(c for c in wanted.cells if (c.subject, c.seed) == HEADLINE_CELL)
        if file.exists() and view.find(cell):
            strips[short] = Image.open(file).convert("RGB")
    if not strips:
        return ""
    trained = view.lab.spec["reinforcement"]["prompts"]["inline"]
    sheet("", strips, sheet_prompts(trained)).save(folder / "contact-sheet.png", optimize=True)
    return (
        f"Subject `{subject}`, seed {seed}: the first picture of each prompt, none picked; the noise is equal along a "
        "row. The first two prompts were trained on, the others were not."
    )
