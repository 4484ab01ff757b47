"""The pods of a gang come together before anything of torch begins: the others call at pod 0, which tells all to go.

A gang may get its places one by one, and the last of them hours after the first. torch's own rendezvous has to have a
bound, and whoever waits in it cannot tell a pod that has no place yet from one that failed. Here nobody waits with a
bound for a pod that is not there: that it does not come is the operator's to judge, which hears what the scheduler says
(docs/decisions/0031-half-a-gang.md).

A call is a TCP connection that stays: its end is the caller's. Lines of JSON go over it. The caller says of which gang
it is and which of its pods, {"gang": "team/rex-reinforce-1", "rank": 3}; pod 0 says how many are there, {"there": 2},
now and then, {"go": true} once all are, or {"gang": "..."} if it belongs to another one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

CONNECT = 5.0  # seconds that a connection may take
SAY = 10.0  # seconds between two words to those who wait
SILENCE = 60.0  # seconds without a word after which the other side is gone
LONGEST_LINE = 1024


class NotYet(Exception):
    """Pod 0 cannot be joined now: why."""


async def host(gang: str, pods: int, listener: socket.socket, check: Callable[[], None] = lambda: None) -> None:
    """In pod 0: returns when all pods of the gang have called and been told to go; the port is free again then.

    Args:
        gang: name of the gang.
        pods: how many it has, this one included.
        listener: where they call.
        check: called every few seconds meanwhile; what it raises is raised.
    """
    present: dict[int, asyncio.StreamWriter] = {}
    changed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank: int | None = None
        try:
            hello = _parsed(await asyncio.wait_for(reader.readline(), SILENCE))
            if hello.get("gang") != gang or hello.get("rank") not in range(1, pods):
                writer.write(_line(gang=gang))
                return
            rank = hello["rank"]
            if former := present.get(rank):  # its pod is another one by now, and nobody has told us
                former.close()
            present[rank] = writer
            changed.set()
            await reader.read()  # whoever waits says nothing more: this is the end
        except (OSError, ValueError, TimeoutError):  # a stranger, or a caller that is gone
            pass
        except asyncio.CancelledError:  # all are there, and nobody waits for this one; asyncio would log a traceback
            pass
        finally:
            if rank is not None and present.get(rank) is writer:
                del present[rank]
                changed.set()
            writer.close()

    server = await asyncio.start_server(serve, sock=listener, limit=LONGEST_LINE)
    try:
        told: set[int] | None = None
        while True:
            check()
            missing = set(range(1, pods)) - set(present)
            if not missing:
                break
            if missing != told:
                log.info("%d of %d pods are there; waiting for %s", pods - len(missing), pods, _ranks(missing))
                told = missing
            for writer in present.values():
                writer.write(_line(there=pods - len(missing)))
            changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), SAY)
    finally:
        server.close()
    log.info("all %d pods are there", pods)
    for writer in present.values():
        writer.write(_line(go=True))
    # They close first, so that the port is free at once for torch's own rendezvous.
    while present:
        changed.clear()
        try:
            await asyncio.wait_for(changed.wait(), CONNECT)
        except TimeoutError:
            return


def join(address: str, port: int, gang: str, rank: int, welcome: Callable[[int], None]) -> None:
    """In another pod: returns when pod 0 says that all are there.

    Args:
        address: of pod 0.
        port: at which it listens.
        gang: name of the gang.
        rank: of this pod in it.
        welcome: told how many are there, now and then.

    Raises NotYet if pod 0 does not answer, is not of this gang, or goes away.
    """
    try:
        connection = socket.create_connection((address, port), timeout=CONNECT)
    except socket.gaierror as error:
        raise NotYet(f"the name {address} does not resolve ({error})") from error
    except OSError as error:
        raise NotYet(f"{address}, port {port}, does not answer ({error})") from error
    with connection, connection.makefile("rb") as answers:
        connection.settimeout(SILENCE)
        try:
            connection.sendall(_line(gang=gang, rank=rank))
            while line := answers.readline(LONGEST_LINE):
                answer = _parsed(line)
                if answer.get("go") is True:
                    return
                if not isinstance(there := answer.get("there"), int):
                    raise NotYet(f"at {address} it is {answer.get('gang', 'something else')} that answers")
                welcome(there)
        except OSError as error:
            raise NotYet(f"{address}, port {port}, says nothing more ({error})") from error
        except ValueError as error:
            raise NotYet(f"at {address} it is something else that answers") from error
    raise NotYet(f"{address} has hung up")


def _line(**words: Any) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """Raises ValueError if it is no JSON object."""
    try:
        words = json.loads(line)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(words, dict):
        raise ValueError(f"{words!r} is no object")
    return words


def _ranks(ranks: set[int]) -> str:
    """`rank 3`, `ranks 1, 2`; of many the first ones."""
    shown = ", ".join(map(str, sorted(ranks)[:8]))
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"
