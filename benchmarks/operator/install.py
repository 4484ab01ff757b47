"""What a controller comes with (CRDs, roles, webhooks), rendered from where its authors keep it, applied to a plane."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

from tests.integration.operator.plane import ROOT, ControlPlane, JsonObject, Refused
from tests.machine import binary

TOOLS = ROOT / "tests/cluster/tools"
_FIRST = {"Namespace": 0, "CustomResourceDefinition": 1, "ServiceAccount": 2}


def module_folder(tool: str, module: str) -> Path:
    """The folder of a pinned Go module in the module cache, downloaded if it is not there."""
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=TOOLS / tool, check=True, capture_output=True, text=True)
    return Path(json.loads(done.stdout)["Dir"])


def module_version(tool: str, module: str) -> str:
    """The version of a Go module that a tool's go.mod pins."""
    lines = (TOOLS / tool / "go.mod").read_text().splitlines()
    words = next(line.split() for line in lines if module in line.split() and "tool" not in line.split())
    return words[words.index(module) + 1]


def helm_objects(chart: Path, namespace: str, *flags: str) -> list[JsonObject]:
    """What a Helm chart installs."""
    command = [binary("helm"), "template", "instructbooth", str(chart), "--namespace", namespace, *flags]
    return _objects(command)


def kustomize_objects(*folders: Path, namespace: str | None = None) -> list[JsonObject]:
    """What kustomizations make together, in another namespace if one is given."""
    with tempfile.TemporaryDirectory() as scratch:
        resources = [os.path.relpath(folder.resolve(), Path(scratch).resolve()) for folder in folders]
        made = {"resources": resources, **({"namespace": namespace} if namespace else {})}
        (Path(scratch) / "kustomization.yaml").write_text(yaml.safe_dump(made))
        return _objects([binary("kubectl"), "kustomize", scratch])


def _objects(command: list[str]) -> list[JsonObject]:
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [obj for obj in yaml.safe_load_all(text) if obj]


def install(plane: ControlPlane, objects: list[JsonObject]) -> None:
    """Server-side apply, in an order in which each object finds what it needs."""
    for obj in sorted(objects, key=lambda obj: _FIRST.get(obj["kind"], 3)):
        plane.apply(f"{collection(plane, obj)}/{obj['metadata']['name']}", obj)
    for crd in (obj["spec"] for obj in objects if obj["kind"] == "CustomResourceDefinition"):
        # A controller that starts before its kinds are served ends.
        version = f"{crd['group']}/{crd['versions'][0]['name']}"
        collection(plane, {"apiVersion": version, "kind": crd["names"]["kind"], "metadata": {"namespace": "default"}})


def collection(plane: ControlPlane, obj: JsonObject) -> str:
    """The path of the collection that an object belongs to; waits until it is served."""
    group, _, version = obj["apiVersion"].rpartition("/")
    prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"

    def served() -> tuple[str, bool] | None:
        try:
            resources = plane.request("GET", prefix)["resources"]
        except Refused:  # a CRD that is not served yet
            return None
        names = {r["kind"]: (r["name"], r["namespaced"]) for r in reversed(resources) if "/" not in r["name"]}
        return names.get(obj["kind"])

    plural, namespaced = plane.wait(f"{obj['kind']} to be served", served)
    return f"{prefix}/namespaces/{obj['metadata']['namespace']}/{plural}" if namespaced else f"{prefix}/{plural}"
