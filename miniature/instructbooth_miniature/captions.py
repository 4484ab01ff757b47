"""The grammar of prompts: writes captions of scenes, and reads what a prompt asks for.

A prompt is "a [small|big] {subject}" and then, in any order, clauses: "on a COLOUR background", "on the left|right",
"at the top|bottom", "next to a COLOUR SHAPE". {subject} is a mascot ("sks teal and pink striped star mascot": every
word but the class noun is free) or a plain object ("red circle"). What is not mentioned may be anything, except that
a second object which is not mentioned is not there.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .world import CLASS_NOUN, PALETTE, POSITIONS, SHAPES, SIZE_PIXELS, Mascot, PlainObject, Scene

FILLERS = ("cute", "happy", "funny", "little", "nice", "new")
"""Words that mean nothing to see: with them the model learns to read past words it does not know."""
FILLER_SHARE = 0.12
BACKGROUND_SHARE = 0.72
"""How often a caption mentions the background."""
LEVEL_WEIGHTS = (0.3, 0.1, 0.15, 0.3, 0.15)
"""How often each level of a mascot's description is used."""


def article(noun_phrase: str) -> str:
    """The phrase with "a" or "an" in front."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def place(position: str) -> str:
    """The clause for one of POSITIONS."""
    return f"{'on' if position in ('left', 'right') else 'at'} the {position}"


def caption(scene: Scene, rng: random.Random) -> str:
    """A random caption that is true of the scene."""
    if isinstance(scene.subject, Mascot):
        subject = scene.subject.description(rng.choices(range(5), LEVEL_WEIGHTS)[0])
    else:
        subject = f"{scene.subject.colour} {scene.subject.shape}"
    if rng.random() < FILLER_SHARE:
        subject = f"{rng.choice(FILLERS)} {subject}"
    clauses = []
    if scene.position:
        clauses.append(place(scene.position))
    if rng.random() < BACKGROUND_SHARE:
        clauses.append(f"on {article(scene.background)} background")
    if scene.second is not None:
        clauses.append(f"next to {article(f'{scene.second.colour} {scene.second.shape}')}")
    if rng.random() < 0.5:
        rng.shuffle(clauses)
    return " ".join([article(f"{scene.size} {subject}".strip()), *clauses])


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for; "" or None where it does not say. `subject` is None for a mascot."""

    subject: PlainObject | None
    size: str
    position: str
    background: str
    second: PlainObject | None


_COLOUR = "|".join(PALETTE)
_SHAPE = "|".join(SHAPES)
_CLAUSES = {
    "background": re.compile(rf" on an? ({_COLOUR}) background\b"),
    "position": re.compile(rf" (?:on|at) the ({'|'.join(POSITIONS)})\b"),
    "second": re.compile(rf" next to an? ({_COLOUR}) ({_SHAPE})\b"),
}
_SIZE = re.compile(rf"^an? ({'|'.join(size for size in SIZE_PIXELS if size)})\b")
_PLAIN = re.compile(rf"\b({_COLOUR}) ({_SHAPE})$")


def parse(prompt: str) -> Asked:
    """What the prompt asks for. The identifier and all words of a description are passed over.

    Raises ValueError for a prompt outside the grammar: a clause twice, an unknown colour or shape in a clause, no
    subject. An oracle that guessed would measure the wrong thing.
    """
    rest = " ".join(prompt.lower().replace(",", " ").rstrip(". ").split())
    found: dict[str, re.Match[str]] = {}
    for name, pattern in _CLAUSES.items():
        matches = list(pattern.finditer(rest))
        if len(matches) > 1:
            raise ValueError(f"prompt {prompt!r} has {len(matches)} {name} clauses; the grammar allows one")
        if matches:
            found[name] = matches[0]
            rest = rest[: matches[0].start()] + rest[matches[0].end() :]
    leftover = re.search(r" (on|at|next to) ", rest + " ")
    if leftover:
        raise ValueError(
            f"prompt {prompt!r}: cannot read {rest[leftover.start() :].strip()!r}; clauses are"
            f" 'on a COLOUR background', 'on the left|right', 'at the top|bottom', 'next to a COLOUR SHAPE'"
            f" with colours {', '.join(PALETTE)} and shapes {', '.join(SHAPES)}"
        )
    size = _SIZE.match(rest)
    plain = _PLAIN.search(rest)
    if plain is None and CLASS_NOUN not in rest.split():
        raise ValueError(f"prompt {prompt!r} names no subject: neither {CLASS_NOUN!r} nor a plain 'COLOUR SHAPE'")
    return Asked(
        subject=PlainObject(plain.group(2), plain.group(1)) if plain else None,
        size=size.group(1) if size else "",
        position=found["position"].group(1) if "position" in found else "",
        background=found["background"].group(1) if "background" in found else "",
        second=PlainObject(found["second"].group(2), found["second"].group(1)) if "second" in found else None,
    )
