"""The images that `make cluster` built: small where they should be, and nobody's root."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator

import pytest
from raising.images import LAYOUT
from raising.settings import IMAGE_NAMES

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.environ.get("CLUSTER") in ("kind", "current"), reason="the images are Docker's, or not ours"),
]
HEAVY = ("torch", "nvidia", "diffusers", "transformers", "triton")


def parts(name: str) -> list[str]:
    """The digests of an image's configuration and layers."""
    digest = LAYOUT.manifest_digest(name)
    assert digest is not None, f"the image {name} is not there; `make cluster` builds it"
    return LAYOUT.parts(digest)


def files(name: str) -> Iterator[tarfile.TarInfo]:
    """Every file of every layer, unpacked."""
    for layer in parts(name)[1:]:
        with tarfile.open(LAYOUT.blob(layer)) as archive:
            yield from archive


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_nobody_runs_as_root(name):
    configuration = json.loads(LAYOUT.blob(parts(name)[0]).read_text())["config"]
    assert configuration["User"] == "65532:65532"
    assert configuration["Entrypoint"]


def test_the_operators_image_is_small_and_without_the_trainers_libraries():
    size, packages = 0, set()
    for file in files("operator"):
        size += file.size
        if "/site-packages/" in file.name:
            packages.add(file.name.split("/site-packages/")[1].split("/")[0])
    assert size < 250e6
    assert {"instructbooth", "instructbooth_operator", "kopf"} <= packages
    assert not {package for package in packages if package.startswith(HEAVY)}
