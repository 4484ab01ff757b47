"""From spec and environment to a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from instructbooth import contract
from instructbooth.artifacts.errors import AccessDenied
from instructbooth.artifacts.local import LocalStore
from instructbooth.artifacts.s3 import S3Config, S3Store
from instructbooth.artifacts.store import ObjectStore
from instructbooth.spec.job import Artifacts


def open_store(
    artifacts: Artifacts, env: Mapping[str, str], *, ca_dir: Path = Path(contract.Path.CA_DIR)
) -> ObjectStore:
    """The store of a job: the folder INSTRUCTBOOTH_STORE names (a path or file:// URL), else spec.artifacts' S3.

    Nothing is contacted yet. Raises AccessDenied when a credential is not in the environment.

    Args:
        artifacts: the spec.
        env: with the credentials.
        ca_dir: folder that holds the key of spec.artifacts.caBundle.
    """
    if local := env.get(contract.Env.STORE):
        return LocalStore(Path(unquote(urlsplit(local).path) if local.startswith("file:") else local), artifacts.bucket)
    ref = artifacts.credentials_secret_ref
    missing = [k for k in (contract.Env.ACCESS_KEY, contract.Env.SECRET_KEY) if not env.get(k)]
    if missing:
        raise AccessDenied(
            f"no credentials: {' and '.join(missing)} unset or empty; the Secret {ref.name} must hold the keys "
            f"{ref.access_key_field} and {ref.secret_key_field}"
        )
    ca_bundle = artifacts.ca_bundle
    return S3Store(
        S3Config(
            endpoint=artifacts.endpoint,
            bucket=artifacts.bucket,
            access_key=env[contract.Env.ACCESS_KEY],
            secret_key=env[contract.Env.SECRET_KEY],
            region=artifacts.region,
            path_style=artifacts.path_style,
            ca_file=ca_dir / ca_bundle.key if ca_bundle else None,
            credentials=f"the keys {ref.access_key_field} and {ref.secret_key_field} of the Secret {ref.name}"
            " (spec.artifacts.credentialsSecretRef)",
        )
    )
