"""The model families: a file each, found by looking. docs/families.md says how to add one."""

from __future__ import annotations

import importlib
import json
import pkgutil
from functools import cache
from pathlib import Path

from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.runtime.errors import UserError


@cache
def families() -> dict[str, type[DiffusionModel]]:
    """All families by name: what the files of this folder define."""
    found: dict[str, type[DiffusionModel]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, DiffusionModel) and member.__module__ == module.__name__:
                found[member.family] = member
    return found


def find_family(folder: Path, family: str) -> type[DiffusionModel]:
    """The family of a diffusers folder, by its model_index.json.

    Args:
        folder: with a model_index.json.
        family: what spec.model.family says; `auto` takes what is found.

    Raises:
        UserError: `ModelInvalid` when no family has such a pipeline, or another one than was named.
    """
    name = _pipeline_class(folder / "model_index.json")
    for known in families().values():
        if known.pipeline_name == name and family in ("auto", known.family):
            return known
    kinds = "; ".join(f"{known.family} is a {known.pipeline_name}" for known in families().values())
    raise UserError(
        "ModelInvalid",
        f"spec.model: family {family}, and source's model_index.json names {name!r}; the families are: {kinds}",
    )


def _pipeline_class(index: Path) -> object:
    """What model_index.json says the folder is; None without the file. Raises UserError ModelInvalid."""
    if not index.is_file():
        return None
    try:
        content = json.loads(index.read_text())
    except ValueError as error:
        raise UserError(
            "ModelInvalid", f"spec.model.source: {index.name} is no JSON ({error}); upload it again"
        ) from error
    return content.get("_class_name") if isinstance(content, dict) else None
