"""What earlier versions left in clusters: the definition as it was, and objects of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from instructbooth.contract import KIND

HERE = Path(__file__).parent
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """One folder here."""

    name: str
    definition: JsonObject
    jobs: list[JsonObject]
    children: list[JsonObject]


def releases() -> list[Release]:
    """All, oldest first."""
    return [_read(folder) for folder in sorted(HERE.iterdir()) if (folder / "crd.yaml").exists()]


def allowed() -> dict[str, str]:
    """Pattern of a change of the definition -> why it harms nothing."""
    return {entry["change"]: entry["why"] for entry in yaml.safe_load((HERE / "allowed.yaml").read_text())}


def _read(folder: Path) -> Release:
    objects = list(yaml.safe_load_all((folder / "objects.yaml").read_text()))
    return Release(
        name=folder.name,
        definition=yaml.safe_load((folder / "crd.yaml").read_text()),
        jobs=[obj for obj in objects if obj["kind"] == KIND],
        children=[obj for obj in objects if obj["kind"] != KIND],
    )
