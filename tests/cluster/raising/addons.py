"""What every cluster of ours holds besides nodes: DNS service, a fake GPU node, storage."""

from __future__ import annotations

import json
import shutil
from typing import Any

from raising.nodes import kubectl
from raising.settings import CLUSTER_DIR, DNS_SERVICE_IP, GATEWAY, PERSISTENT_VOLUMES, VOLUMES
from raising.shell import step


def _persistent_volumes() -> list[dict[str, Any]]:
    volumes = []
    for number in range(PERSISTENT_VOLUMES):
        path = VOLUMES / f"pv-{number:02}"
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)  # pods run as users of their own
        volumes.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": path.name},
                "spec": {
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "standard",
                    "hostPath": {"path": str(path), "type": "Directory"},
                },
            }
        )
    return volumes


def recycle_volumes() -> int:
    """Empty the volumes whose claim was deleted and offer them again; returns how many."""
    held = json.loads(kubectl("get", "persistentvolumes", "-o", "json"))["items"]
    released = [item for item in held if item.get("status", {}).get("phase") == "Released"]
    for item in released:
        name = item["metadata"]["name"]
        for path in (VOLUMES / name).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        kubectl("patch", "persistentvolume", name, "--type=json", '-p=[{"op":"remove","path":"/spec/claimRef"}]')
    return len(released)


def apply() -> None:
    """Apply the manifests of manifests/ and the volumes; the same call again changes nothing."""
    with step("DNS service, fake GPU node, storage"):
        values = {"DNS_SERVICE_IP": DNS_SERVICE_IP, "GATEWAY": GATEWAY}
        texts = [path.read_text() for path in sorted((CLUSTER_DIR / "manifests").glob("*.yaml"))]
        texts += [json.dumps(volume) for volume in _persistent_volumes()]
        text = "\n---\n".join(texts)
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        apply_command = ("apply", "--server-side", "--force-conflicts", "--field-manager=instructbooth-cluster")
        kubectl(*apply_command, "-f", "-", stdin=text)
        recycle_volumes()
