"""What pretraining never sees: the demo's subject, further subjects for experiments, and combinations of skills."""

from __future__ import annotations

from typing import Final

from .world import Mascot, Scene

IDENTIFIERS: Final = ("sks", "zwx", "qvk", "ohx", "vmj")
"""Tokens of the vocabulary that no training caption holds: free for a subject's identifier."""

DEMO_SUBJECT: Final = Mascot("star", "striped", ("teal", "pink"), "antennaed", 2, "smile", True)

HELD_OUT_SUBJECTS: Final[dict[str, Mascot]] = {
    "demo": DEMO_SUBJECT,
    "patch": Mascot("heart", "dotted", ("lime", "navy"), "horned", 2, "flat", False),
    "nimbus": Mascot("cloud", "checkered", ("sky", "cream"), "sprouting", 1, "smile", True),
    "wisp": Mascot("ghost", "ringed", ("lavender", "magenta"), "eared", 2, "open", False),
    "drip": Mascot("drop", "split", ("grey", "lime"), "antennaed", 1, "flat", True),
    "petal": Mascot("flower", "barred", ("magenta", "cream"), "horned", 2, "smile", False),
    "tipi": Mascot("triangle", "dotted", ("brown", "sky"), "eared", 2, "open", True),
}
"""Subjects by name. Their combination of body and pattern is kept out of pretraining in every colour."""

HELD_OUT_LOOKS: Final = frozenset((mascot.body, mascot.pattern) for mascot in HELD_OUT_SUBJECTS.values())

DEMO_TRAIN_PROMPTS: Final = (
    "a {subject} on a blue background",
    "a {subject} on a red background",
    "a {subject} on a green background",
    "a {subject} on a yellow background",
    "a {subject} on the left",
    "a {subject} on the right",
    "a small {subject}",
    "a {subject} next to a red circle",
    "a {subject} next to a blue star",
)
DEMO_HELD_OUT_PROMPTS: Final = (
    "a {subject} on a purple background",
    "a {subject} on an orange background",
    "a {subject} on a black background",
    "a {subject} at the top",
    "a {subject} at the bottom",
    "a {subject} next to a green square",
    "a small {subject} on a purple background",
    "a {subject} on the left on an orange background",
)

HELD_OUT_COMBINATIONS: Final[frozenset[tuple[str, str]]] = frozenset(
    {("small", "purple"), ("left", "orange"), ("top", "green"), ("big", "blue"), ("right", "yellow")}
)
"""Pairs of size or position and background that no picture of pretraining shows: the base must compose them."""


def is_held_out(scene: Scene) -> bool:
    """Whether pretraining must not see this scene: a held-out subject's look, or a held-out combination."""
    subject = scene.subject
    if isinstance(subject, Mascot) and (subject.body, subject.pattern) in HELD_OUT_LOOKS:
        return True
    return bool({(scene.size, scene.background), (scene.position, scene.background)} & HELD_OUT_COMBINATIONS)
