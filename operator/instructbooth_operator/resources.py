"""Paths of the few resources that the operator touches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from instructbooth.contract import GROUP, PLURAL, VERSION


@dataclass(frozen=True)
class Resource:
    """A resource of the Kubernetes API."""

    prefix: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """URL path of a collection or an object; no namespace means all of them."""
        parts = [self.prefix]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        return "/".join(filter(None, [*parts, name, subresource]))


IBJ = Resource(f"/apis/{GROUP}/{VERSION}", PLURAL)
JOBS = Resource("/apis/batch/v1", "jobs")
PODS = Resource("/api/v1", "pods")
EVENTS = Resource("/api/v1", "events")
CONFIG_MAPS = Resource("/api/v1", "configmaps")
WORKLOADS = Resource("/apis/kueue.x-k8s.io/v1beta1", "workloads")
LEASES = Resource("/apis/coordination.k8s.io/v1", "leases")

_BY_KIND = {"Job": JOBS, "ConfigMap": CONFIG_MAPS}


def resource_of(manifest: dict[str, Any]) -> Resource:
    """The resource of a child's manifest."""
    return _BY_KIND[manifest["kind"]]
