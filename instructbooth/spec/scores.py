"""What scores pictures: rewards, metrics, and the guards that watch over a policy."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from instructbooth.spec.base import ApiModel, Rule, exactly_one
from instructbooth.spec.sources import ModelSource


class ScoreSpec(ApiModel):
    """What scores pictures: a plug-in by name, with its model and parameters."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="Name of the plug-in: one of docs/rewards.md, or one installed in the image."
    )
    model: ModelSource | None = Field(default=None, description="The scoring model, where the plug-in needs one.")
    params: dict[str, JsonValue] = Field(default={}, description="Parameters of the plug-in; see its documentation.")


class RewardSpec(ScoreSpec):
    """One part of the reward."""

    weight: Annotated[float, Field(ge=-1000, le=1000)] = Field(default=1.0, description="Weight in the sum of rewards.")
    normalize: bool = Field(
        default=False,
        description="Standardise this part over the epoch's pictures of all processes before it is weighed.",
    )


class IdentityGuard(ScoreSpec):
    """A score, usually `subject-identity`, that may not fall below a floor, whatever the reward gains."""

    floor: Annotated[float, Field(ge=-1e6, le=1e6)] | None = Field(
        default=None, description="The lowest mean score that is allowed, in the plug-in's own unit."
    )
    floor_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="The same as a share of the personalized model's own mean score, which must be above 0.",
    )
    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("floor", "floorShare", example="floorShare: 0.9"),)


class Guards(ApiModel):
    """Bounds past which the policy is no longer the personalized model: the stage ends, and a sound adapter stays."""

    kl_ceiling: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None,
        description="Mean KL per denoising step to the personalized policy, over an epoch or after its last update, "
        "that ends the stage.",
    )
    identity: IdentityGuard | None = Field(
        default=None,
        description="Ends the stage when the subject fades: measured on the pictures of earlyStopping's prompts or, "
        "without it, on each epoch's pictures with identifier.",
    )
    diversity_floor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Ends the stage when pictures of a prompt become copies of each other: mean distance of 16 x 16 "
        "thumbnails within a prompt, as a share of the personalized model's. Measured where identity is.",
    )
