"""A spec that the API server let through but that cannot be run: said once, with the path of every field."""

from __future__ import annotations

from collections import Counter

from pydantic import ValidationError

from instructbooth.contract import GROUP, STAGES, Env, Label, Stage
from instructbooth.reconcile.mounts import PREFIX, hub_sources
from instructbooth.reconcile.pod import RESERVED_ENV
from instructbooth.spec.job import InstructBoothJobSpec

REASON = "InvalidSpec"


def validation_messages(error: ValidationError) -> list[str]:
    """One line for each mistake: `spec.reinforcement.nodes: Input should be greater than or equal to 1`."""
    lines = []
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        lines.append(f"{field_path(mistake['loc'])}: {mistake['msg'].removeprefix('Value error, ')}")
    return lines


def field_path(location: tuple[int | str, ...]) -> str:
    """The path of a field of the spec, as people write it: `spec.reinforcement.rewards[0].name`."""
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def conflicts(spec: InstructBoothJobSpec) -> list[str]:
    """What podTemplate takes from the operator, and what only several fields together get wrong; empty if nothing."""
    template = spec.pod_template
    lines = []
    names = [str(item.get("name", "")) for item in template.env]
    for number, name in enumerate(names):
        if name in RESERVED_ENV:
            lines.append(f"spec.podTemplate.env[{number}].name: {name} is set by the operator; remove it")
    lines += [
        f"spec.podTemplate.env: {name or 'an empty name'} is there {count} times; leave one"
        for name, count in Counter(names).items()
        if count > 1
    ]
    for number, volume in enumerate(template.volumes):
        if str(volume.get("name", "")).startswith(PREFIX):
            lines.append(f"spec.podTemplate.volumes[{number}].name: names that begin with {PREFIX} are the operator's")
    lines += [
        f"spec.podTemplate.labels: {key} is the operator's; remove it"
        for key in template.labels
        if key.startswith(f"{GROUP}/") or key == Label.MANAGED_BY
    ]
    # A stage is enough: the next one may have the same mistake.
    return lines + next((found for stage in STAGES if (found := _token_conflicts(spec, stage, names))), [])


def _token_conflicts(spec: InstructBoothJobSpec, stage: Stage, names: list[str]) -> list[str]:
    """What stands in the way of one token for the hub in a stage's pods."""
    tokens = {field: hub.token_secret_ref for field, hub in hub_sources(spec, stage).items() if hub.token_secret_ref}
    fields = ", ".join(f"spec.{field}.tokenSecretRef" for field in tokens)
    lines = []
    if tokens and Env.HUB_TOKEN in names:
        place = f"spec.podTemplate.env[{names.index(Env.HUB_TOKEN)}].name"
        lines.append(f"{place}: {Env.HUB_TOKEN} is what {fields} becomes in the pod; leave one of the two")
    if len(set(tokens.values())) > 1:
        lines.append(f"{fields}: differ, but a pod has one token for the hub; use one that may read all")
    return lines
