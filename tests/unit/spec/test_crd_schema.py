"""The generated schema: structural, current and described. That every field is read: test_fields_are_read.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from instructbooth.crd import crd
from instructbooth.generate import outputs
from instructbooth.spec.base import QUANTITY_PATTERN
from tests.releases.changes import ANYTHING
from tests.unit.spec.examples import ROOT

SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}.*")


NODES = list(walk(SCHEMA["properties"]["spec"], "spec"))


def test_generated_files_are_current():
    for path, text in outputs(ROOT).items():
        assert path.read_text() == text, f"{path} is stale: run `make generate`"


@pytest.mark.parametrize(("path", "node"), NODES, ids=[path for path, _ in NODES])
def test_every_node_is_structural(path, node):
    """https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions"""
    assert ("type" in node) != ("x-kubernetes-int-or-string" in node) or node == ANYTHING
    assert not node.keys() & {"$ref", "oneOf", "allOf", "not", "title", "$defs"}
    if node.get("type") == "object":
        holds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & node.keys()
        assert len(holds) == 1, "an object either lists its fields, or says what its values are, or keeps all"
        # CEL takes two such objects for equal whose fields have nothing in common: the spec would not be frozen.
        assert "x-kubernetes-preserve-unknown-fields" not in node


@pytest.mark.parametrize("field", ["requests", "limits"])
def test_a_quantity_keeps_the_bounds_of_both_its_types(field):
    quantity = dict(NODES)[f"spec.reinforcement.resources.{field}.*"]
    assert (quantity["minimum"], quantity["pattern"], quantity["maxLength"]) == (0, QUANTITY_PATTERN, 64)


@pytest.mark.parametrize("path", [p for p, _ in NODES if not p.endswith(("[]", "*")) and p != "spec"])
def test_every_field_is_described(path):
    assert dict(NODES)[path].get("description"), f"{path} has no description"
