"""Opening a job's object storage from where the CLI runs: credentials, certificates and the way to the endpoint."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.errors import ArtifactError
from instructbooth.artifacts.store import ObjectStore
from instructbooth.cli.cluster import Cluster
from instructbooth.cli.forward import Service, in_cluster_service, port_forward
from instructbooth.cli.output import CliError, note
from instructbooth.contract import Env
from instructbooth.spec.job import Artifacts


@contextmanager
def opened(artifacts: Artifacts, cluster: Cluster | None) -> Iterator[ObjectStore]:
    """The store that spec.artifacts names, reachable while the block runs.

    Storage errors raised within become CliError.

    Args:
        artifacts: the spec.
        cluster: to read Secret and ConfigMap from, with the user's own permission, and to forward through; without it
            the credentials must be in the environment.
    """
    with ExitStack() as stack, storage_errors():
        env = _credentials(artifacts, cluster)
        changes: dict[str, object] = {}
        service = _service(artifacts.endpoint, cluster)
        if service and cluster:
            address = stack.enter_context(port_forward(service, cluster.context))
            note(f"{urlsplit(artifacts.endpoint).netloc} is inside of the cluster: forwarded to {address}")
            # A bucket cannot be a host name below an IP address.
            changes = {"endpoint": f"{urlsplit(artifacts.endpoint).scheme}://{address}", "path_style": True}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructbooth-ca-")))
        if artifacts.ca_bundle is not None:
            _write_ca(artifacts, cluster, folder)
        yield open_store(artifacts.model_copy(update=changes), env, ca_dir=folder)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Storage errors as errors of the command."""
    try:
        yield
    except ArtifactError as error:
        raise CliError(f"{error.reason}: {error.message}") from error


def _service(endpoint: str, cluster: Cluster | None) -> Service | None:
    if cluster is None:
        return None
    return in_cluster_service(endpoint, cluster.namespace, cluster.has_service)


def _credentials(artifacts: Artifacts, cluster: Cluster | None) -> Mapping[str, str]:
    """The environment's credentials, or those of the Secret the job uses."""
    names = (Env.ACCESS_KEY, Env.SECRET_KEY)
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if len(given) == len(names):
        return given
    if given:
        absent = next(name for name in names if name not in given)
        raise CliError(f"{next(iter(given))} is set but {absent} is not: set both, or neither to use the job's Secret")
    if cluster is None:
        raise CliError(
            f"no credentials: set {' and '.join(names)}, or name a --secret, a job with --like or a manifest"
        )
    ref = artifacts.credentials_secret_ref
    try:
        keys = cluster.secret(ref.name, ref.access_key_field, ref.secret_key_field)
    except CliError as error:
        raise CliError(f"{error.message}\n  or set {' and '.join(names)}") from error
    return dict(zip(names, keys, strict=True))


def _write_ca(artifacts: Artifacts, cluster: Cluster | None, folder: Path) -> None:
    ref = artifacts.ca_bundle
    assert ref is not None
    if cluster is None:
        raise CliError(f"spec.artifacts.caBundle is the ConfigMap {ref.name}, which only a cluster can give")
    (folder / ref.key).write_text(cluster.config_map_key(ref.name, ref.key))
