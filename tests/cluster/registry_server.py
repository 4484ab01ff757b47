"""A read-only image registry over an OCI image layout: `registry_server.py LAYOUT ADDRESS PORT`.

Serves the pull half of the distribution specification, which is all that a container runtime needs:
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull
Images are called `instructbooth/<name>:dev`, where `<name>` is the name in the layout's index.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from raising.layout import MANIFEST_TYPE, Layout

#: The path of a manifest: the image, and a tag or digest.
MANIFEST = re.compile(r"/v2/instructbooth/([a-z0-9-]+)/manifests/(dev|sha256:[0-9a-f]{64})")
_BLOB = re.compile(r"/v2/instructbooth/[a-z0-9-]+/blobs/(sha256:[0-9a-f]{64})")


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for manifests and blobs."""

    protocol_version = "HTTP/1.1"
    layout: Layout

    def do_HEAD(self) -> None:
        """The headers of what GET would give."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """A manifest or a blob."""
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path == "/v2/":
            self._head(200, "application/json", 0)
            return
        digest, kind = self._find(path)
        blob = self.layout.blob(digest) if digest else None
        if blob is None or not blob.exists():
            self._head(404, "application/json", 0)
            return
        with blob.open("rb") as source:
            self._head(200, kind, blob.stat().st_size, digest)
            if with_body:
                self.wfile.flush()
                self.connection.sendfile(source)

    def _find(self, path: str) -> tuple[str | None, str]:
        if match := _BLOB.fullmatch(path):
            return match[1], "application/octet-stream"
        if match := MANIFEST.fullmatch(path):
            name, reference = match[1], match[2]
            return (self.layout.manifest_digest(name) if reference == "dev" else reference), MANIFEST_TYPE
        return None, ""

    def _head(self, status: int, kind: str, length: int, digest: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()


def main() -> None:
    """Serve until told to end."""
    Handler.layout = Layout(Path(sys.argv[1]))
    with ThreadingHTTPServer((sys.argv[2], int(sys.argv[3])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
