"""Draws a held-out subject's pictures for personalization: `python -m instructbooth_miniature.pictures demo FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from PIL import Image

from .render import render
from .subjects import HELD_OUT_SUBJECTS
from .world import Pose, Scene

BACKGROUND: Final = "white"
POSES: Final = (
    Pose(32.0, 32.0, 31.0, 0.0),
    Pose(30.5, 33.5, 29.5, -6.0),
    Pose(34.0, 31.0, 32.0, 5.0),
    Pose(31.5, 30.5, 30.0, 3.0),
    Pose(33.0, 33.0, 32.5, -3.0),
)
"""Slightly different poses near the middle, as one would photograph a thing on a white table."""


def draw_subject(name: str, folder: Path) -> list[Path]:
    """Write one PNG for each of POSES; returns their paths. Raises KeyError for a name not in HELD_OUT_SUBJECTS."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, pose in enumerate(POSES, start=1):
        scene = Scene(HELD_OUT_SUBJECTS[name], BACKGROUND, "", "", None, pose, None)
        paths.append(folder / f"{number}.png")
        Image.fromarray(render(scene)).save(paths[-1])
    return paths


def main() -> None:
    """The command line: a subject's name and a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=sorted(HELD_OUT_SUBJECTS))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for path in draw_subject(given.subject, given.folder):
        print(path)


if __name__ == "__main__":
    main()
