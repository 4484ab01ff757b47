"""The status: only what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from instructbooth.contract import Stage
from instructbooth.spec.base import ApiModel

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Phase(StrEnum):
    """Where the job stands, in one word."""

    PENDING = "Pending"
    QUEUED = "Queued"
    PERSONALIZING = "Personalizing"
    REINFORCING = "Reinforcing"
    EVALUATING = "Evaluating"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        """A phase of a later version: it is worked out anew at each look, so any that is not final will do."""
        return cls.PENDING


class StageState(StrEnum):
    """Where a stage stands."""

    WAITING = "Waiting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @classmethod
    def _missing_(cls, value: object) -> StageState:
        """A state of a later version: it has not ended, so its child says how it is."""
        return cls.RUNNING


class Condition(ApiModel):
    """metav1.Condition."""

    type: str = Field(description="Name of the condition: Accepted, Progressing, Queued, Blocked, Succeeded or Failed.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="Why, in one CamelCase word.")
    message: str = Field(default="", description="Why, for a person, with the way out.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    observed_generation: int = Field(default=0, description="metadata.generation that the condition speaks of.")


class Progress(ApiModel):
    """How far a stage is; rank 0 serves it as /progress, the operator copies it."""

    step: int = Field(default=0, ge=0, description="Steps (or epochs, or pictures) done.")
    total: int = Field(default=0, ge=0, description="Steps to do.")
    unit: str = Field(default="steps", description="What is counted.")
    eta_seconds: int | None = Field(default=None, description="Seconds left at the present pace.")
    heartbeat: Timestamp | None = Field(default=None, description="When rank 0 last moved.")
    metrics: dict[str, float] = Field(default={}, description="Latest values, such as loss and reward.")


class Restarts(ApiModel):
    """Gang restarts of a stage, by who is charged."""

    failures: int = Field(default=0, ge=0, description="Charged to runPolicy.backoffLimit.")
    disruptions: int = Field(default=0, ge=0, description="Charged to runPolicy.disruptionLimit.")


class Failure(ApiModel):
    """Why an attempt ended."""

    attempt: int = Field(description="The attempt that ended.")
    rank: int | None = Field(default=None, description="Pod index of the gang that failed first.")
    exit_code: int | None = Field(default=None, description="Its exit code.")
    reason: str = Field(description="Why, in one CamelCase word.")
    message: str = Field(default="", description="Why, for a person, with the way out.")
    time: Timestamp | None = Field(default=None, description="When the operator wrote this.")
    log: list[str] = Field(default=[], description="The last lines of that rank's log, at most 20.")


class StageStatus(ApiModel):
    """One stage of the job."""

    name: Stage = Field(description="Name of the stage.")
    state: StageState = Field(default=StageState.WAITING, description="Where it stands.")
    attempt: int = Field(default=0, ge=0, description="Attempt that runs or ran; the first is 1.")
    nodes: int | None = Field(
        default=None, description="Pods of that attempt; of the next one while it restarts for lack of room."
    )
    job_name: str | None = Field(default=None, description="Child Job of that attempt.")
    start_time: Timestamp | None = Field(default=None, description="When its first attempt was started.")
    completion_time: Timestamp | None = Field(default=None, description="When it ended.")
    restarts: Restarts = Field(default=Restarts(), description="Gang restarts so far.")
    progress: Progress | None = Field(default=None, description="How far the attempt is.")
    failure: Failure | None = Field(default=None, description="Why the last attempt that did not succeed ended.")
    artifact: str | None = Field(default=None, description="s3:// address of what the stage made.")
    metrics: dict[str, float] = Field(default={}, description="Final numbers of the stage.")


class InstructBoothJobStatus(ApiModel):
    """What was observed of a job."""

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> InstructBoothJobStatus:
        """Build from an InstructBoothJob as the API server returns it. Raises pydantic.ValidationError.

        Another version may have written it: what that had not yet is at its default, what it had beyond this one is
        left out here and left alone there (`carry_out.write_status`).
        """
        return cls.model_validate(obj.get("status") or {}, extra="ignore")

    phase: Phase = Field(default=Phase.PENDING, description="Where the job stands, in one word.")
    stage: str | None = Field(default=None, description="Stage that runs, or ran last.")
    progress: str | None = Field(default=None, description="Progress of that stage, for `kubectl get`: `42% 3m10s`.")
    reward: str | None = Field(default=None, description="Latest mean reward, and the headline metric at the end.")
    observed_generation: int = Field(default=0, description="metadata.generation that was acted on.")
    start_time: Timestamp | None = Field(default=None, description="When the first stage was started.")
    completion_time: Timestamp | None = Field(default=None, description="When the job succeeded or failed.")
    active_seconds: int = Field(
        default=0,
        ge=0,
        description="Seconds active before the last suspension or wait in a queue; bounds activeDeadlineSeconds.",
    )
    active_since: Timestamp | None = Field(
        default=None, description="When the present active span began; unset while suspended or queued."
    )
    conditions: list[Condition] = Field(
        default=[], description="Accepted, Progressing, Queued, Blocked, Succeeded, Failed."
    )
    stages: list[StageStatus] = Field(default=[], description="The stages in order.")
    evaluation: dict[str, dict[str, float]] = Field(
        default={}, description="Mean of each metric for base, personalized and reinforced model."
    )
