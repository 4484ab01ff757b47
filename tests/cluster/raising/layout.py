"""An OCI image layout on disk: reading it, adding a one-file image, forgetting what nothing refers to.

The format: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from raising.shell import write_atomically

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_REF_NAME = "org.opencontainers.image.ref.name"


class Layout:
    """One folder with blobs by digest and an index that names some of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def blob(self, digest: str) -> Path:
        """The path of a blob; `digest` is `sha256:<hex>`. Raises ValueError for anything else."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError(f"{digest!r} is not a sha256 digest")
        return self.directory / "blobs" / "sha256" / value

    def index(self) -> list[dict[str, Any]]:
        """The named manifests. An index that a killed writer cut short counts as empty: its images are made anew."""
        try:
            content = json.loads((self.directory / "index.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        return list(content.get("manifests") or [])

    def manifest_digest(self, name: str) -> str | None:
        """The digest of the manifest called `name`, if it and all it refers to are there."""
        for entry in self.index():
            if entry.get("annotations", {}).get(_REF_NAME) == name and self.is_complete(entry["digest"]):
                return str(entry["digest"])
        return None

    def is_complete(self, digest: str) -> bool:
        """True when the manifest, its configuration and its layers are on disk."""
        if not self.blob(digest).exists():
            return False
        return all(self.blob(part).exists() for part in self.parts(digest))

    def parts(self, digest: str) -> list[str]:
        """The digests of a manifest's configuration and layers."""
        manifest = json.loads(self.blob(digest).read_text())
        return [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]

    def image_id(self, name: str) -> str | None:
        """The digest of the image's configuration, which is how a node's runtime calls the image."""
        digest = self.manifest_digest(name)
        return self.parts(digest)[0] if digest else None

    def forget_unreferenced(self) -> int:
        """Delete blobs that no named manifest refers to; returns the bytes that came free."""
        kept = {self.blob(digest).name for entry in self.index() for digest in self._reachable(entry["digest"])}
        freed = 0
        for path in (self.directory / "blobs" / "sha256").glob("*"):
            if path.name not in kept:
                freed += path.stat().st_size
                path.unlink()
        return freed

    def _reachable(self, digest: str) -> list[str]:
        return [digest, *self.parts(digest)] if self.blob(digest).exists() else [digest]

    def set_manifest(self, name: str, digest: str, size: int) -> None:
        """Let `name` stand for the manifest with this digest."""
        entry = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size, "annotations": {_REF_NAME: name}}
        others = [other for other in self.index() if other.get("annotations", {}).get(_REF_NAME) != name]
        content = {"schemaVersion": 2, "manifests": [*others, entry]}
        write_atomically(self.directory / "oci-layout", '{"imageLayoutVersion": "1.0.0"}')
        write_atomically(self.directory / "index.json", json.dumps(content))

    def add(self, data: bytes) -> dict[str, Any]:
        """Store a blob; its digest and size, as a manifest describes it."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        write_atomically(self.blob(digest), data)
        return {"digest": digest, "size": len(data)}

    def adopt(self, name: str, pushed: Path) -> None:
        """Take over, by hard links, an image that was pushed to a folder of `<hex>` files (`dir:`)."""
        manifest = (pushed / "manifest.json").read_bytes()
        described = self.add(manifest)
        for digest in self.parts(described["digest"]):
            blob = self.blob(digest)
            if not blob.exists():
                blob.hardlink_to(pushed / blob.name)
        self.set_manifest(name, described["digest"], described["size"])

    def add_single_binary(self, name: str, binary: Path, user: str) -> None:
        """Make an image of one static binary, bit for bit the same for the same binary."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(binary.name)
            entry.mode, entry.size = 0o755, binary.stat().st_size
            with binary.open("rb") as source:
                archive.addfile(entry, source)
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", **self.add(buffer.getvalue())}
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{binary.name}"], "User": user},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        described = {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **self.add(json.dumps(config).encode()),
        }
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": [layer]}
        added = self.add(json.dumps(manifest).encode())
        self.set_manifest(name, added["digest"], added["size"])
