"""A folder in the data set's real layout, with made-up subjects, pictures and prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SUBJECTS = {"star_toy": "mascot", "dog2": "dog"}
OBJECT = ["on red", "on blue", "small"]
LIVE = ["on red", "on a star", "striped"]


def listed(ends: list[str]) -> str:
    lines = [f"'a {{0}} {{1}} {end}'.format(unique_token, class_token)" for end in ends]
    return "prompt_list = [\n" + ",\n".join(lines) + "\n]\n"


def text(subjects: dict[str, str] = SUBJECTS, objects: list[str] = OBJECT, live: list[str] = LIVE) -> str:
    """Like prompts_and_classes.txt."""
    classes = "".join(f"{name},{noun}\n" for name, noun in subjects.items())
    return (
        f"Classes\n\nsubject_name,class\n{classes}\nPrompts\n\nObject Prompts\n\n{listed(objects)}\n"
        f"Live Subject Prompts\n\n{listed(live)}"
    )


def make_data_set(root: Path) -> Path:
    """Write root/dataset/ with two subjects; returns root."""
    place = root / "dataset"
    place.mkdir(parents=True)
    (place / "prompts_and_classes.txt").write_text(text())
    (place / "references_and_licenses.txt").write_text("none\n")
    rng = np.random.default_rng(0)
    for name in SUBJECTS:
        (place / name).mkdir()
        for number in (0, 1, 3):  # the real folders have gaps, too
            picture = Image.fromarray(rng.integers(0, 255, (40, 32, 3), dtype=np.uint8))
            picture.save(place / name / f"{number:02d}.jpg")
    return root
