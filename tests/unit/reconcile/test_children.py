"""Manifests: a golden child Job, and what the spec's fields become."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from instructbooth.contract import Stage
from instructbooth.reconcile.children import child_job, snapshot
from instructbooth.reconcile.names import base_name, child_name
from instructbooth.reconcile.quantity import parse_quantity
from instructbooth.spec.job import ResolvedJob
from tests.unit.reconcile.world import DEFAULTS, job_object

DATA = Path(__file__).parent / "data"


def resolved(name: str = "mascot", **spec: Any) -> ResolvedJob:
    return ResolvedJob.from_object(job_object(name, **spec))


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def everything() -> ResolvedJob:
    """A job that uses every field which the operator consumes."""
    hub = {"repo": "org/clip", "revision": "0" * 40, "tokenSecretRef": {"name": "hub", "key": "token"}}
    return resolved(
        subject={"images": {"configMap": {"name": "pictures"}}},
        model={"source": {"pvc": {"claimName": "models", "path": "sd15"}}, "cacheClaimName": "cache"},
        reinforcement={
            "nodes": 2,
            "gpusPerNode": 8,
            "resources": {"requests": {"cpu": 4}, "limits": {"memory": "64Gi"}},
            "prompts": {"configMap": {"name": "prompts", "key": "train.txt"}},
            "earlyStopping": {"prompts": {"configMap": {"name": "prompts", "key": "val.txt"}}},
            "rewards": [{"name": "clip-score", "model": {"hub": hub}}],
        },
        artifacts={"caBundle": {"name": "ca", "key": "ca.pem"}},
        runPolicy={"queueName": "team-a", "priorityClassName": "high"},
        podTemplate={
            "image": "example.org/trainer:1",
            "labels": {"team": "a"},
            "annotations": {"note": "b"},
            "nodeSelector": {"zone": "x"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
            ],
            "schedulerName": "gang-scheduler",
            "runtimeClassName": "nvidia",
            "imagePullSecrets": [{"name": "pull"}],
            "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "securityContext": {"fsGroup": 2000},
            "serviceAccountName": "trainer",
        },
    )


def test_stage_1_gets_the_volume_of_its_adapter_and_its_validation_prompts() -> None:
    adapter = resolved(personalization={"adapter": {"pvc": {"claimName": "loras"}}})
    prompts = {"configMap": {"name": "prompts", "key": "val.txt"}}
    validated = resolved(personalization={"validation": {"prompts": prompts}})

    def paths(job: ResolvedJob, stage: Stage) -> set[str]:
        pod = pod_of(child_job(job, stage, 1, {}, DEFAULTS))
        return {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}

    assert "/mnt/volumes/loras" in paths(adapter, Stage.PERSONALIZE)
    assert "/mnt/volumes/loras" not in paths(adapter, Stage.REINFORCE)
    assert "/mnt/prompts/validation" in paths(validated, Stage.PERSONALIZE)
    assert "/mnt/prompts/validation" not in paths(validated, Stage.REINFORCE)


def test_stage_2_gets_the_volume_of_its_guards_model() -> None:
    guard = {"name": "subject-identity", "model": {"pvc": {"claimName": "dino"}}, "floor": 0.5}
    job = resolved(reinforcement={"guards": {"identity": guard}})
    claims = {
        stage: [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]
        for stage in Stage
        for volumes in [pod_of(child_job(job, stage, 1, {}, DEFAULTS))["volumes"]]
    }
    assert "dino" in claims[Stage.REINFORCE]
    assert "dino" not in claims[Stage.PERSONALIZE] + claims[Stage.EVALUATE]


def test_what_the_platform_wants_for_all_pods_comes_beside_the_job_s_own() -> None:
    taint, own = {"key": "nvidia.com/gpu", "operator": "Exists"}, {"key": "mine", "operator": "Exists"}
    platform = replace(
        DEFAULTS,
        image_pull_secrets=({"name": "mirror"},),
        tolerations=(taint,),
        node_selector={"pool": "gpu", "zone": "a"},
    )
    plain = pod_of(child_job(resolved(), Stage.PERSONALIZE, 1, {}, platform))
    assert plain["imagePullSecrets"] == [{"name": "mirror"}]
    assert (plain["tolerations"], plain["nodeSelector"]) == ([taint], {"pool": "gpu", "zone": "a"})
    template = {"imagePullSecrets": [{"name": "mine"}], "tolerations": [own], "nodeSelector": {"zone": "b"}}
    both = pod_of(child_job(resolved(podTemplate=template), Stage.PERSONALIZE, 1, {}, platform))
    assert both["imagePullSecrets"] == [{"name": "mine"}, {"name": "mirror"}]
    assert (both["tolerations"], both["nodeSelector"]) == ([own, taint], {"pool": "gpu", "zone": "b"})
    none = pod_of(child_job(resolved(), Stage.PERSONALIZE, 1, {}, DEFAULTS))
    assert not {"imagePullSecrets", "tolerations", "nodeSelector"} & none.keys()


@pytest.mark.parametrize(("cache", "writable"), [("models", True), ("other", False), (None, False)])
def test_a_claim_that_is_only_read_is_read_only_on_the_node_too(cache: str | None, writable: bool) -> None:
    """Else the kubelet gives its files to our group; of a claim that is the cache as well it may do so."""
    model = {"source": {"pvc": {"claimName": "models"}}, **({"cacheClaimName": cache} if cache else {})}
    pod = pod_of(child_job(resolved(model=model), Stage.PERSONALIZE, 1, {}, DEFAULTS))
    source = next(v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "ib-claim-0")
    assert source == {"claimName": "models", **({} if writable else {"readOnly": True})}
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "ib-claim-0")
    assert mount["readOnly"] is True


@pytest.mark.parametrize(
    ("golden", "job", "stage", "attempt"),
    [
        ("plain.yaml", resolved(), Stage.REINFORCE, 1),
        ("everything.yaml", everything(), Stage.REINFORCE, 3),
    ],
)
def test_golden_child_jobs(golden: str, job: ResolvedJob, stage: Stage, attempt: int) -> None:
    manifest = child_job(job, stage, attempt, {Stage.PERSONALIZE: 2}, DEFAULTS)
    path = DATA / golden
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(manifest, sort_keys=True))
    assert manifest == yaml.safe_load(path.read_text()), f"UPDATE_GOLDEN=1 rewrites {path.name}"


def test_the_snapshot_is_read_back_by_the_same_models() -> None:
    job = everything()
    manifest = snapshot(job)
    assert manifest["immutable"] is True
    assert manifest["metadata"]["name"] == "mascot-spec"
    assert ResolvedJob.model_validate_json(manifest["data"]["job.json"]) == job


def test_children_are_owned() -> None:
    for manifest in (snapshot(resolved()), child_job(resolved(), Stage.EVALUATE, 1, {}, DEFAULTS)):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("InstructBoothJob", "mascot", "0a1b2c3d")
        assert owner["controller"]


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("name", ["a", "mascot", "x" * 42, "x" * 43, "9lives", "team.a.mascot", "a." + "b" * 251])
def test_names_fit_a_dns_label(name: str, stage: Stage) -> None:
    pod = f"{child_name(name, stage, 1101)}-255"
    assert len(pod) <= 63
    assert pod[0].isalpha()
    assert "." not in base_name(name)
    assert "--" not in pod.replace("xn--", "")


def test_short_names_are_kept_and_long_ones_stay_apart() -> None:
    assert base_name("mascot-2") == "mascot-2"
    cut = {base_name(name) for name in ("x" * 60 + "a", "x" * 60 + "b", "a.b", "a-b")}
    assert len(cut) == 4


def test_one_pod_needs_no_spreading() -> None:
    pod = pod_of(child_job(resolved(), Stage.PERSONALIZE, 1, {}, DEFAULTS))
    assert "affinity" not in pod
    assert "topologySpreadConstraints" not in pod


def test_each_stage_mounts_only_the_prompts_it_reads() -> None:
    job = everything()
    mounted = {
        stage: [
            mount["mountPath"]
            for mount in pod_of(child_job(job, stage, 1, {}, DEFAULTS))["containers"][0]["volumeMounts"]
            if mount["mountPath"].startswith("/mnt/prompts")
        ]
        for stage in Stage
    }
    assert mounted[Stage.PERSONALIZE] == mounted[Stage.EVALUATE] == []
    assert mounted[Stage.REINFORCE] == ["/mnt/prompts/reinforcement", "/mnt/prompts/validation"]


@pytest.mark.parametrize(
    ("resources", "size"),
    [
        ({}, 2**30),
        ({"limits": {"memory": "4Gi"}}, 2**30),
        ({"requests": {"memory": "8Gi"}}, 2**31),
        ({"limits": {"memory": "1M"}}, 2**20),
    ],
)
def test_shared_memory_lies_within_the_limits(resources: dict[str, Any], size: int) -> None:
    job = resolved(evaluation={"resources": resources})
    volumes = pod_of(child_job(job, Stage.EVALUATE, 1, {}, DEFAULTS))["volumes"]
    shm = next(volume for volume in volumes if volume["name"] == "ib-shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": str(size)}


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), (2, 2), ("2Gi", 2**31), ("1k", 1000), ("1e3", 1000), ("5E", 5e18), (".5", 0.5)]
)
def test_quantities(text: str | int, value: float) -> None:
    assert float(parse_quantity(text)) == value


@pytest.mark.parametrize("text", ["", "Gi", "2Qi", "two", "1ki"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        parse_quantity(text)
