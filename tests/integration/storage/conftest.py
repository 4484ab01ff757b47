"""A real MinIO server, which can be killed and started again, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from instructbooth.artifacts.s3 import Patience, S3Config, S3Store

USER, PASSWORD = "test-user", "test-password"
SHORT = Patience(total=3.0, connect=1.0, read=2.0, first_delay=0.1, max_delay=0.5)


def minio_binary() -> str:
    """MINIO_BINARY, what `make cluster` built, or what is on PATH."""
    cache = Path(os.environ.get("INSTRUCTBOOTH_CACHE") or Path.home() / ".cache" / "instructbooth")
    for candidate in (os.environ.get("MINIO_BINARY"), str(cache / "bin" / "minio"), shutil.which("minio")):
        if candidate and Path(candidate).is_file():
            return candidate
    pytest.fail("no MinIO server: run `make cluster`, which builds it, or set MINIO_BINARY")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One MinIO over one folder; data outlive the process."""

    folder: Path
    certs: Path | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certs else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [minio_binary(), "server", str(self.folder / "data"), "--address", f"127.0.0.1:{self.port}"]
        command += ["--certs-dir", str(self.certs or self.folder / "no-certs")]
        env = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off"}
        with (self.folder / "minio.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"MinIO did not start:\n{(self.folder / 'minio.log').read_text()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if self.certs:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0
        try:
            with urllib.request.urlopen(f"{self.endpoint}/minio/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


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
