"""Tells Prometheus which pods to scrape: those with a container port named `metrics`.

Debian builds Prometheus without its Kubernetes discovery; this gives it the same answer over `http_sd_configs`
(https://prometheus.io/docs/prometheus/latest/http_sd/). Runs beside Prometheus with the pod's service account.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PODS = "https://kubernetes.default.svc.cluster.local/api/v1/pods?fieldSelector=status.phase%3DRunning&resourceVersion=0"


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One target group for each `metrics` port of each pod; pods of nodes on paper (KWOK) answer nobody."""
    found = []
    for pod in pods:
        address = pod.get("status", {}).get("podIP")
        if not address or pod["spec"].get("nodeName", "").startswith("gpu-"):
            continue
        labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                if port.get("name") == "metrics":
                    found.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return found


def list_pods() -> list[dict[str, Any]]:
    """All running pods, from the API server's cache."""
    token = (ACCOUNT / "token").read_text()
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(PODS, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        items: list[dict[str, Any]] = json.load(answer)["items"]
        return items


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with the targets; an API server that cannot be reached is a 503, and the old targets stay."""

    def do_GET(self) -> None:
        """The targets as JSON."""
        try:
            body, status = json.dumps(targets(list_pods())).encode(), 200
        except OSError as error:
            body, status = str(error).encode(), 503
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a line every two seconds helps nobody."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9091), Handler).serve_forever()
