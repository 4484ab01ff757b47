"""The API server as its administrator sees it: requests and endless watches, past every proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.integration.operator.plane import JsonObject, Refused, unverified

MERGE = "application/merge-patch+json"
JOBS = "/apis/batch/v1/jobs"
PODS = "/api/v1/pods"
IBJ = "/apis/instructbooth.io/v1alpha1/instructboothjobs"


class Kube:
    """A client. Use as an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Kube:
        self._session = ClientSession(
            headers={"Authorization": "Bearer admin"},
            connector=TCPConnector(ssl=unverified(), limit=0),
            timeout=ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self, method: str, path: str, body: JsonObject | None = None, content_type: str = "application/json"
    ) -> JsonObject:
        """One request, tried again while the API server is away. Raises Refused."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        for _ in range(120):
            try:
                async with self._session.request(method, self.url + path, data=data, headers=headers) as answer:
                    text = await answer.text()
                    if answer.status < 400:
                        parsed: JsonObject = json.loads(text)
                        return parsed
                    if answer.status not in (429, 500, 503):
                        raise Refused(answer.status, text)
            except (ClientError, OSError):
                pass
            await asyncio.sleep(0.25)
        raise TimeoutError(f"{method} {path}: no answer")

    async def items(self, path: str) -> list[JsonObject]:
        """The items of a list."""
        items: list[JsonObject] = (await self.request("GET", path))["items"]
        return items

    async def watch(self, path: str, seen: Callable[[str, JsonObject], None]) -> None:
        """Call `seen(type, object)` for every change for ever: what is there first, as SEEN; nothing is missed."""
        while True:
            listed = await self.request("GET", path)
            for item in listed["items"]:
                seen("SEEN", item)
            since = listed["metadata"]["resourceVersion"]
            while since:
                since = await self._follow(f"{path}?watch=true&resourceVersion={since}", since, seen)

    async def _follow(self, path: str, since: str, seen: Callable[[str, JsonObject], None]) -> str:
        """One watch; returns where to go on from, or nothing if that is lost."""
        try:
            async with self._session.get(self.url + path, read_bufsize=1 << 24) as answer:
                if answer.status != 200:
                    await asyncio.sleep(0.25)
                    return "" if answer.status == 410 else since
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return ""
                    since = event["object"]["metadata"]["resourceVersion"]
                    seen(event["type"], event["object"])
        except (ClientError, OSError, ValueError):
            await asyncio.sleep(0.25)
        return since
