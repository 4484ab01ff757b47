"""Fields of a version to come: in each upgrade the definition is newer than the operator for a moment, or for longer.

The API server has checked them and writes their defaults into every job, those that run included. So a field that is
not known here is no mistake of the user's. A run that has begun goes on as what it resolved to; one that has not waits
for an operator that knows what the field asks for.
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


def read(job: Mapping[str, Any]) -> tuple[ResolvedJob, list[str]]:
    """The job as far as this version knows it, and the paths of the fields that it does not.

    Raises pydantic.ValidationError for everything else that is wrong.
    """
    try:
        return ResolvedJob.from_object(job), []
    except ValidationError as error:
        unknown = [field_path(each["loc"]) for each in error.errors() if each["type"] == "extra_forbidden"]
        return ResolvedJob.from_object(job, extra="ignore"), unknown


def blocker(unknown: list[str]) -> Blocker:
    """What a job waits for that has not begun."""
    named = ", ".join(unknown[:MOST_NAMED])
    more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
    message = (
        f"{named}{more}: the definition is newer than the operator, which does not know this yet; upgrade the operator"
    )
    return Blocker(REASON, message)
