"""What every API model shares: camelCase on the wire, unknown fields refused, and rules that hold in two places.

A `Rule` is a condition that types and bounds cannot say ("exactly one source"). It is written once, as the CEL
expression the API server evaluates at `kubectl apply` next to the Python check the CLI, the operator and the trainer
run. tests/integration applies the same bad objects to both, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Rule:
    """One condition over an object of the API.

    Attributes:
        cel: the expression the API server evaluates, `self` being the object.
        check: the same condition in Python; true means valid.
        message: what is wrong and the way out, for a person.
        field: the field the error is shown at, relative to the object (`images`); empty for the object itself.
    """

    cel: str
    check: Callable[[Any], bool]
    message: str
    field: str = ""


LET_IN: Mapping[str, Any] = {"let_in": True}
"""Context of a validation that asks for shapes alone: of what an earlier version with fewer rules has let in."""


class ApiModel(BaseModel):
    """Base of every type of the API: immutable, camelCase, unknown fields are errors."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        for rule in () if info.context == LET_IN else self.all_rules():
            if not rule.check(self):
                raise ValueError(f"{rule.field + ': ' if rule.field else ''}{rule.message}")
        return self

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The type's own rules, and those of the types that it extends."""
        return _rules_of(cls)

    def to_wire(self) -> dict[str, Any]:
        """The object as the API server would store it: camelCase keys, JSON types, unset options left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@cache  # the operator validates a spec at each pass, and looking the rules up took as long as all checks
def _rules_of(kind: type[ApiModel]) -> tuple[Rule, ...]:
    return tuple(rule for base in reversed(kind.__mro__) for rule in base.__dict__.get("rules", ()))


def exactly_one(*fields: str, example: str) -> Rule:
    """A rule that exactly one of the named (camelCase) fields is set; `example` is YAML that would be right."""
    present = [f"has(self.{name})" for name in fields]
    names = {name: "".join("_" + c.lower() if c.isupper() else c for c in name) for name in fields}
    listed = ", ".join(fields[:-1]) + " and " + fields[-1]
    return Rule(
        cel=f"[{', '.join(present)}].filter(x, x).size() == 1",
        check=lambda self: sum(getattr(self, attr) is not None for attr in names.values()) == 1,
        message=f"exactly one of {listed} must be set, for example {example}",
    )


# Kubernetes' own grammars. DNS-1123 names bound what a reference can be; quantities are checked by the API server too,
# but only once a pod is made: the pattern moves that error to `kubectl apply`.
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
]
QUANTITY_PATTERN = r"^[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
# On the wire an int or a string, as in core/v1; crd.py writes it as x-kubernetes-int-or-string.
Quantity = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=64)]
ShortText = Annotated[str, Field(min_length=1, max_length=256)]
RelativePath = Annotated[
    str, Field(max_length=512, pattern=r"^([^/.][^/]*|\.[^/.][^/]*)(/([^/.][^/]*|\.[^/.][^/]*))*$")
]
