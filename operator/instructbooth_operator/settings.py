"""What the operator is installed with."""

from __future__ import annotations

from dataclasses import dataclass

from instructbooth.reconcile.pod import TrainerDefaults


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process; `main` fills them from flags and environment.

    Attributes:
        trainer: what pods are made with.
        namespaces: whose jobs are run; empty: the whole cluster.
        read_workloads: whether Kueue may be asked why a queued job waits.
        workers: reconciles at a time.
        listen_port: port of /metrics, /healthz and /readyz.
        progress_url: where rank 0's progress is pulled from; `{host}` is its address.
        pull_seconds: between two pulls of one job.
        resync_seconds: between two full lists, which heal whatever a watch lost.
        requests_per_second: of the API server, at most; as many again may come in one burst.
        requests_at_once: requests under way at a time, at most.
        lease: name of the Lease that only one replica holds; empty: no election.
        lease_namespace: its namespace.
        identity: who holds it: the pod's name.
    """

    trainer: TrainerDefaults
    namespaces: tuple[str, ...] = ()
    read_workloads: bool = True
    workers: int = 16
    listen_port: int = 8080
    progress_url: str = "http://{host}:9400/progress"
    pull_seconds: float = 5.0
    resync_seconds: float = 120.0
    requests_per_second: float = 200.0
    requests_at_once: int = 32
    lease: str = ""
    lease_namespace: str = "default"
    identity: str = "instructbooth-operator"
