"""Where one operator sits: its folder, its process, and the proxy between it and the API server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout

from instructbooth.cli.ports import free_port
from tests.chaos.faults import Script
from tests.chaos.operator_process import KUBECONFIG, OperatorProcess
from tests.chaos.proxy import Proxy

NOWHERE = "http://127.0.0.1:9/{host}"  # no rank 0 answers: progress is not what is tested here


class Seat:
    """Use `taken()`; then drive `operator` (as fate)."""

    def __init__(self, url: str, folder: Path, namespace: str, script: Script, *flags: str, name: str = "operator-0"):
        self.name = name
        self.port = free_port()
        self.proxy = Proxy(url, script, self.crash, self.freeze)
        self.frozen = asyncio.Event()
        self.operator = OperatorProcess(
            folder,
            [
                "--trainer-image=instructbooth/trainer:test",
                f"--listen-port={self.port}",
                f"--watch-namespaces={namespace}",
                f"--progress-url={NOWHERE}",
                "--resync-seconds=5",
                f"--pod-name={name}",
                "--log-level=debug",
                *flags,
            ],
        )
        self._folder = folder

    async def crash(self) -> None:
        """What a fault does to the operator: kill it."""
        await self.operator.kill()

    def freeze(self) -> None:
        """What a fault does to the operator: stop it, without its notice."""
        self.operator.send(signal.SIGSTOP)
        self.frozen.set()

    @contextlib.asynccontextmanager
    async def taken(self, again: bool = True) -> AsyncIterator[None]:
        """An operator sits here, and `again` whenever it has ended, as the kubelet does with a container."""
        async with self.proxy:
            keeping = asyncio.create_task(self._keep_running(again))
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await self.operator.kill()

    async def page(self, path: str) -> tuple[int, str]:
        """Status (0: no answer) and text of one of its pages."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            async with ClientSession(timeout=ClientTimeout(total=5)) as session, session.get(url) as answer:
                return answer.status, await answer.text()
        except (ClientError, TimeoutError, OSError):
            return 0, ""

    async def _keep_running(self, again: bool) -> None:
        (self._folder / KUBECONFIG).write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "proxy", "cluster": {"server": self.proxy.url}}],
                    "users": [{"name": "operator", "user": {"token": "operator"}}],
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
                    "current-context": "proxy",
                }
            )
        )
        self.operator.start()
        await self.operator.wait()
        while again:
            self.operator.start()
            await self.operator.wait()

    def story(self) -> str:
        """What happened here, for people."""
        requests = [str(seen) for seen in self.proxy.seen if seen.fault or seen.call.writes]
        log = self.operator.log.read_text().splitlines()[-60:] if self.operator.log.exists() else []
        exits = f"{self.name}: operators that ended: {self.operator.exits}"
        return "\n".join([exits, *requests, *self.proxy.struck, "operator's log:", *log])
