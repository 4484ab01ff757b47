"""A real MinIO server, which can be killed and started again, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from instructbooth.artifacts.s3 import Patience, S3Config, S3Store
from tests.integration.minio_server import PASSWORD, USER, Server

SHORT = Patience(total=3.0, connect=1.0, read=2.0, first_delay=0.1, max_delay=0.5)


@dataclass
class Wire:
    """A TCP relay to a server that calls `cut` once, when so many bytes have gone towards the server."""

    port_to: int
    limit: int
    cut: Callable[[], None]
    sent: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port_to), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            threading.Thread(target=self._relay, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, False), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, upwards: bool) -> None:
        try:
            while data := source.recv(65536):
                if upwards:
                    self._count(len(data))
                target.sendall(data)
        except OSError:
            pass  # an end was cut off: that is what the wire is for
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):  # closing alone would not wake the other thread's recv
                    end.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        with self._lock:
            before, self.sent = self.sent, self.sent + size
            now = before < self.limit <= self.sent
        if now:
            self.cut()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(certs: Path | None = None) -> Server:
        folder = tmp_path / f"minio-{len(made)}"
        folder.mkdir()
        made.append(Server(folder, certs))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that a whole module shares; do not kill it."""
    shared = Server(tmp_path_factory.mktemp("minio"))
    shared.start()
    yield shared
    shared.kill()


def config(endpoint: str, bucket: str = "runs", **changes: str | Path) -> S3Config:
    return S3Config(**{"endpoint": endpoint, "bucket": bucket, "access_key": USER, "secret_key": PASSWORD, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> S3Store:
    """A fresh bucket on the shared server."""
    bucket = f"b-{abs(hash(request.node.name)) % 10**12}"
    made = S3Store(config(server.endpoint, bucket), SHORT)
    made.ensure_bucket(create=True)
    return made
