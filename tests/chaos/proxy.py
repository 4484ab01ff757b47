"""A reverse proxy between one operator and the API server that does to requests what a script says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from tests.chaos.call import Call, parse
from tests.chaos.faults import Fault, Kind, Script
from tests.integration.operator.plane import unverified

_DROPPED = {"transfer-encoding", "content-length", "content-encoding", "connection", "host", "date"}
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass(frozen=True)
class Seen:
    """One request that passed, with what was done to it and the API server's status (0: it never got there)."""

    call: Call
    number: int
    fault: Fault | None
    status: int

    def __str__(self) -> str:
        return f"{self.call} #{self.number}: {self.status or '-'}" + (f", {self.fault}" if self.fault else "")


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Proxy:
    """Listens on a port of 127.0.0.1. Use as an async context manager.

    Attributes:
        script: may be exchanged at any time.
        seen: every request, in the order in which they ended; watches when they began.
        struck: the faults of watch events.
    """

    def __init__(
        self, target: str, script: Script, crash: Callable[[], Awaitable[None]], freeze: Callable[[], None]
    ) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.struck: list[str] = []
        self._target = target
        self._crash = crash
        self._freeze = freeze
        self._calls: Counter[Call] = Counter()
        self._events: Counter[Call] = Counter()
        self._first_lists: dict[str, _Answer] = {}
        self._handling: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Proxy:
        connector = TCPConnector(ssl=unverified(), limit=0)
        self._session = ClientSession(connector=connector, timeout=ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._handling:  # watches of operators that are dead
            task.cancel()
        await self._runner.cleanup()
        await self._session.close()

    def writes(self) -> list[tuple[Call, int]]:
        """The writes that were carried out, each with which of its kind it was."""
        return [(seen.call, seen.number) for seen in self.seen if seen.call.writes and 200 <= seen.status < 300]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)
        body = await request.read()
        call = parse(request.method, request.path, request.query, request.content_type, body)
        number = self._calls[call]
        self._calls[call] += 1
        fault = self.script.on_call(call, number)
        answer: _Answer | None = None
        try:
            if fault is not None and (early := await self._strike_before(fault, request)) is not None:
                return early
            if call.verb == "watch":
                self.seen.append(Seen(call, number, fault, 200))
                return await self._stream(request, call)
            if fault is not None and fault.kind is Kind.STALE and str(request.rel_url) in self._first_lists:
                answer = self._first_lists[str(request.rel_url)]
            else:
                answer = await self._forward(request, body)
            if call.verb == "list" and answer.status == 200:
                self._first_lists.setdefault(str(request.rel_url), answer)
            late = await self._strike_after(fault, request) if fault is not None else None
            return late or answer.response()
        except (ClientError, OSError):
            return _reset(request)  # the API server is away: its connections break too
        finally:
            if call.verb != "watch" or fault is not None:
                self.seen.append(Seen(call, number, fault, answer.status if answer else 0))

    async def _strike_before(self, fault: Fault, request: web.Request) -> web.StreamResponse | None:
        match fault.kind:
            case Kind.CRASH_BEFORE:
                await self._crash()
                return _reset(request)
            case Kind.FREEZE:
                self._freeze()
                await asyncio.sleep(fault.seconds)
            case Kind.LATE:
                await self._crash()
                await asyncio.sleep(fault.seconds)
            case Kind.RESET:
                return _reset(request)
            case Kind.REFUSE:
                return _error(fault)
            case Kind.DELAY:
                await asyncio.sleep(fault.seconds)
        return None

    async def _strike_after(self, fault: Fault, request: web.Request) -> web.StreamResponse | None:
        match fault.kind:
            case Kind.CRASH_AFTER:
                await self._crash()
                return _reset(request)
            case Kind.RESET_AFTER:
                return _reset(request)
            case Kind.LOSE:
                return _error(fault)
        return None

    async def _forward(self, request: web.Request, body: bytes) -> _Answer:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        async with self._session.request(
            request.method, f"{self._target}{request.rel_url}", headers=headers, data=body or None
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
            return _Answer(answer.status, kept, await answer.read())

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Pass a watch on, event by event: each is a line."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        url = f"{self._target}{request.rel_url}"
        async with self._session.get(url, headers=headers, read_bufsize=1 << 24) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async for line in answer.content:
                if request.transport is None or request.transport.is_closing():
                    break  # the operator that watched is dead: what comes now is nobody's event
                if not await self._pass_on(response, call, line):
                    break
            return response

    async def _pass_on(self, response: web.StreamResponse, call: Call, line: bytes) -> bool:
        """Pass one event on, or not; False ends the watch."""
        number = self._events[call]
        self._events[call] += 1
        fault = self.script.on_event(call, number)
        if fault is not None:
            self.struck.append(f"{call}, event #{number}: {fault}")
        match fault.kind if fault else None:
            case Kind.DROP:
                return True
            case Kind.CUT:
                return False
            case Kind.EXPIRE | Kind.BREAK if fault is not None:
                await response.write(json.dumps({"type": "ERROR", "object": _status(fault)}).encode() + b"\n")
                return False
            case Kind.HOLD if fault is not None:
                await asyncio.sleep(fault.seconds)
        await response.write(line)
        return True


def _status(fault: Fault) -> dict[str, object]:
    reason = REASONS.get(fault.code, "Unknown")
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": fault.code, "reason": reason,
            "message": "injected by the fault proxy"}  # fmt: skip


def _error(fault: Fault) -> web.Response:
    headers = {"Retry-After": f"{fault.seconds:.0f}"} if fault.seconds else {}
    return web.json_response(_status(fault), status=fault.code, headers=headers)


def _reset(request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # goes nowhere
