"""The API server: plain JSON over the official client's connection, bounded in rate and number, counted.

The client's models are left out on purpose: they double the CPU of a reconcile and most of its memory. What this
module sends was made by `instructbooth.reconcile`, what it returns is parsed there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from instructbooth_operator.errors import ApiError, NotLeading
from instructbooth_operator.metrics import API_REQUESTS
from instructbooth_operator.resources import Resource

JsonObject = dict[str, Any]
MANAGER = "instructbooth-operator"
TIMEOUT_SECONDS = 30.0
PAGE = 100  # of child Jobs: 0.6 MB of JSON, 4 MiB parsed; the largest page is what memory peaks at

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class RateLimit:
    """A token bucket: `rate` a second, and at most one second's worth in one burst."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next request may be sent; callers are let through in order."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - 1.0) + 1.0 / self._rate
        if self._next > now:
            await asyncio.sleep(self._next - now)


class Api:
    """Requests to the API server. Use as an async context manager.

    Args:
        requests_per_second: at most; as many again may come in one burst.
        requests_at_once: under way at a time, at most.
        timeout: seconds until a request counts as not answered.
        may_write: asked right before each write is sent, after all waiting.
    """

    def __init__(
        self,
        requests_per_second: float,
        requests_at_once: int,
        timeout: float = TIMEOUT_SECONDS,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._rate = RateLimit(requests_per_second)
        self._slots = asyncio.Semaphore(requests_at_once)
        self._timeout = timeout
        self._may_write = may_write
        self._configuration = Configuration()

    async def __aenter__(self) -> Self:
        try:
            config.load_incluster_config(client_configuration=self._configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=self._configuration)
        # The client would have aiohttp read the environment and ~/.netrc again for each request, in a thread: more CPU
        # than the request itself. Once is enough.
        self._configuration.client_session_kwargs = {"trust_env": False}
        self._configuration.proxy = self._configuration.proxy or proxy_of_environment(self._configuration.host)
        self._client = ApiClient(configuration=self._configuration)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        """One object. Raises ApiError."""
        return await self._request("GET", resource, resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str | None, **query: str) -> AsyncIterator[JsonObject]:
        """The pages of a list, each as the API server returns it. Raises ApiError."""
        token = ""
        while True:
            paging = {"limit": str(PAGE), **query, **({"continue": token} if token else {})}
            page = await self._request("GET", resource, resource.path(namespace), paging, verb="LIST")
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """Create an object; a field that its schema does not know is an error. Raises ApiError, NotLeading."""
        path = resource.path(manifest["metadata"]["namespace"])
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._request("POST", resource, path, query, manifest)

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """Replace an object; its resourceVersion must still be the one of the manifest.

        Raises ApiError, NotLeading.
        """
        meta = manifest["metadata"]
        path = resource.path(meta["namespace"], meta["name"])
        return await self._request("PUT", resource, path, {"fieldManager": MANAGER}, manifest)

    async def patch(
        self, resource: Resource, namespace: str, name: str, patch: JsonObject, subresource: str = ""
    ) -> JsonObject:
        """JSON merge patch. Raises ApiError, NotLeading."""
        path = resource.path(namespace, name, subresource)
        return await self._request("PATCH", resource, path, {"fieldManager": MANAGER}, patch, MERGE_PATCH)

    async def delete(self, resource: Resource, namespace: str, name: str, options: JsonObject) -> JsonObject:
        """Delete an object; `options` are meta/v1 DeleteOptions. Raises ApiError, NotLeading."""
        return await self._request("DELETE", resource, resource.path(namespace, name), {}, options)

    async def _request(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: dict[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = JSON,
        verb: str | None = None,
    ) -> JsonObject:
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": MANAGER}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        status = 0
        try:
            async with self._slots:
                await self._rate.wait()
                if method != "GET" and not self._may_write():
                    raise NotLeading(f"{method} {path} was not sent: another replica may lead by now")
                answer = await self._client.call_api(method, url, headers, body, _request_timeout=self._timeout)
                status = answer.status
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error
        finally:
            API_REQUESTS.labels((verb or method).lower(), resource.plural, status).inc()
        if status >= 400:
            raise _error(status, text, answer.getheader("Retry-After"))
        parsed: JsonObject = json.loads(text)
        return parsed


def proxy_of_environment(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for that URL; None if none."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _error(status: int, text: bytes, retry_after: str | None) -> ApiError:
    try:
        said = json.loads(text)
    except ValueError:  # a proxy's page, or nothing
        said = {}
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    message = said.get("message", text.decode(errors="replace")[:500])
    return ApiError(status, said.get("reason", "Error"), message, wait)
