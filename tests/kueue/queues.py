"""Kueue as its authors ship it, out of the pinned Go module, in the cluster that `make cluster` raised; and queues."""

from __future__ import annotations

import time
from typing import Any

import yaml

from benchmarks.operator.install import kustomize_objects, module_folder
from tests.e2e import lab

MODULE = "sigs.k8s.io/kueue"
SYSTEM = "kueue-system"
IMAGE = "docker.io/instructbooth/kueue:dev"
QUEUE, URGENT = "team", "urgent"
CPU = "200m"
GROUP = "kueue.x-k8s.io/v1beta1"


def objects() -> list[lab.Object]:
    """What `config/default` installs, with the image made from the same module."""
    found = kustomize_objects(module_folder("kueue", MODULE) / "config/default")
    # An aggregated API (who is before whom), which an API server outside the pod network need not reach; while it does
    # not, no namespace of the cluster can be deleted.
    found = [obj for obj in found if obj["kind"] != "APIService"]
    for deployment in (obj for obj in found if obj["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        pod["securityContext"] |= {"runAsUser": 65532}  # an image of one binary has no table of users
        container = pod["containers"][0]
        container |= {"image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/kueue"]}
        container["resources"]["requests"]["cpu"] = "50m"
    return found


def install() -> None:
    """Install Kueue and wait until its webhooks answer."""
    _apply(objects())
    lab.kubectl("rollout", "status", "-n", SYSTEM, "deployment/kueue-controller-manager", "--timeout=180s")
    probe: lab.Object = {"apiVersion": GROUP, "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    end = time.monotonic() + 120
    while True:  # it makes its certificates first
        try:
            lab.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(probe))
        except lab.LabError:
            if time.monotonic() > end:
                raise
            time.sleep(2)
        else:
            return


def uninstall() -> None:
    """Take Kueue away: its kinds first, while it still lets go of what it holds."""
    found = objects()
    definitions = [obj for obj in found if obj["kind"] == "CustomResourceDefinition"]
    _delete(definitions)
    _delete([obj for obj in found if obj not in definitions])


def team_queue(namespace: str) -> list[lab.Object]:
    """A queue in the namespace with room for one gang, whose higher priorities make room for themselves."""
    quota = [{"name": "cpu", "nominalQuota": CPU}, {"name": "memory", "nominalQuota": "100Gi"}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": namespace, "resources": quota}]}
    return [
        _object("ResourceFlavor", namespace),
        _object("WorkloadPriorityClass", URGENT, value=1000),
        _object(
            "ClusterQueue",
            namespace,
            spec={
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [group],
            },
        ),
        _object("LocalQueue", QUEUE, namespace, spec={"clusterQueue": namespace}),
    ]


def make(queue: list[lab.Object]) -> None:
    """Create the objects of a queue."""
    _apply(queue)


def remove(queue: list[lab.Object]) -> None:
    """Delete them again, the queues before what they are made of."""
    _delete(queue[::-1])


def _object(kind: str, name: str, namespace: str = "", **fields: Any) -> lab.Object:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": GROUP, "kind": kind, "metadata": meta, **fields}


def _apply(found: list[lab.Object]) -> None:
    first = {"Namespace": 0, "CustomResourceDefinition": 1}
    ordered = sorted(found, key=lambda obj: first.get(obj["kind"], 2))
    lab.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(ordered))


def _delete(found: list[lab.Object]) -> None:
    lab.kubectl("delete", "--ignore-not-found", "--timeout=120s", "-f", "-", stdin=yaml.safe_dump_all(found))
