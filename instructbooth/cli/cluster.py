"""The calls the CLI makes to a Kubernetes API server, with errors a person can act on.

The official client is imported when the first command needs a cluster: `validate`, `crd` and `run` work without it.
"""

from __future__ import annotations

import base64
import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import urllib3

from instructbooth.cli.output import CliError
from instructbooth.contract import API_VERSION, GROUP, KIND, PLURAL, VERSION, Label

FIELD_MANAGER = "instructbooth-cli"
_APPLY = "application/apply-patch+yaml"
_TIMEOUT = (10, 60)  # seconds to connect, and between two bytes of an answer
_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

Object = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


class ClusterUnreachable(CliError):
    """Nobody answers: it may pass."""


@dataclass(frozen=True)
class KubeOptions:
    """Which cluster and namespace a command speaks to; None means the kubeconfig's own."""

    context: str | None = None
    namespace: str | None = None


def kube_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add --namespace and --context to a command, which receives them as `kube: KubeOptions`."""

    @click.option("-n", "--namespace", help="Namespace of the job; the context's own by default.")
    @click.option("--context", help="Context of the kubeconfig; the current one by default.")
    @functools.wraps(command)
    def wrapped(*args: Any, namespace: str | None, context: str | None, **kwargs: Any) -> R:
        return command(*args, kube=KubeOptions(context, namespace), **kwargs)

    return wrapped


@dataclass(frozen=True)
class Pod:
    """A trainer pod.

    Attributes:
        name: of the pod.
        uid: apart from a namesake's.
        stage: that it belongs to.
        attempt: of the stage.
        rank: of the pod in its gang.
        started: whether its container runs or ran, so that it has a log.
    """

    name: str
    uid: str
    stage: str
    attempt: int
    rank: int
    started: bool


class Cluster:
    """A connection to one API server and namespace."""

    def __init__(self, options: KubeOptions = KubeOptions()) -> None:
        """Read the kubeconfig. Raises CliError if the client is not installed or there is no configuration."""
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise CliError(
                "this command speaks to a cluster and needs the Kubernetes client: "
                "pip install 'instructbooth[operator]'; validate, crd and run work without it"
            ) from error
        self.context = options.context
        configuration = client.Configuration()
        namespace = None
        # Given, because the client reads the variable only once, when it is imported.
        file = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        try:
            config.load_kube_config(file, options.context, configuration)
            contexts, active = config.list_kube_config_contexts(file)
            chosen = next((c for c in contexts if c["name"] == options.context), active)
            namespace = chosen.get("context", {}).get("namespace")
        except config.ConfigException as error:
            if options.context is not None or not _in_cluster(config, configuration):
                raise CliError(f"no cluster: {error}; set KUBECONFIG or choose with --context") from error
            namespace = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
        self.namespace: str = options.namespace or namespace or "default"
        self._host = configuration.host
        self._api = client.ApiClient(configuration)
        self._core = client.CoreV1Api(self._api)
        self._custom = client.CustomObjectsApi(self._api)
        self._jobs = {"group": GROUP, "version": VERSION, "plural": PLURAL}

    def job(self, name: str) -> Object:
        """The InstructBoothJob `name`. Raises CliError if there is none."""
        with self._translating(f"{KIND} {self.namespace}/{name}"):
            found: Object = self._custom.get_namespaced_custom_object(
                namespace=self.namespace, name=name, _request_timeout=_TIMEOUT, **self._jobs
            )
        return found

    def apply_job(self, manifest: Object) -> None:
        """Server-side apply of a job, with strict field validation. Raises CliError with the server's reasons.

        Nothing is returned: the client forgets the answer when the object was created (201).
        """
        name = manifest["metadata"]["name"]
        with self._translating(f"{KIND} {self.namespace}/{name}"):
            self._custom.patch_namespaced_custom_object(
                namespace=self.namespace,
                name=name,
                body=manifest,
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                force=True,
                _content_type=_APPLY,
                _request_timeout=_TIMEOUT,
                **self._jobs,
            )

    def apply_config_map(self, name: str, files: dict[str, bytes]) -> None:
        """Server-side apply of a ConfigMap with binary keys."""
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {Label.MANAGED_BY: FIELD_MANAGER}},
            "binaryData": {key: base64.b64encode(data).decode() for key, data in files.items()},
        }
        with self._translating(f"ConfigMap {self.namespace}/{name}"):
            self._core.patch_namespaced_config_map(
                name,
                self.namespace,
                body,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type=_APPLY,
                _request_timeout=_TIMEOUT,
            )

    def config_map_key(self, name: str, key: str) -> str:
        """One text key of a ConfigMap. Raises CliError if it is absent."""
        with self._translating(f"ConfigMap {self.namespace}/{name}"):
            found = self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=_TIMEOUT)
        data: dict[str, str] = found.data or {}
        if key not in data:
            raise CliError(f"ConfigMap {self.namespace}/{name} has no key {key}; it has {_listed(data)}")
        return data[key]

    def secret(self, name: str, *keys: str) -> list[str]:
        """Values of keys of a Secret, read with the user's own permission. Raises CliError if one is absent."""
        with self._translating(f"Secret {self.namespace}/{name}"):
            found = self._core.read_namespaced_secret(name, self.namespace, _request_timeout=_TIMEOUT)
        data: dict[str, str] = found.data or {}
        if missing := [key for key in keys if key not in data]:
            raise CliError(
                f"Secret {self.namespace}/{name} has no key {_listed(missing)}; it has {_listed(data)}; "
                "spec.artifacts.credentialsSecretRef names the keys (accessKeyField, secretKeyField)"
            )
        return [base64.b64decode(data[key]).decode() for key in keys]

    def has_service(self, name: str, namespace: str) -> bool:
        """Whether there is such a Service, as far as the user may see it."""
        from kubernetes.client.exceptions import ApiException

        with self._translating(f"Service {namespace}/{name}"):
            try:
                self._core.read_namespaced_service(name, namespace, _request_timeout=_TIMEOUT)
            except ApiException as error:
                if error.status in (403, 404):
                    return False
                raise
        return True

    def pods(self, job: str, stage: str | None = None) -> list[Pod]:
        """The trainer pods of a job that still exist."""
        selector = f"{Label.JOB}={job}" + (f",{Label.STAGE}={stage}" if stage else "")
        with self._translating(f"pods in {self.namespace}"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=_TIMEOUT
            ).items
        return [_pod(item) for item in found]

    def log_lines(self, pod: str, *, follow: bool, tail: int | None = None) -> Iterator[str]:
        """Lines of a pod's log, as they come if `follow`."""
        with self._translating(f"log of pod {self.namespace}/{pod}"):
            response = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                follow=follow,
                tail_lines=tail,
                _preload_content=False,
                _request_timeout=None if follow else _TIMEOUT,
            )
            rest = b""
            try:
                for chunk in response.stream(1 << 16):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line.decode(errors="replace")
            finally:
                response.release_conn()
            if rest:
                yield rest.decode(errors="replace")

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException

        try:
            yield
        except ApiException as error:
            kind = ClusterUnreachable if error.status in (0, 429) or (error.status or 0) >= 500 else CliError
            raise kind(_explain(error.status, error.body or error.reason or "", what)) from error
        except urllib3.exceptions.HTTPError as error:
            raise ClusterUnreachable(f"cannot reach the API server {self._host}: {error}") from error


def _in_cluster(config: Any, configuration: Any) -> bool:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        return False
    return True


def _pod(item: Any) -> Pod:
    labels = item.metadata.labels or {}
    states = [status.state for status in item.status.container_statuses or []]
    return Pod(
        name=item.metadata.name,
        uid=item.metadata.uid,
        stage=labels.get(Label.STAGE, ""),
        attempt=int(labels.get(Label.ATTEMPT, 0)),
        rank=int(labels.get(_COMPLETION_INDEX, 0)),
        started=any(state.running or state.terminated for state in states if state),
    )


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


def _explain(status: int | None, body: str | bytes, what: str) -> str:
    """What an error answer of the API server means, one line per cause."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    details = answer.get("details", {})
    if status == 404 and details.get("kind") == "namespaces":
        return f"{what}: there is no namespace {details.get('name')}; make it, or choose another one with -n"
    if status == 404 and details.get("name"):
        return f"{what} does not exist; -n chooses the namespace, --context the cluster"
    if status == 404 and KIND in what:
        return (
            f"the API server does not know {API_VERSION} {KIND}: install the chart, or the definition alone with "
            "`instructbooth crd | kubectl apply --server-side -f -`"
        )
    if status == 401:
        return f"{what}: the API server does not accept these credentials; log in again or choose another --context"
    causes = details.get("causes", [])
    if causes:
        lines = [f"  {c['field']}: {c['message']}" if c.get("field") else f"  {c['message']}" for c in causes]
        return "\n".join([f"the API server refuses {what}:", *lines])
    return f"{what}: {answer.get('message') or text or f'HTTP {status}'}"
