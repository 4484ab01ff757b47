"""The generated schema: structural, complete, and every field of it read by code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic.alias_generators import to_snake

from instructbooth.crd import crd
from instructbooth.generate import outputs
from instructbooth.spec.base import QUANTITY_PATTERN
from tests.unit.spec.examples import ROOT

SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
# Code that reads the spec. The models themselves do not count.
# Fields that code reads through a property of the model.
READ_THROUGH = {"description": "phrase"}
READERS = ("instructbooth/reconcile", "instructbooth/artifacts", "operator", "trainer")


def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}.*")


def _attribute(name: str) -> str:
    return name if name == "s3" else to_snake(name)


NODES = list(walk(SCHEMA["properties"]["spec"], "spec"))


def test_generated_files_are_current():
    for path, text in outputs(ROOT).items():
        assert path.read_text() == text, f"{path} is stale: run `make generate`"


@pytest.mark.parametrize(("path", "node"), NODES, ids=[path for path, _ in NODES])
def test_every_node_is_structural(path, node):
    """https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions"""
    assert ("type" in node) != ("x-kubernetes-int-or-string" in node)
    assert not node.keys() & {"$ref", "oneOf", "allOf", "not", "title", "$defs"}
    if node.get("type") == "object":
        holds = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & node.keys()
        assert len(holds) == 1, "an object either lists its fields, or says what its values are, or keeps all"


@pytest.mark.parametrize("field", ["requests", "limits"])
def test_a_quantity_keeps_the_bounds_of_both_its_types(field):
    quantity = dict(NODES)[f"spec.reinforcement.resources.{field}.*"]
    assert (quantity["minimum"], quantity["pattern"], quantity["maxLength"]) == (0, QUANTITY_PATTERN, 64)


@pytest.mark.parametrize("path", [p for p, _ in NODES if not p.endswith(("[]", "*")) and p != "spec"])
def test_every_field_is_described(path):
    assert dict(NODES)[path].get("description"), f"{path} has no description"


def test_every_field_of_the_spec_is_read_by_code():
    """A field no code reads is a defect: somebody sets it and nothing happens."""
    read = set()
    for folder in READERS:
        for file in (ROOT / folder).rglob("*.py"):
            read |= {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    read |= {field for field, through in READ_THROUGH.items() if through in read}
    fields = {_attribute(path.rsplit(".", 1)[-1].removesuffix("[]")): path for path, _ in NODES if "." in path}
    fields.pop("*", None)
    unread = {path for name, path in fields.items() if name not in read}
    assert not unread
