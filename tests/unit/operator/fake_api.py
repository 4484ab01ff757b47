"""An API server of a few dicts: names, resourceVersions, preconditions, and errors on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from typing import Any

from instructbooth.contract import KIND
from instructbooth_operator.errors import ApiError
from instructbooth_operator.resources import IBJ, JOBS, Resource

JsonObject = dict[str, Any]
TIME = "2026-11-23T09:00:00Z"


class FakeApi:
    """Implements what the operator uses of `Api`. `trouble` may raise before any request is served."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], JsonObject] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.trouble: Callable[[str, str], None] = lambda verb, plural: None
        self._version = 100

    def put(self, resource: Resource, obj: JsonObject) -> JsonObject:
        """Store an object under the next resourceVersion; a copy of what is stored."""
        self._version += 1
        obj["metadata"] |= {"resourceVersion": str(self._version)}
        obj["metadata"].setdefault("creationTimestamp", TIME)
        obj["metadata"].setdefault("uid", f"uid-{self._version}")
        obj.setdefault("kind", {IBJ.plural: KIND, JOBS.plural: "Job"}.get(resource.plural))
        self.objects[resource.plural, obj["metadata"]["name"]] = deepcopy(obj)
        return deepcopy(obj)

    def names(self, resource: Resource) -> list[str]:
        return [name for plural, name in self.objects if plural == resource.plural]

    def count(self, verb: str, plural: str) -> int:
        return sum(request[:2] == (verb, plural) for request in self.requests)

    async def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        return self._find("get", resource, name)

    async def list(self, resource: Resource, namespace: str | None, **query: str) -> AsyncIterator[JsonObject]:
        self._serve("list", resource, "")
        items = [deepcopy(obj) for (plural, _), obj in self.objects.items() if plural == resource.plural]
        yield {"metadata": {}, "items": items}

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        self._serve("create", resource, manifest["metadata"]["name"])
        if (resource.plural, manifest["metadata"]["name"]) in self.objects:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self.put(resource, deepcopy(manifest))

    async def patch(
        self, resource: Resource, namespace: str, name: str, patch: JsonObject, subresource: str = ""
    ) -> JsonObject:
        obj = self._find("patch", resource, name)
        asked = patch.get("metadata", {}).get("resourceVersion")
        if asked is not None and asked != obj["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody was first")
        _merge(obj, {key: value for key, value in patch.items() if key != "metadata"})
        return self.put(resource, obj)

    async def delete(self, resource: Resource, namespace: str, name: str, options: JsonObject) -> JsonObject:
        self._find("delete", resource, name)
        return self.objects.pop((resource.plural, name)) | {"kind": "Status"}

    def _find(self, verb: str, resource: Resource, name: str) -> JsonObject:
        self._serve(verb, resource, name)
        if (resource.plural, name) not in self.objects:
            raise ApiError(404, "NotFound", f"no {name}")
        return deepcopy(self.objects[resource.plural, name])

    def _serve(self, verb: str, resource: Resource, name: str) -> None:
        self.requests.append((verb, resource.plural, name))
        self.trouble(verb, resource.plural)


def _merge(target: JsonObject, patch: JsonObject) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
