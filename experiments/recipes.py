"""The recipes of docs/results.md: each a set of changes of the demo's manifest, with its subjects and seeds.

Groups:
- `main`: the rows of the paper's argument, each with one thing less than the whole, and a peer's way.
- `guards`: one prompt that pays for a subject that fades away, without and with what is to stop that.
- `sensitivity`: one value changed at a time.
- `tuning`: what would be tried to reach the goals; run only when named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from experiments.cells import Cell

Group = Literal["main", "guards", "sensitivity", "tuning"]
PROMPTS: Final = Path(__file__).with_name("prompts")
KINDS: Final = ("background", "position/size", "second object", "two at once")
MAIN_SUBJECTS: Final = ("demo", "patch", "nimbus", "wisp", "drip")
MAIN_SEEDS: Final = (0, 1, 2, 3, 4)
FEW_SUBJECTS: Final = ("demo", "patch")
FEW_SEEDS: Final = (0, 1)
FULL: Final = "full"

_CLIP: Final = {"name": "clip-score", "model": {"s3": {"prefix": "models/miniature/clip"}}}
_LIKENESS: Final = {"name": "subject-identity", "model": {"s3": {"prefix": "models/miniature/fidelity"}}}
_ALIGNMENT_ALONE: Final = [_CLIP, _LIKENESS | {"weight": 0}]
"""Likeness is measured in every epoch and not paid."""


@dataclass(frozen=True)
class Recipe:
    """A row of the results.

    Attributes:
        name: of its file in docs/results and on the command line.
        title: in tables.
        says: what it does differently from the whole.
        group: which table it is in.
        changes: of the manifest's spec, by dotted path; None removes a field.
        subjects, seeds: its cells are all pairs of them.
    """

    name: str
    title: str
    says: str
    group: Group
    changes: Mapping[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = MAIN_SUBJECTS
    seeds: tuple[int, ...] = MAIN_SEEDS

    def cells(self) -> Iterator[Cell]:
        """Its cells, seed by seed; evaluated on the unseen prompts besides those it is trained on."""
        changes = {"evaluation.prompts": {"inline": unseen_prompts()}, **self.changes}
        for seed in self.seeds:
            for subject in self.subjects:
                yield Cell(subject, seed, self.name, changes)


def unseen_prompts() -> list[str]:
    """The prompts that no recipe is trained on, kind by kind."""
    return [line for kind in KINDS for line in prompts_of(kind)]


def prompts_of(kind: str) -> list[str]:
    """The unseen prompts of one of KINDS: a file in experiments/prompts."""
    name = kind.replace("/", "-").replace(" ", "-")
    lines = (PROMPTS / f"{name}.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _main() -> Iterator[Recipe]:
    yield Recipe(FULL, "full InstructBooth", "the demo's manifest as it is", "main")
    yield Recipe(
        "no-identifier-free", "RL without identifier-free prompts", "identifierFreeShare 0", "main",
        {"reinforcement.identifierFreeShare": 0},
    )  # fmt: skip
    yield Recipe(
        "no-description", "RL without description", "the class noun alone, in both stages", "main",
        {"subject.description": None},
    )  # fmt: skip
    yield Recipe("no-kl", "RL without KL", "klWeight 0", "main", {"reinforcement.klWeight": 0})
    yield Recipe(
        "peer",
        "a peer's way: plain DDPO",
        "the class noun alone, in both stages; every rollout names the identifier; no KL; the alignment reward alone; "
        "every noisy step of a trajectory is trained on; advantages are divided by the epoch's spread. As in the "
        "whole: the mean that is subtracted is the prompt's own, and so are learning rate, clip, epochs and pictures",
        "main",
        {
            "subject.description": None,
            "reinforcement.identifierFreeShare": 0,
            "reinforcement.klWeight": 0,
            "reinforcement.rewards": _ALIGNMENT_ALONE,
            "reinforcement.timestepWindow": None,
            "reinforcement.advantageStd": "epoch",
        },
    )


def _guards() -> Iterator[Recipe]:
    """What a prompt alone is paid for: a small mascot, whoever it is."""
    fade = {
        "subject.description": None,
        "reinforcement.prompts": {"inline": ["a small {subject}"]},
        "reinforcement.rewards": _ALIGNMENT_ALONE,
        "reinforcement.identifierFreeShare": 0,
        "reinforcement.klWeight": 0,
    }
    bounds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "fade": ("no guard", "nothing stops it", {}),
        "fade-kl-ceiling": ("KL ceiling", "guards.klCeiling 0.01", {"klCeiling": 0.01}),
        "fade-identity": (
            "identity guard", "guards.identity with floorShare 0.8", {"identity": {**_LIKENESS, "floorShare": 0.8}}
        ),
    }  # fmt: skip
    for name, (title, says, guards) in bounds.items():
        yield Recipe(
            name, title, says, "guards", fade | ({"reinforcement.guards": guards} if guards else {}),
            subjects=("demo", "patch", "nimbus"), seeds=FEW_SEEDS,
        )  # fmt: skip


SENSITIVITY: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "share": ("reinforcement.identifierFreeShare", {"0.25": 0.25, "0.75": 0.75}),
    "phrase": ("reinforcement.identifierFreePhrase", {"description": "description"}),
    "kl": ("reinforcement.klWeight", {"0.1": 0.1, "1": 1}),
    "group": ("reinforcement.imagesPerPrompt", {"4": 4, "16": 16}),
    "clip": ("reinforcement.clipRange", {"5e-05": 5e-5, "0.001": 1e-3}),
    "window": ("reinforcement.timestepWindow", {"0 to 1": {"end": 2}, "0 to 4": {"end": 5}, "all": None}),
    "drawn-steps": (
        "reinforcement.sampling",
        {"steps 6": {"steps": 6, "guidanceScale": 1}, "steps 12": {"steps": 12, "guidanceScale": 1}},
    ),
    "epochs": ("reinforcement.epochs", {"10": 10, "40": 40}),
    "reward": ("reinforcement.rewards", {"alignment alone": _ALIGNMENT_ALONE}),
}
"""What is changed alone, by name: the field, and its values besides the manifest's as they are shown."""
PICTURES_PER_EPOCH: Final = 64


def _sensitivity() -> Iterator[Recipe]:
    for name, (path, values) in SENSITIVITY.items():
        for shown, value in values.items():
            changes = {path: value}
            if name == "group":  # as many pictures an epoch: fewer prompts with larger groups
                changes["reinforcement.promptsPerEpoch"] = PICTURES_PER_EPOCH // value
            title = f"{path.removeprefix('reinforcement.')} {shown}"
            file = f"{name}-{shown.replace(' ', '-')}"
            yield Recipe(file, title, title, "sensitivity", changes, subjects=FEW_SUBJECTS, seeds=FEW_SEEDS)


def _tuning() -> Iterator[Recipe]:
    """In the order in which they would be tried; docs/decisions/0019 says why."""
    tries: dict[str, dict[str, Any]] = {
        "likeness-10": {"reinforcement.rewards": [_CLIP, {**_LIKENESS, "weight": 0.1, "params": {"ceiling": 0.5}}]},
        "personalize-320": {"personalization.steps": 320},
        "updates-8": {"reinforcement.updatesPerEpoch": 8},
        "rate-5e-4": {"reinforcement.epochs": 40, "reinforcement.learningRate": 5e-4},
        "guided-rollouts": {
            "reinforcement.sampling": {"steps": 8, "guidanceScale": 2},
            "reinforcement.guidanceInTraining": False,
        },
        "wider-prompts": {"reinforcement.prompts": {"inline": _WIDER}},
    }
    for name, changes in tries.items():
        says = " ".join(f"{path}={value}" for path, value in changes.items() if path != "reinforcement.prompts")
        yield Recipe(f"try-{name}", name, says, "tuning", changes, subjects=("demo", "patch", "nimbus"), seeds=(0,))


_WIDER: Final = [
    *(f"a {{subject}} on a {colour} background" for colour in ("blue", "red", "green", "yellow")),
    *("a {subject} on the left", "a {subject} on the right", "a small {subject}"),
    *(
        f"a {{subject}} on the {side} on a {colour} background"
        for side, colour in (("left", "blue"), ("left", "red"), ("left", "green"), ("left", "yellow"))
    ),
    *(f"a {{subject}} on the right on a {colour} background" for colour in ("red", "green", "blue")),
    *(f"a small {{subject}} on a {colour} background" for colour in ("green", "yellow", "red", "blue")),
    *("a small {subject} on the left", "a small {subject} on the right"),
]
"""Twenty prompts of the same words as the manifest's twelve; none of them is an unseen one."""

RECIPES: Final[dict[str, Recipe]] = {r.name: r for r in (*_main(), *_guards(), *_sensitivity(), *_tuning())}


def plan(names: Iterable[str] = ()) -> list[Cell]:
    """The cells to run, in order: the main recipes' first seed, the guards, the other main seeds, the sensitivity.

    With names, those recipes alone. Cells of one subject and seed stand together: they share their personalization,
    and only whole sets can be compared in pairs. Raises KeyError for an unknown name.
    """
    chosen = [RECIPES[name] for name in names] or [r for r in RECIPES.values() if r.group != "tuning"]
    wave = {"guards": 1, "sensitivity": 3, "tuning": 4}
    place = {recipe.name: number for number, recipe in enumerate(chosen)}

    def order(cell: Cell) -> tuple[int, int, int, int]:
        recipe = RECIPES[cell.recipe]
        first = (2 if cell.seed else 0) if recipe.group == "main" else wave[recipe.group]
        return first, cell.seed, recipe.subjects.index(cell.subject), place[recipe.name]

    return sorted((cell for recipe in chosen for cell in recipe.cells()), key=order)
