"""The words of the miniature world and the two things that are drawn: scenes and their mascots.

Colours come in two palettes that never mix: backgrounds and plain objects use PALETTE, mascots use MASCOT_PALETTE. So
the oracle can tell a plain object from a part of a mascot by colour alone, and a caption's colour words bind to one
thing each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Rgb = tuple[int, int, int]

PICTURE_SIZE: Final = 64
"""Width and height of every picture, in pixels."""

PALETTE: Final[dict[str, Rgb]] = {
    "red": (218, 38, 42),
    "orange": (247, 134, 24),
    "yellow": (250, 214, 40),
    "green": (38, 152, 62),
    "blue": (42, 82, 216),
    "purple": (132, 48, 172),
    "white": (247, 247, 247),
    "black": (18, 18, 20),
}
"""Colours of backgrounds and of plain objects."""

MASCOT_PALETTE: Final[dict[str, Rgb]] = {
    "teal": (16, 172, 166),
    "pink": (252, 142, 184),
    "brown": (138, 86, 48),
    "lime": (168, 222, 62),
    "sky": (122, 198, 248),
    "grey": (134, 138, 146),
    "lavender": (192, 166, 238),
    "cream": (246, 224, 178),
    "navy": (34, 44, 104),
    "magenta": (216, 52, 152),
}
"""Colours of mascots: none of them is a background or a plain object's colour."""

OUTLINE: Final[Rgb] = (62, 50, 78)
"""The dark line round every mascot; plain objects have none."""

SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross")
BODIES: Final = ("round", "square", "triangle", "star", "heart", "cloud", "drop", "ghost", "flower", "pear")
PATTERNS: Final = ("striped", "barred", "dotted", "checkered", "split", "ringed")
CRESTS: Final = ("bald", "eared", "horned", "antennaed", "sprouting")
MOUTHS: Final = ("smile", "open", "flat")
POSITIONS: Final = ("left", "right", "top", "bottom")
SIZES: Final = ("small", "big")
CLASS_NOUN: Final = "mascot"

SIZE_PIXELS: Final[dict[str, tuple[float, float]]] = {"small": (18.0, 21.5), "": (29.0, 32.5), "big": (43.0, 48.0)}
"""The longer side of the subject's bounding box in pixels; the empty word is the size nobody mentions."""

OBJECT_PIXELS: Final = (19.0, 24.0)
"""The longer side of a second object's bounding box in pixels."""


@dataclass(frozen=True)
class Mascot:
    """One mascot's identity: what stays the same in every picture of it.

    `colours` are two words of MASCOT_PALETTE, the first one is the body's main colour. `eyes` is 1 or 2.
    """

    body: str
    pattern: str
    colours: tuple[str, str]
    crest: str
    eyes: int
    mouth: str
    feet: bool

    def description(self, level: int) -> str:
        """The noun phrase for this mascot in more or less detail, always ending in the class noun.

        Level 0 "mascot", 1 "star mascot", 2 "striped star mascot", 3 "teal and pink striped star mascot", 4 with the
        crest in front. Eyes, mouth and feet are never put into words: they are what personalization has to learn.
        """
        crest = "" if self.crest == "bald" else self.crest
        words = [crest, f"{self.colours[0]} and {self.colours[1]}", self.pattern, self.body, CLASS_NOUN]
        if not 0 <= level < len(words):
            raise ValueError(f"description level {level} is not in 0..{len(words) - 1}")
        return " ".join(word for word in words[len(words) - 1 - level :] if word)


@dataclass(frozen=True)
class PlainObject:
    """A flat shape: `shape` of SHAPES in `colour` of PALETTE."""

    shape: str
    colour: str


@dataclass(frozen=True)
class Pose:
    """Where a thing stands: centre of its bounding box and that box's longer side, pixels; rotation in degrees."""

    x: float
    y: float
    size: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything one picture shows. `size` and `position` are "" where nothing special is meant."""

    subject: Mascot | PlainObject
    background: str
    size: str
    position: str
    second: PlainObject | None
    subject_pose: Pose
    second_pose: Pose | None
