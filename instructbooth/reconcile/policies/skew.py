"""Fields of a version to come: in each upgrade the definition is newer than the operator for a moment, or for longer.

The API server has checked them and writes their defaults into every job, those that run included. So a field that is
not known here is no mistake of the user's. A run that has begun goes on as what it resolved to; one that has not waits
for an operator that knows what the field asks for. Nor is a value a mistake that the definition allows and this
version does not (a wider bound, one more choice): whatever has begun then runs on, unattended, until one comes that
can read it. A rule that came after a run had begun is not for that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from instructbooth.reconcile.policies.blocked import Blocker
from instructbooth.reconcile.policies.invalid_spec import field_path
from instructbooth.spec.job import ResolvedJob

REASON = "NewerDefinition"
MOST_NAMED = 5
LOOK_AGAIN_SECONDS = 30.0  # the definition may be taken back, which changes no job and so may bring no event


def read(job: Mapping[str, Any], begun: bool = False) -> tuple[ResolvedJob, list[str]]:
    """The job as far as this version knows it, and the paths of the fields that it does not.

    Raises pydantic.ValidationError for everything else that is wrong. What of a run that has begun could only be wrong
    from the start is not: its spec was let in by the rules of another version. `runPolicy` may have been edited since.

    Args:
        job: with metadata and spec.
        begun: whether anything was started for it.
    """
    try:
        return ResolvedJob.from_object(job), []
    except ValidationError as error:
        unknown = [field_path(each["loc"]) for each in error.errors() if each["type"] == "extra_forbidden"]
    try:
        return ResolvedJob.from_object(job, extra="ignore"), unknown
    except ValidationError as error:
        if not begun or any(each["loc"][:1] == ("runPolicy",) for each in error.errors()):
            raise
    return ResolvedJob.from_object(job, extra="ignore", let_in=True), unknown


_SCHEMA_ERRORS = frozenset(
    {"enum", "literal_error", "less_than_equal", "greater_than_equal", "less_than", "greater_than"}
)


def checked_at_apply(error: ValidationError) -> bool:
    """Whether all that is wrong is what the API server checks by the definition: then that one allows it."""
    return all(each["type"] in _SCHEMA_ERRORS | {"extra_forbidden"} for each in error.errors())


def misread(mistakes: list[str]) -> Blocker:
    """What a job waits for whose values this version does not know."""
    return Blocker(REASON, f"{_some(mistakes)}: the definition is newer than the operator; upgrade the operator")


def blocker(unknown: list[str]) -> Blocker:
    """What a job waits for that has not begun."""
    message = "the definition is newer than the operator, which does not know this yet; upgrade the operator"
    return Blocker(REASON, f"{_some(unknown)}: {message}")


def _some(named: list[str]) -> str:
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return ", ".join(named[:MOST_NAMED]) + more
