"""What the operator asks of the API server, told from the bytes: verb, resource, name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from instructbooth.reconcile.observed import COMPLETION_INDEX

READS = ("get", "list", "watch")
_VERBS = {"POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Call:
    """A request, by what does not differ between two runs of the same job.

    Attributes:
        verb: get, list, watch, create, apply, patch, replace, delete.
        resource: plural, with the subresource: `instructboothjobs/status`.
        name: of the object; of an Event its reason, because its own name holds a hash; empty for a collection, but for
            the pods of rank 0, which are listed at any time, to find out where they are.
    """

    verb: str
    resource: str
    name: str = ""

    @property
    def writes(self) -> bool:
        """Whether it changes the cluster."""
        return self.verb not in READS

    def __str__(self) -> str:
        return " ".join(filter(None, (self.verb, self.resource, self.name)))


def parse(method: str, path: str, query: Mapping[str, str], content_type: str, body: bytes) -> Call:
    """The call of an HTTP request to the Kubernetes API."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    parts = parts[2:] if parts[0] == "api" else parts[3:]  # /api/v1/... or /apis/<group>/<version>/...
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    plural, name, subresource = (*parts, "", "", "")[:3]
    resource = "/".join(filter(None, (plural, subresource)))
    if method == "GET":
        if query.get("watch") in ("true", "1"):
            return Call("watch", resource)
        whereabouts = plural == "pods" and f"{COMPLETION_INDEX}=0" in query.get("labelSelector", "")
        return Call("get" if name else "list", resource, "rank 0" if whereabouts else name)
    if method == "POST":
        made = json.loads(body or b"{}")
        name = made.get("reason", "") if plural == "events" else made.get("metadata", {}).get("name", "")
    verb = "apply" if "apply-patch" in content_type else _VERBS[method]
    return Call(verb, resource, name)
