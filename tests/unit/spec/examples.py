"""Manifests that must be refused, with the field at which the error must be shown.

The unit test gives them to pydantic, tests/integration/api to the real API server: one list, two judges.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
Manifest = dict[str, Any]


def demo() -> Manifest:
    """The demo's manifest, fresh each time."""
    manifest: Manifest = yaml.safe_load((ROOT / "examples/demo/job.yaml").read_text())
    return manifest


def _set(path: str, value: object) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        *parents, last = path.split(".")
        node = manifest["spec"]
        for key in parents:
            node = node[key]
        node[last] = value

    return change


def _recorded(stage: str, part: dict[str, Any]) -> Callable[[Manifest], None]:
    """All that model.cudaGraphs needs, and something in a stage."""

    def change(manifest: Manifest) -> None:
        manifest["spec"]["model"].update(cudaGraphs=True, dtype="bf16")
        for name in ("personalization", "reinforcement"):
            manifest["spec"][name].update(gpusPerNode=1)
        manifest["spec"][stage].update(part)

    return change


def _update(**changes: object) -> Callable[[Manifest], None]:
    """Change fields of the reinforcement."""
    return lambda manifest: manifest["spec"]["reinforcement"].update(changes)


def _drop(path: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        *parents, last = path.split(".")
        node = manifest["spec"]
        for key in parents:
            node = node[key]
        del node[last]

    return change


# name -> (change to the demo, path the error must name)
BAD: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "unknown-field": (_set("personalization.stepz", 3), "spec.personalization.stepz"),
    "unknown-nested-field": (_set("reinforcement.sampling.etaa", 1), "spec.reinforcement.sampling.etaa"),
    "unknown-weight-of-a-metric": (
        lambda manifest: manifest["spec"]["evaluation"]["metrics"][0].update(weight=2),
        "spec.evaluation.metrics[0].weight",
    ),
    "negative-steps": (_set("personalization.steps", -1), "spec.personalization.steps"),
    "negative-learning-rate": (_set("reinforcement.learningRate", -0.1), "spec.reinforcement.learningRate"),
    "zero-learning-rate": (_set("personalization.learningRate", 0), "spec.personalization.learningRate"),
    "no-images": (_set("subject.images", {}), "spec.subject.images"),
    "images-missing": (_drop("subject.images"), "spec.subject.images"),
    "two-image-sources": (_set("subject.images.s3", {"prefix": "a/b"}), "spec.subject.images"),
    "identifier-in-class-noun": (_set("subject.className", "SKS mascot"), "spec.subject.identifier"),
    "identifier-in-description": (_set("subject.description", "sks star mascot"), "spec.subject.identifier"),
    "identifier-of-two-words": (_set("subject.identifier", "my dog"), "spec.subject.identifier"),
    "zero-nodes": (_set("reinforcement.nodes", 0), "spec.reinforcement.nodes"),
    "malformed-quantity": (
        _set("personalization.resources.limits", {"memory": "4 gigs"}),
        "spec.personalization.resources.limits.memory",
    ),
    "negative-quantity": (
        _set("personalization.resources.requests", {"cpu": -1}),
        "spec.personalization.resources.requests.cpu",
    ),
    "negative-quantity-in-words": (
        _set("personalization.resources.requests", {"cpu": "-500m"}),
        "spec.personalization.resources.requests.cpu",
    ),
    "gpu-in-resources": (
        _set("personalization.resources.limits", {"nvidia.com/gpu": 1}),
        "spec.personalization.resources",
    ),
    "no-source-of-model": (_set("model.source", {}), "spec.model.source"),
    "unpinned-revision": (
        _set("model.source", {"hub": {"repo": "a/b", "revision": "main"}}),
        "spec.model.source.hub.revision",
    ),
    "prompts-without-subject": (
        _set("reinforcement.prompts", {"inline": ["a dog on a beach"]}),
        "spec.reinforcement.prompts.inline",
    ),
    "caption-without-subject": (
        _set("personalization.captionTemplates", ["a photo"]),
        "spec.personalization.captionTemplates",
    ),
    "dropout-of-everything": (_set("personalization.lora", {"dropout": 1}), "spec.personalization.lora.dropout"),
    "target-module-with-a-pattern": (
        _set("personalization.lora", {"targetModules": ["to_.*"]}),
        "spec.personalization.lora.targetModules[0]",
    ),
    "no-target-modules": (
        _set("personalization.lora", {"targetModules": []}),
        "spec.personalization.lora.targetModules",
    ),
    "warm-up-longer-than-training": (
        lambda manifest: manifest["spec"]["personalization"].update(steps=10, warmupSteps=11),
        "spec.personalization.warmupSteps",
    ),
    "no-such-schedule": (_set("personalization.schedule", "cosinus"), "spec.personalization.schedule"),
    "no-such-optimizer": (_set("personalization.optimizer", "sgd"), "spec.personalization.optimizer"),
    "average-that-never-moves": (_set("personalization.ema", {"decay": 1}), "spec.personalization.ema.decay"),
    "validation-without-subject": (
        _set("personalization.validation", {"prompts": {"inline": ["a dog"]}}),
        "spec.personalization.validation.prompts.inline",
    ),
    "adapter-that-is-averaged": (
        lambda manifest: manifest["spec"]["personalization"].update(adapter={"s3": {"prefix": "a"}}, ema={}),
        "spec.personalization.adapter",
    ),
    "adapter-that-is-validated": (
        lambda manifest: manifest["spec"]["personalization"].update(
            adapter={"s3": {"prefix": "a"}}, validation={"prompts": {"inline": ["a {subject}"]}}
        ),
        "spec.personalization.adapter",
    ),
    "adapter-of-two-sources": (
        _set("personalization.adapter", {"s3": {"prefix": "a"}, "pvc": {"claimName": "b"}}),
        "spec.personalization.adapter",
    ),
    "adapter-that-stops-early": (
        lambda manifest: manifest["spec"]["personalization"].update(adapter={"s3": {"prefix": "a"}}, earlyStopping={}),
        "spec.personalization.adapter",
    ),
    "stopping-without-patience": (
        _set("personalization.earlyStopping", {"patience": 0}),
        "spec.personalization.earlyStopping.patience",
    ),
    "adapter-with-timesteps": (
        lambda manifest: manifest["spec"]["personalization"].update(adapter={"s3": {"prefix": "a"}}, flowMatching={}),
        "spec.personalization.adapter",
    ),
    "min-snr-of-a-flow": (
        lambda manifest: (
            manifest["spec"]["model"].update(family="flux"),
            manifest["spec"]["personalization"].update(minSnrGamma=5),
        ),
        "spec.personalization.minSnrGamma",
    ),
    "recorded-in-fp32": (_set("model.cudaGraphs", True), "spec.model.cudaGraphs"),
    "recorded-and-compiled": (
        lambda manifest: manifest["spec"]["model"].update(cudaGraphs=True, dtype="bf16", compile=True),
        "spec.model.cudaGraphs",
    ),
    "recorded-on-a-cpu": (
        lambda manifest: (
            manifest["spec"]["model"].update(cudaGraphs=True, dtype="bf16"),
            manifest["spec"]["personalization"].update(gpusPerNode=1),
        ),
        "spec.model.cudaGraphs",
    ),
    "recorded-dropout": (_recorded("personalization", {"lora": {"dropout": 0.1}}), "spec.model.cudaGraphs"),
    "recorded-dora": (_recorded("personalization", {"lora": {"useDora": True}}), "spec.model.cudaGraphs"),
    "recorded-checkpointing": (_recorded("personalization", {"gradientCheckpointing": True}), "spec.model.cudaGraphs"),
    "recorded-checkpointing-2": (_recorded("reinforcement", {"gradientCheckpointing": True}), "spec.model.cudaGraphs"),
    "flow-matching-of-a-unet": (
        lambda manifest: (
            manifest["spec"]["model"].update(family="stable-diffusion-xl"),
            manifest["spec"]["personalization"].update(flowMatching={"weightingScheme": "mode"}),
        ),
        "spec.personalization.flowMatching",
    ),
    "no-such-weighting-scheme": (
        _set("personalization.flowMatching", {"weightingScheme": "logit-normal"}),
        "spec.personalization.flowMatching.weightingScheme",
    ),
    "timesteps-that-turn-back": (
        _set("personalization.flowMatching", {"modeScale": 2}),
        "spec.personalization.flowMatching.modeScale",
    ),
    "no-such-captions": (_set("personalization.captions", "auto"), "spec.personalization.captions"),
    "buckets-that-are-a-number": (_set("personalization.aspectBuckets", 64), "spec.personalization.aspectBuckets"),
    "no-batches-to-accumulate": (
        _set("personalization.gradientAccumulationSteps", 0),
        "spec.personalization.gradientAccumulationSteps",
    ),
    "no-rewards": (_set("reinforcement.rewards", []), "spec.reinforcement.rewards"),
    "too-many-timesteps": (
        _set("reinforcement.timestepsPerTrajectory", 8),
        "spec.reinforcement.timestepsPerTrajectory",
    ),
    "window-without-steps": (
        _set("reinforcement.timestepWindow", {"start": 3, "end": 3}),
        "spec.reinforcement.timestepWindow.end",
    ),
    "window-over-the-last-step": (
        _update(timestepWindow={"start": 0, "end": 8}),
        "spec.reinforcement.timestepWindow",
    ),
    "more-timesteps-than-the-window-has": (
        _update(timestepWindow={"start": 2, "end": 5}, timestepsPerTrajectory=4),
        "spec.reinforcement.timestepsPerTrajectory",
    ),
    "guard-without-floor": (
        _set("reinforcement.guards", {"identity": {"name": "subject-identity"}}),
        "spec.reinforcement.guards.identity",
    ),
    "guard-with-two-floors": (
        _set("reinforcement.guards", {"identity": {"name": "subject-identity", "floor": 0.4, "floorShare": 0.9}}),
        "spec.reinforcement.guards.identity",
    ),
    "guard-with-a-weight": (
        _set("reinforcement.guards", {"identity": {"name": "subject-identity", "floor": 0.4, "weight": 2}}),
        "spec.reinforcement.guards.identity.weight",
    ),
    "identity-of-pictures-without-identifier": (
        _update(guards={"identity": {"name": "subject-identity", "floor": 0.4}}, identifierFreeShare=1),
        "spec.reinforcement.guards",
    ),
    "floor-above-the-start": (
        _set("reinforcement.guards", {"diversityFloor": 1.5}),
        "spec.reinforcement.guards.diversityFloor",
    ),
    "diversity-of-single-pictures": (
        _update(
            guards={"diversityFloor": 0.5},
            earlyStopping={"prompts": {"inline": ["a {subject}"]}, "imagesPerPrompt": 1},
        ),
        "spec.reinforcement.guards",
    ),
    "weight-of-no-prompt": (
        _set("reinforcement.promptWeights", {"a {subject} on the moon": 2}),
        "spec.reinforcement.promptWeights",
    ),
    "weight-of-nothing": (
        _set("reinforcement.promptWeights", {"a small {subject}": 0}),
        "spec.reinforcement.promptWeights",
    ),
    "context-without-contexts": (
        _set("evaluation.prompts", {"inline": ["a {subject} {context}"]}),
        "spec.evaluation.prompts.contexts",
    ),
    "contexts-without-context": (
        _set("reinforcement.prompts", {"inline": ["a {subject}"], "contexts": ["on a beach"]}),
        "spec.reinforcement.prompts.contexts",
    ),
    "share-above-one": (_set("reinforcement.identifierFreeShare", 1.5), "spec.reinforcement.identifierFreeShare"),
    "metric-twice": (
        lambda manifest: manifest["spec"]["evaluation"]["metrics"].append(
            dict(manifest["spec"]["evaluation"]["metrics"][0])
        ),
        "spec.evaluation.metrics",
    ),
    "fewer-pictures-than-processes": (
        lambda manifest: manifest["spec"]["reinforcement"].update(
            nodes=2, gpusPerNode=8, promptsPerEpoch=1, imagesPerPrompt=8
        ),
        "spec.reinforcement.promptsPerEpoch",
    ),
    "headline-is-no-metric": (_set("evaluation.headline", "beauty"), "spec.evaluation.headline"),
    "endpoint-without-scheme": (_set("artifacts.endpoint", "minio:9000"), "spec.artifacts.endpoint"),
    "prefix-climbs-out": (_set("artifacts.prefix", "../other"), "spec.artifacts.prefix"),
    "least-nodes-above-nodes": (
        lambda manifest: manifest["spec"]["reinforcement"].update(nodes=2, minNodes=3),
        "spec.reinforcement.minNodes",
    ),
    "no-least-nodes": (_set("personalization.minNodes", 0), "spec.personalization.minNodes"),
    "impatient-watchdog": (_set("runPolicy", {"stallTimeoutSeconds": 29}), "spec.runPolicy.stallTimeoutSeconds"),
    "impatient-half-gang": (
        _set("runPolicy", {"placementTimeoutSeconds": 29}),
        "spec.runPolicy.placementTimeoutSeconds",
    ),
    "negative-stall-timeout": (_set("runPolicy", {"stallTimeoutSeconds": -1}), "spec.runPolicy.stallTimeoutSeconds"),
    "text-for-a-number": (_set("personalization.steps", "many"), "spec.personalization.steps"),
}


# What the rules of the reinforcement allow, all at once.
CURRICULUM: dict[str, Any] = {
    "prompts": {"inline": ["a {subject} {context}", "a small {subject}"], "contexts": ["on a beach", "in the snow"]},
    "promptWeights": {"a small {subject}": 0.5},
    "guidanceInTraining": False,
    "timestepWindow": {"start": 1, "end": 5, "intervalEpochs": 5},
    "timestepsPerTrajectory": 4,
    "guards": {
        "identity": {
            "name": "subject-identity",
            "model": {"s3": {"prefix": "models/miniature/fidelity"}},
            "floorShare": 0.8,
        },
        "diversityFloor": 0.5,
        "klCeiling": 1.0,
    },
}


def bad(name: str) -> tuple[Manifest, str]:
    """The named bad manifest and the path its error must name."""
    change, path = BAD[name]
    manifest = copy.deepcopy(demo())
    change(manifest)
    return manifest, path
