"""Kubernetes' own JSON schemas for kubeconform, made offline from the sources that `make cluster` builds from.

kubeconform fetches schemas from the internet by default. The same information lies in `k8s.io/kubernetes` as
api/openapi-spec/swagger.json, and in our CRD. Objects are strict here: a field nobody defines is an error, as it is at
`kubectl apply`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
#: What to hand to kubeconform's -schema-location, relative to the folder that `write` filled.
LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
Schema = dict[str, Any]

# Kinds of JSON that swagger cannot say: name of the definition -> schema.
_SPECIAL: dict[str, Schema] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["number", "string"]},
}


def swagger() -> Schema:
    """The API server's OpenAPI v2 definitions. Raises CalledProcessError if the Go module cannot be had."""
    command = ["go", "mod", "download", "-json", "k8s.io/kubernetes"]
    folder = ROOT / "tests" / "cluster" / "tools" / "kubernetes"
    module = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)
    text = (Path(module["Dir"]) / "api" / "openapi-spec" / "swagger.json").read_text()
    definitions: Schema = json.loads(text)["definitions"]
    return definitions


def write(folder: Path, crds: Path) -> None:
    """Fill `folder` with one strict schema per kind of Kubernetes and of the definitions in `crds`."""
    definitions = {name: _SPECIAL.get(name) or _strict(schema) for name, schema in swagger().items()}
    for name, schema in definitions.items():
        for gvk in schema.get("x-kubernetes-group-version-kind", ()):
            _write(folder, gvk["group"], gvk["version"], gvk["kind"], _standalone({"$ref": _ref(name)}, definitions))
    for path in crds.glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())["spec"]
        for version in crd["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"$ref": _ref(META)}
            _write(folder, crd["group"], version["name"], crd["names"]["kind"], _standalone(schema, definitions))


def _write(folder: Path, group: str, version: str, kind: str, schema: Schema) -> None:
    suffix = "-".join(part for part in (kind, group.partition(".")[0], version) if part)
    (folder / f"{suffix.lower()}.json").write_text(json.dumps(schema))


def _ref(name: str) -> str:
    return f"#/definitions/{name}"


def _standalone(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema with every definition it reaches."""
    reached: dict[str, Schema] = {}
    queue = list(_references(schema))
    while queue:
        name = queue.pop()
        if name not in reached:
            reached[name] = definitions[name]
            queue.extend(_references(definitions[name]))
    return {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": [schema], "definitions": reached}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix(_ref(""))
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


def _strict(schema: Schema) -> Schema:
    """The schema with unknown fields refused and OpenAPI's dialect put into JSON Schema's."""
    out = dict(schema)
    if "properties" in out:
        out["properties"] = {name: _strict(child) for name, child in out["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(out.get(keyword), dict):
            out[keyword] = _strict(out[keyword])
    if "properties" in out and "x-kubernetes-preserve-unknown-fields" not in out:
        out.setdefault("additionalProperties", False)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if out.get(exclusive) is True:
            out[exclusive] = out.pop(bound)
    return out
