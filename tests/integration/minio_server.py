"""A real MinIO server, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from instructbooth.cli.ports import free_port
from tests.machine import binary

USER, PASSWORD = "test-user", "test-password"


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
        command = [binary("minio"), "server", str(self.folder / "data"), "--address", f"127.0.0.1:{self.port}"]
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
