"""The push half of a registry over our layout, open on the loopback interface while an image is pushed.

Who pushes asks which layers are there and sends only the others: an image whose source changed costs its last layer.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import uuid
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from registry_server import MANIFEST, Handler

from raising.layout import Layout

_CHUNK = 1 << 20


class Receiver(Handler):
    """Takes blobs (POST, then PATCH and PUT at the place it names) and manifests (PUT)."""

    uploads: Path
    hashes: dict[str, Any]

    def do_POST(self) -> None:
        """Begin an upload."""
        self._discard()
        upload = uuid.uuid4().hex
        self.hashes[upload] = hashlib.sha256()
        (self.uploads / upload).touch()
        self._accepted(upload)

    def do_PATCH(self) -> None:
        """The next bytes of a blob."""
        if upload := self._upload():
            self._append(upload)
            self._accepted(upload)

    def do_PUT(self) -> None:
        """The end of a blob, or a manifest."""
        path = urlsplit(self.path)
        if match := MANIFEST.fullmatch(path.path):
            data = b"".join(self._body())
            added = self.layout.add(data)
            self.layout.set_manifest(match[1], added["digest"], len(data))
            self._head(201, "application/json", 0, added["digest"])
        elif upload := self._upload():
            self._append(upload)
            digest = f"sha256:{self.hashes.pop(upload).hexdigest()}"
            if parse_qs(path.query).get("digest") != [digest]:
                (self.uploads / upload).unlink()
                self._head(400, "application/json", 0)
                return
            blob = self.layout.blob(digest)
            blob.parent.mkdir(parents=True, exist_ok=True)
            (self.uploads / upload).replace(blob)
            self._head(201, "application/json", 0, digest)

    def do_DELETE(self) -> None:
        """Give an upload up."""
        if upload := self._upload():
            del self.hashes[upload]
            (self.uploads / upload).unlink()
            self._head(204, "application/json", 0)

    def _upload(self) -> str | None:
        upload = urlsplit(self.path).path.rpartition("/")[2]
        if upload in self.hashes:
            return upload
        self._discard()
        self._head(404, "application/json", 0)
        return None

    def _accepted(self, upload: str) -> None:
        self.send_response(202)
        self.send_header("Location", f"/v2/instructbooth/-/blobs/uploads/{upload}")
        self.send_header("Range", f"0-{max(0, (self.uploads / upload).stat().st_size - 1)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _append(self, upload: str) -> None:
        with (self.uploads / upload).open("ab") as sink:
            for data in self._body():
                self.hashes[upload].update(data)
                sink.write(data)

    def _discard(self) -> None:
        for _ in self._body():
            pass

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self._read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            data = self.rfile.read(min(size, _CHUNK))
            if not data:
                raise ConnectionError("who pushed went away in the middle of a blob")
            size -= len(data)
            yield data

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the pusher's own log tells what was sent."""


@contextlib.contextmanager
def open_to_pushes(layout: Layout) -> Iterator[str]:
    """An address (host:port) to which images can be pushed; what a killed push left is forgotten first."""
    uploads = layout.directory / "uploads"
    shutil.rmtree(uploads, ignore_errors=True)
    uploads.mkdir(parents=True)
    handler = type("LayoutReceiver", (Receiver,), {"layout": layout, "uploads": uploads, "hashes": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
    shutil.rmtree(uploads)
