"""Tells Prometheus which pods to scrape: operators and rank 0 of each gang, on their port named `metrics`.

Debian builds Prometheus without its Kubernetes discovery; this answers the same question over `http_sd_configs`
(https://prometheus.io/docs/prometheus/latest/http_sd/). Runs beside Prometheus with the pod's service account. With any
other Prometheus two `kubernetes_sd_configs` do (docs/dashboards.md).
"""

from __future__ import annotations

import json
import ssl
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc.cluster.local/api/v1"
# Scrape job -> where its pods are and their labels. Whatever calls itself an operator elsewhere is none. Only rank 0
# serves metrics: it speaks for its gang.
SELECTORS = {
    "instructbooth-operator": (
        "namespaces/instructbooth-system/pods",
        "app.kubernetes.io/name=instructbooth,app.kubernetes.io/component=operator",
    ),
    "instructbooth-trainer": (
        "pods",
        "app.kubernetes.io/managed-by=instructbooth-operator,batch.kubernetes.io/job-completion-index=0",
    ),
}


def targets(job: str, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One target group for each port named `metrics` of each pod that has an address."""
    found = []
    for pod in pods:
        address, meta = pod.get("status", {}).get("podIP"), pod["metadata"]
        labels = {"job": job, "namespace": meta["namespace"], "pod": meta["name"]}
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                if address and port.get("name") == "metrics":
                    found.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return found


def list_pods(path: str, selector: str) -> list[dict[str, Any]]:
    """The running pods with these labels, from the API server's cache. Raises OSError if it does not answer."""
    query = {"labelSelector": selector, "fieldSelector": "status.phase=Running", "resourceVersion": "0"}
    token = (ACCOUNT / "token").read_text()
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(
        f"{API}/{path}?{urllib.parse.urlencode(query)}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        items: list[dict[str, Any]] = json.load(answer)["items"]
        return items


class Handler(BaseHTTPRequestHandler):
    """Answers GET /<job>; an API server that cannot be reached is a 503, and the old targets stay."""

    def do_GET(self) -> None:
        """The targets as JSON."""
        job = self.path.removeprefix("/")
        try:
            found = targets(job, list_pods(*SELECTORS[job])) if job in SELECTORS else []
            body, status = json.dumps(found).encode(), 200
        except OSError as error:
            body, status = str(error).encode(), 503
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line every few seconds helps nobody."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9091), Handler).serve_forever()
