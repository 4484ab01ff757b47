"""What is wrong with a spec, as a person should read it: the field, its value, the bound and the way out.

The words come from pydantic's error, the way out from the field's own description in the schema.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from instructbooth.crd import structural
from instructbooth.spec.base import QUANTITY_PATTERN
from instructbooth.spec.job import InstructBoothJobSpec

_MAX_VALUE = 80
_SUBJECT = re.compile(r"^(Input|String|List|Dictionary|Value) should ")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        field: path as in the manifest: `spec.evaluation.metrics[0].name`.
        message: what is wrong with it and the way out.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def find_problems(error: ValidationError, spec: object) -> list[Problem]:
    """Translate the errors of `InstructBoothJobSpec.model_validate(spec)`, one problem per field, in order.

    Args:
        error: what the validation raised.
        spec: what was validated.
    """
    best: dict[tuple[int | str, ...], Any] = {}
    for detail in error.errors():
        path = _path(detail["loc"], spec, missing=detail["type"] == "missing")
        # A quantity is an integer or a string: what does not even have the type says less than what has and is wrong.
        if path not in best or best[path]["type"].endswith(("_type", "_parsing")):
            best[path] = detail
    return [_problem(path, detail) for path, detail in best.items()]


def _path(loc: tuple[int | str, ...], spec: object, *, missing: bool) -> tuple[int | str, ...]:
    """The part of pydantic's location that exists in the input: it also names the members of unions."""
    path: list[int | str] = []
    node: Any = spec
    for position, key in enumerate(loc):
        in_list = isinstance(node, list) and isinstance(key, int) and key < len(node)
        if in_list or (isinstance(node, dict) and key in node):
            node = node[key]
        elif not (missing and position == len(loc) - 1):
            continue
        path.append(key)
    return tuple(path)


def _problem(path: tuple[int | str, ...], detail: Any) -> Problem:
    field = field_path(path)
    schema = _schema_at(path)
    description = schema.get("description", "")
    kind, value = detail["type"], _shorten(detail["input"])
    if kind == "missing":
        return Problem(field, f"required but absent. {description}".strip())
    if kind == "extra_forbidden":
        return Problem(field, f"unknown field; {_suggest(str(path[-1]), _schema_at(path[:-1]))}")
    if kind == "value_error":
        text = detail["msg"].removeprefix("Value error, ")
        inner, colon, rest = text.partition(": ")
        if colon and inner.partition(".")[0] in schema.get("properties", {}):
            return Problem(f"{field}.{inner}", f"{_of(detail['input'], inner)}{rest}")
        return Problem(field, text)
    if detail.get("ctx", {}).get("pattern") == QUANTITY_PATTERN:
        return Problem(field, f"{value} is not a quantity such as 500m, 2 or 4Gi")
    said = _SUBJECT.sub("must ", detail["msg"]).replace(" after validation", "")
    return Problem(field, f"{value} {said}. {description}".strip())


def field_path(path: tuple[int | str, ...], root: str = "spec") -> str:
    """`("metrics", 0, "name")` as `spec.metrics[0].name`."""
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


def _of(model_input: object, field: str) -> str:
    value: object = model_input
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else f"{_shorten(value)}: "


def _suggest(name: str, schema: dict[str, Any]) -> str:
    known = sorted(schema.get("properties", {}))
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(known)}" if known else "nothing is allowed here"


@cache
def _schema() -> dict[str, Any]:
    return structural(InstructBoothJobSpec)


def _schema_at(path: tuple[int | str, ...]) -> dict[str, Any]:
    node = _schema()
    for part in path:
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return node
