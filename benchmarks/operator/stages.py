"""What KWOK does with pods, out of its own module: quickly, or as a cluster would in a day.

KWOK does not look at a finished pod again (`FINISHED`). Without that it tries all stages on every pod that ever was,
whenever the API server has ended its watch and it has all pods sent anew. With some thousands of them that takes so
long that the next watch is ended before it has caught up, and so on for ever.
"""

from __future__ import annotations

import textwrap

import yaml

from benchmarks.operator.install import module_folder
from instructbooth.contract import ExitCode
from tests.integration.operator.plane import JsonObject

STAGE_SECONDS, JITTER_SECONDS = 900, 1800  # a stage: a quarter of an hour to three quarters
FAILING, SUCCEEDING = 4, 96  # pods of each hundred
FINISHED = ("bench.instructbooth.dev/finished", "true")  # an annotation


def of_a_day(speed: float) -> list[JsonObject]:
    """What runs takes its time, `speed` times faster than on a clock, and now and then it fails.

    Raises ValueError if KWOK's own stage is not the one that this was written for.
    """
    *others, good = quick()
    good["spec"] |= {"weight": SUCCEEDING, "delay": _delay(speed)}
    bad: JsonObject = yaml.safe_load(yaml.safe_dump(good))
    bad["metadata"]["name"] = "pod-fail"
    bad["spec"]["weight"] = FAILING
    patch = bad["spec"]["next"]["patches"][0]
    for old, new in (
        ("exitCode: 0", f"exitCode: {int(ExitCode.TRANSIENT)}"),
        ("reason: Completed", "reason: Error"),
        ("phase: Succeeded", "phase: Failed"),
    ):
        if old not in patch["template"]:
            raise ValueError(f"KWOK's pod-complete says no {old!r} any more")
        patch["template"] = patch["template"].replace(old, new)
    return [*others, good, bad]


def quick() -> list[JsonObject]:
    """KWOK's own quick stages: pods run and succeed as fast as it can say so.

    The last one, pod-complete, marks the pod as finished in the same request.
    """
    folder = module_folder("kwok", "sigs.k8s.io/kwok") / "kustomize/stage/pod/fast"
    names = ("pod-ready", "pod-delete", "pod-complete")
    found: list[JsonObject] = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in names]
    after = found[-1]["spec"]["next"]
    name, value = FINISHED
    status = textwrap.indent(after.pop("statusTemplate"), "  ")
    template = f'metadata:\n  annotations:\n    {name}: "{value}"\nstatus:\n{status}'
    after["patches"] = [{"subresource": "status", "template": template}]
    return found


def _delay(speed: float) -> dict[str, int]:
    """KWOK waits for at least `duration` and less than `jitterDuration`."""
    return {
        "durationMilliseconds": round(1000 * STAGE_SECONDS / speed),
        "jitterDurationMilliseconds": round(1000 * (STAGE_SECONDS + JITTER_SECONDS) / speed),
    }
