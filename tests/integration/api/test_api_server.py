"""The CRD against the real API server: accepted, pruned never silently, and bad objects refused at their field."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import yaml

from instructbooth.spec.job import InstructBoothJobSpec
from tests.e2e import lab
from tests.unit.spec.examples import BAD, CURRICULUM, bad, demo

pytestmark = pytest.mark.cluster
NAMESPACE = "api-test"


@pytest.fixture(scope="module", autouse=True)
def api() -> Iterator[None]:
    """The CRD, and a namespace in which no operator's work is waited for."""
    lab.connect()
    lab.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/")
    lab.kubectl("wait", "--for=condition=Established", "crd/instructboothjobs.instructbooth.io", "--timeout=30s")
    lab.kubectl("create", "namespace", NAMESPACE, check=False)
    yield
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")


def kubectl_apply(manifest: lab.Object, *flags: str) -> subprocess.CompletedProcess[str]:
    """`kubectl apply` as users have it; its error is what they read."""
    command = ["kubectl", "apply", "-n", NAMESPACE, "-f", "-", *flags]
    return subprocess.run(command, input=yaml.safe_dump(manifest), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", BAD)
def test_bad_manifest_is_refused_at_its_field(name):
    manifest, path = bad(name)
    done = kubectl_apply(manifest, "--dry-run=server")
    assert done.returncode != 0
    if name.startswith("unknown"):
        assert f'unknown field "{path}"' in done.stderr
    elif name == "images-missing":
        assert "spec.subject.images: Required value" in done.stderr
    else:
        assert path in done.stderr or path in done.stderr.replace("[0]", "")
    print(done.stderr)


def test_what_is_stored_is_what_the_models_say():
    """Defaults of the API server and of pydantic are the same, and nothing is pruned."""
    manifest = demo()
    manifest["spec"]["runPolicy"] = {"suspend": True}
    manifest["spec"]["reinforcement"] |= CURRICULUM
    manifest["spec"]["podTemplate"] = {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    done = kubectl_apply(manifest)
    assert done.returncode == 0, done.stderr
    stored = lab.job("demo", namespace=NAMESPACE)["spec"]
    assert stored == InstructBoothJobSpec.model_validate(manifest["spec"]).to_wire()


def test_spec_is_frozen_but_for_the_run_policy():
    manifest = demo()
    manifest["metadata"]["name"] = "frozen"
    manifest["spec"]["runPolicy"] = {"suspend": True}
    assert kubectl_apply(manifest).returncode == 0
    manifest["spec"]["runPolicy"]["backoffLimit"] = 7
    assert kubectl_apply(manifest).returncode == 0
    manifest["spec"]["runPolicy"]["queueName"] = "team"
    done = kubectl_apply(manifest)
    assert done.returncode != 0
    assert "spec.runPolicy.queueName" in done.stderr
    del manifest["spec"]["runPolicy"]["queueName"]
    manifest["spec"]["personalization"]["steps"] = 5
    done = kubectl_apply(manifest)
    assert done.returncode != 0
    assert "spec.personalization" in done.stderr
    assert "cannot be changed after creation" in done.stderr


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (
            "env",
            [{"name": "A", "value": "x"}],
            [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        ),
        ("volumes", [{"name": "v", "emptyDir": {}}], [{"name": "v", "configMap": {"name": "c"}}]),
        ("securityContext", {"runAsUser": 1000}, {"runAsGroup": 1000}),
        ("nodeSelector", {"a": "b"}, {"c": "d"}),
    ],
)
def test_what_is_free_in_form_is_frozen_too(path, before, after):
    """CEL takes objects of unknown fields for equal that have as many fields and none in common."""
    manifest = demo()
    manifest["metadata"]["name"] = f"free-{path.lower()}"
    manifest["spec"] |= {"runPolicy": {"suspend": True}, "podTemplate": {path: before}}
    assert kubectl_apply(manifest).returncode == 0
    manifest["spec"]["podTemplate"][path] = after
    done = kubectl_apply(manifest)
    assert done.returncode != 0
    assert "spec.podTemplate cannot be changed after creation" in done.stderr


def test_columns_of_kubectl_get():
    header = lab.kubectl("get", "ibj", "-n", NAMESPACE).splitlines()[0].split()
    assert header == ["NAME", "PHASE", "STAGE", "PROGRESS", "REWARD", "AGE"]


def test_a_name_that_fits_no_label_is_refused():
    manifest = demo()
    manifest["metadata"]["name"] = "a" * 64
    done = kubectl_apply(manifest, "--dry-run=server")
    assert done.returncode != 0
    assert "metadata.name" in done.stderr
