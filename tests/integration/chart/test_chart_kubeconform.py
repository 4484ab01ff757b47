"""What the chart renders, the examples and the demo's manifests against Kubernetes' schemas: unknown fields refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.chart import schemas
from tests.integration.chart.helm import ROOT, VARIANTS, template
from tests.machine import binary

# The Prometheus Operator's kinds: their definitions are not part of Kubernetes.
FOREIGN = "ServiceMonitor,PodMonitor,PrometheusRule"


@pytest.fixture(scope="module")
def conform(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("schemas")
    schemas.write(folder, ROOT / "crds")

    def run(manifests: str) -> subprocess.CompletedProcess[str]:
        location = f"{folder}/{schemas.LOCATION}"
        command = [binary("kubeconform"), "-strict", "-summary", "-skip", FOREIGN, "-schema-location", location, "-"]
        return subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("name", VARIANTS)
def test_chart_conforms(conform, name):
    done = conform(template(*VARIANTS[name]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "examples").rglob("*.yaml")), ROOT / "tests/cluster/prometheus/prometheus.yaml"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_manifest_conforms(conform, path):
    done = conform(path.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


@pytest.mark.parametrize(
    ("kind", "break_it", "complaint"),
    [
        ("Deployment", lambda o: o["spec"]["template"]["spec"].update(containrs=[]), "containrs"),
        ("Deployment", lambda o: o["spec"].update(replicas="two"), "/spec/replicas"),
        ("ClusterRole", lambda o: o["rules"][0].update(verb=["get"]), "verb"),
        ("CustomResourceDefinition", lambda o: o["spec"].update(scop="Namespaced"), "scop"),
    ],
)
def test_what_is_wrong_is_found(conform, kind, break_it, complaint):
    obj = next(o for o in yaml.safe_load_all(template()) if o and o["kind"] == kind)
    break_it(obj)
    done = conform(yaml.safe_dump(obj))
    assert done.returncode != 0
    assert complaint in done.stdout


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda job: job["spec"].update(modle={}), "modle"),
        (lambda job: job["spec"]["reinforcement"].update(epochs=-1), "/spec/reinforcement/epochs"),
        (lambda job: job["spec"].pop("artifacts"), "artifacts"),
        (lambda job: job["metadata"].update(lables={}), "lables"),
    ],
)
def test_a_wrong_job_is_found(conform, break_it, complaint):
    job = yaml.safe_load((ROOT / "examples/demo/job.yaml").read_text())
    break_it(job)
    done = conform(yaml.safe_dump(job))
    assert done.returncode != 0
    assert complaint in done.stdout
