"""The cluster that `make cluster` raised, with the product installed in it, once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import lab, product


@pytest.fixture(scope="session")
def installed() -> None:
    """Operator, MinIO, Prometheus and the models are there."""
    lab.connect()
    product.install()
    product.install_prometheus()


@pytest.fixture(scope="module")
def namespace(installed: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the module's own with the subject's pictures and the storage's credentials in it."""
    name = lab.namespace("e2e-" + request.module.__name__.rsplit("_", 1)[-1])
    pictures = sorted((lab.ROOT / "examples/demo/subject").glob("*.png"))
    created = lab.kubectl(
        "create",
        "configmap",
        "demo-subject",
        "-n",
        name,
        "--dry-run=client",
        "-o",
        "yaml",
        *(f"--from-file={picture}" for picture in pictures),
    )
    lab.kubectl("apply", "-n", name, "-f", "-", stdin=created)
    product.upload_models(name, "examples/demo/job.yaml")
    yield name
    lab.kubectl("delete", "namespace", name, "--timeout=90s")
