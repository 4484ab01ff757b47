"""Small jobs for the end-to-end tests: the demo's, with budgets that only prove that things work."""

from __future__ import annotations

from typing import Any

import yaml

from tests.e2e import lab

RESOURCES = {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "3Gi"}}


def small(name: str, **changes: Any) -> lab.Object:
    """The demo's job under another name with tiny budgets; `changes` are dotted spec paths with __ for the dots."""
    manifest: lab.Object = yaml.safe_load((lab.ROOT / "examples/demo/job.yaml").read_text())
    manifest["metadata"]["name"] = name
    spec = manifest["spec"]
    spec["personalization"] |= {"steps": 12, "checkpointIntervalSteps": 4, "batchSize": 4, "resources": RESOURCES}
    spec["personalization"]["priorPreservation"] = {"numImages": 4, "sampling": {"steps": 2, "guidanceScale": 1}}
    spec["reinforcement"] |= {
        "epochs": 4,
        "promptsPerEpoch": 2,
        "imagesPerPrompt": 4,
        "checkpointIntervalEpochs": 1,
        "resources": RESOURCES,
    }
    spec["evaluation"] |= {"imagesPerPrompt": 1, "sampling": {"steps": 2}, "resources": RESOURCES}
    spec["evaluation"]["prompts"]["inline"] = spec["evaluation"]["prompts"]["inline"][:2]
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = spec
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return manifest


def submit(manifest: lab.Object, *, namespace: str) -> str:
    """Apply the job and return its name."""
    lab.apply(manifest, namespace=namespace)
    return str(manifest["metadata"]["name"])


def children(name: str, *, namespace: str) -> list[str]:
    """Every object in the namespace that belongs to the job: Jobs, pods, ConfigMaps."""
    found = []
    for kind in ("jobs", "pods", "configmaps"):
        items = lab.get(kind, namespace=namespace, selector=f"instructbooth.io/job={name}")
        found += [f"{kind}/{item['metadata']['name']}" for item in items]
    return found


def running_pods(name: str, stage: str, *, namespace: str) -> list[lab.Object]:
    """Pods of a stage whose container runs."""
    selector = f"instructbooth.io/job={name},instructbooth.io/stage={stage}"
    pods = lab.get("pods", namespace=namespace, selector=selector)
    return [p for p in pods if any("running" in c["state"] for c in p["status"].get("containerStatuses", ()))]


def wait_stage_moves(name: str, stage: str, *, namespace: str, step: int = 1, seconds: float = 240) -> lab.Object:
    """Wait until the stage reports at least `step`, and return the job."""

    def moved() -> bool:
        status = lab.stage(lab.job(name, namespace=namespace), stage)
        return bool((status.get("progress") or {}).get("step", 0) >= step or status.get("state") == "Succeeded")

    lab.wait(f"{name} to reach step {step} of {stage}", moved, seconds=seconds)
    return lab.job(name, namespace=namespace)
