"""The definition as it is now, against those that were released: what exists in clusters stays valid and the same.

A change that could harm an object, a client or a stored status is red until tests/releases/allowed.yaml says why it
does not, or the change is made otherwise: docs/operations.md, "Changing the definition".
"""

from __future__ import annotations

from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

import pytest

from instructbooth.crd import crd
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import InstructBoothJobStatus
from tests.releases.changes import incompatible
from tests.releases.releases import Release, allowed, releases

RELEASES = releases()
IDS = [release.name for release in RELEASES]
Schema = dict[str, Any]


def matches(line: str, pattern: str) -> bool:
    return fnmatchcase(line, pattern.replace("[", "[[]"))


@pytest.mark.parametrize("release", RELEASES, ids=IDS)
def test_no_change_harms_what_exists(release: Release) -> None:
    patterns = allowed()
    found = [
        line for line in incompatible(release.definition, crd()) if not any(matches(line, each) for each in patterns)
    ]
    assert found == [], f"since {release.name}; make the change otherwise, or say in allowed.yaml why it harms nothing"


def test_no_exception_outlives_its_change() -> None:
    lines = [line for release in RELEASES for line in incompatible(release.definition, crd())]
    assert [pattern for pattern in allowed() if not any(matches(line, pattern) for line in lines)] == []


@pytest.mark.parametrize("release", RELEASES, ids=IDS)
def test_old_jobs_and_their_statuses_are_read(release: Release) -> None:
    for job in release.jobs:
        spec = deepcopy(job)
        spec["metadata"].setdefault("uid", "0a1b2c3d")
        ResolvedJob.from_object(spec)
        status = InstructBoothJobStatus.from_object(job).to_wire()
        for key, value in job.get("status", {}).items():
            if key != "stages":
                assert status[key] == value, f"{job['metadata']['name']}: {key}"
        for old, new in zip(job.get("status", {}).get("stages", ()), status["stages"], strict=True):
            assert old.items() <= (new | {"failure": old.get("failure")}).items()


NODE: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 8, "pattern": "^[a-z]*$", "enum": ["a", "b"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9, "default": 1},
        "items": {"type": "array", "maxItems": 4, "items": {"type": "string", "maxLength": 4}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "part": {"type": "object", "properties": {"on": {"type": "boolean"}}},
    },
    "x-kubernetes-validations": [{"rule": "self.count < 9", "message": "small"}],
}


def definition(spec: Schema) -> Schema:
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
    version["schema"] = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    names = {"kind": "Thing", "plural": "things"}
    return {"spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]}}


def changed(path: str, value: Any) -> Schema:
    """NODE with another value at a path; None takes it away."""
    node = deepcopy(NODE)
    *parents, last = path.split("/")
    place = node
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    if value is None:
        del place[last]
    return node


BROKEN = [
    ("properties/count", None, "v1.spec.count: removed"),
    ("properties/part/properties/on", None, "v1.spec.part.on: removed"),
    ("required", ["name", "count"], "v1.spec.count: required"),
    ("properties/count/type", "number", "v1.spec.count: type integer became number"),
    ("properties/count/minimum", 1, "v1.spec.count: minimum 0 became 1"),
    ("properties/count/maximum", 8, "v1.spec.count: maximum 9 became 8"),
    ("properties/count/exclusiveMinimum", True, "v1.spec.count: minimum 0 is excluded now"),
    ("properties/count/default", 2, "v1.spec.count: default 1 became 2"),
    ("properties/count/default", None, "v1.spec.count: default 1 became None"),
    ("properties/name/default", "a", "v1.spec.name: default None became a"),
    ("properties/name/maxLength", 7, "v1.spec.name: maxLength 8 became 7"),
    ("properties/name/minLength", 1, "v1.spec.name: minLength None became 1"),
    ("properties/name/pattern", "^[a-y]*$", "v1.spec.name: pattern ^[a-z]*$ became ^[a-y]*$"),
    ("properties/name/format", "uri", "v1.spec.name: format None became uri"),
    ("properties/name/enum", ["a"], "v1.spec.name: enum ['a', 'b'] became ['a']"),
    ("properties/count/enum", [1, 2], "v1.spec.count: enum None became [1, 2]"),
    ("properties/items/maxItems", 3, "v1.spec.items: maxItems 4 became 3"),
    ("properties/items/items/maxLength", 3, "v1.spec.items[]: maxLength 4 became 3"),
    ("properties/map/additionalProperties/minimum", 0, "v1.spec.map.*: minimum None became 0"),
    ("properties/map/additionalProperties", None, "v1.spec.map: additionalProperties came or went"),
    (
        "properties/free/x-kubernetes-preserve-unknown-fields",
        None,
        "v1.spec.free: fields that it does not list are dropped",
    ),
    ("properties/new", {"type": "integer", "default": 3}, "v1.spec.new: new, and 3 for objects that exist"),
    (
        "properties/new",
        {"type": "object", "default": {"deep": 3}, "properties": {"deep": {"type": "integer", "default": 3}}},
        "v1.spec.new.deep: new, and 3 for objects that exist",
    ),
    ("x-kubernetes-validations", [{"rule": "self.count < 5", "message": "smaller"}], "v1.spec: new rule: smaller"),
]  # fmt: skip

HARMLESS = [
    ("required", []),
    ("properties/count/minimum", -1),
    ("properties/count/maximum", None),
    ("properties/name/maxLength", None),
    ("properties/name/pattern", None),
    ("properties/name/enum", ["a", "b", "c"]),
    ("properties/name/enum", None),
    ("properties/name/description", "what people call it"),
    ("properties/items/maxItems", 5),
    ("properties/new", {"type": "integer"}),
    ("properties/new", {"type": "boolean", "default": False}),
    ("properties/new", {"type": "object", "properties": {"deep": {"type": "integer", "default": 3}}}),
    ("x-kubernetes-validations", []),
]


@pytest.mark.parametrize(("path", "value", "line"), BROKEN)
def test_what_could_harm_is_found(path: str, value: Any, line: str) -> None:
    found = list(incompatible(definition(NODE), definition(changed(path, value))))
    assert found == [line], "one change, one line"


@pytest.mark.parametrize(("path", "value"), HARMLESS)
def test_what_cannot_harm_is_not(path: str, value: Any) -> None:
    assert list(incompatible(definition(NODE), definition(changed(path, value)))) == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("group", "example.com", "group changed"),
        ("scope", "Cluster", "scope changed"),
        ("names/kind", "Item", "names.kind changed"),
        ("versions", [], "v1: no longer served"),
        ("versions/0/served", False, "v1: no longer served"),
        ("versions/0/subresources", {}, "v1: a subresource is gone"),
    ],
)
def test_a_definition_that_serves_less_is_found(path: str, value: Any, line: str) -> None:
    new = definition(NODE)
    *parents, last = path.split("/")
    place: Any = new["spec"]
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    assert list(incompatible(definition(NODE), new)) == [line]
