"""The pods of a gang wait for each other: nobody goes before the last one is there, nobody joins another gang."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from instructbooth_trainer.runtime import gathering
from instructbooth_trainer.runtime.gathering import NotYet, host, join
from instructbooth_trainer.runtime.listening import listen
from tests.unit.runtime.background import spawn, wait_until

GANG = "team/rex-reinforce-2"


class Pod0:
    """A pod 0 that gathers, in a thread."""

    def __init__(self, pods: int, gang: str = GANG) -> None:
        self.listener = listen(0)
        self.port = int(self.listener.getsockname()[1])
        self.gathered = spawn(lambda: asyncio.run(host(gang, pods, self.listener)))

    def call(self, **words: Any) -> socket.socket:
        """A caller that has said these words."""
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        caller.sendall(json.dumps(words).encode() + b"\n")
        return caller


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SAY", 0.05)


def test_nobody_goes_before_the_last_one_is_there() -> None:
    pod0 = Pod0(4)
    counts: dict[int, list[int]] = {1: [], 2: [], 3: []}
    gone = {rank: spawn(join, "127.0.0.1", pod0.port, GANG, rank, counts[rank].append) for rank in (1, 2)}
    wait_until(lambda: 3 in counts[1] and 3 in counts[2])
    assert not pod0.gathered.done()
    assert not any(pod.done() for pod in gone.values())
    gone[3] = spawn(join, "127.0.0.1", pod0.port, GANG, 3, counts[3].append)
    for pod in (*gone.values(), pod0.gathered):
        pod.result(30)


def test_who_left_is_waited_for_again() -> None:
    """A pod was suspended, or lost its node, while another one had no place yet."""
    pod0 = Pod0(3)
    counts: list[int] = []
    left = pod0.call(gang=GANG, rank=1)
    assert left.recv(100)
    left.close()
    second = spawn(join, "127.0.0.1", pod0.port, GANG, 2, counts.append)
    wait_until(lambda: counts and counts[-1] == 2)
    assert not pod0.gathered.done()
    first = spawn(join, "127.0.0.1", pod0.port, GANG, 1, counts.append)
    for pod in (first, second, pod0.gathered):
        pod.result(30)


def test_who_calls_again_takes_its_own_place() -> None:
    """Its former connection hangs: the node was lost, and nobody has closed it."""
    pod0 = Pod0(3)
    former = pod0.call(gang=GANG, rank=1)
    assert former.recv(100)
    again = spawn(join, "127.0.0.1", pod0.port, GANG, 1, lambda there: None)
    wait_until(lambda: not former.recv(100))  # until it is closed
    assert not pod0.gathered.done()
    second = spawn(join, "127.0.0.1", pod0.port, GANG, 2, lambda there: None)
    for pod in (again, second, pod0.gathered):
        pod.result(30)


@pytest.mark.parametrize(
    "words",
    [
        {"gang": "team/rex-reinforce-1", "rank": 1},
        {"gang": "others/rex-reinforce-2", "rank": 1},
        {"gang": GANG, "rank": 0},
        {"gang": GANG, "rank": 3},
        {"gang": GANG, "rank": "1"},
        {"gang": GANG},
        {},
    ],
)
def test_strangers_are_told_whose_gang_it_is_and_do_not_count(words: dict[str, Any]) -> None:
    pod0 = Pod0(3)
    with pod0.call(**words) as stranger:
        answers = stranger.makefile()
        assert json.loads(answers.readline()) == {"gang": GANG}
        assert answers.readline() == ""  # it hangs up
    counts: list[int] = []
    known = [spawn(join, "127.0.0.1", pod0.port, GANG, 1, counts.append)]
    wait_until(lambda: counts)
    assert set(counts) == {2}
    known.append(spawn(join, "127.0.0.1", pod0.port, GANG, 2, counts.append))
    for pod in (*known, pod0.gathered):
        pod.result(30)


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[" * 900 + b"\n", b"\xff\n", b"[]\n", b"x" * 9999])
def test_noise_harms_nobody(noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
    pod0 = Pod0(2)
    with socket.create_connection(("127.0.0.1", pod0.port)) as stranger:
        stranger.sendall(noise)
    join("127.0.0.1", pod0.port, GANG, 1, lambda there: None)
    pod0.gathered.result(30)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_another_gang_is_not_joined() -> None:
    pod0 = Pod0(2, gang="others/max-evaluate-1")
    with pytest.raises(NotYet, match=r"at 127\.0\.0\.1 it is others/max-evaluate-1 that answers"):
        join("127.0.0.1", pod0.port, GANG, 1, lambda there: None)
    join("127.0.0.1", pod0.port, "others/max-evaluate-1", 1, lambda there: None)
    pod0.gathered.result(30)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "it is something else that answers"),
        (b"[]\n", "it is something else that answers"),
        (b'{"there": "2"}\n', "it is something else that answers"),
        (b"", "has hung up"),
        (b'{"there": 2}\n', "has hung up"),
        (None, "says nothing more"),
    ],
)
def test_what_is_no_pod_0_is_not_joined(answer: bytes | None, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SILENCE", 0.2)
    monkeypatch.setattr(gathering, "CONNECT", 3600)
    ended = threading.Event()

    def speak() -> None:
        connection, _ = server.accept()
        with connection:
            if answer is None:
                ended.wait(30)
            else:
                connection.recv(1000)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(NotYet, match=problem):
            join("127.0.0.1", server.getsockname()[1], GANG, 1, lambda there: None)
        ended.set()
        thread.join()


def test_nobody_there_is_told() -> None:
    with listen(0) as free:
        port = free.getsockname()[1]
    with pytest.raises(NotYet, match=f"127.0.0.1, port {port}, does not answer"):
        join("127.0.0.1", port, GANG, 1, lambda there: None)
    with pytest.raises(NotYet, match="does not resolve"):
        join("no-such-host.invalid", port, GANG, 1, lambda there: None)


def test_the_rendezvous_of_a_former_gang_is_neither_joined_nor_harmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt was suspended and goes on while its former pods still save: torch's own store listens there."""
    monkeypatch.setattr(gathering, "SILENCE", 0.5)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    with pytest.raises(NotYet):
        join("127.0.0.1", store.port, GANG, 1, lambda there: None)
    store.set("still", "there")
    peer = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=30))
    assert peer.get("still") == b"there"


def test_the_port_is_free_for_torch_at_once() -> None:
    pod0 = Pod0(5)
    others = [spawn(join, "127.0.0.1", pod0.port, GANG, rank, lambda there: None) for rank in range(1, 5)]
    for pod in (pod0.gathered, *others):
        pod.result(30)
    store = TCPStore("127.0.0.1", pod0.port, is_master=True, wait_for_workers=False)
    assert store.port == pod0.port


def test_the_others_hang_up_first() -> None:
    """Else the port stays taken for a minute, to whoever does not ask to have it all the same."""
    pod0 = Pod0(2)
    with pod0.call(gang=GANG, rank=1) as caller:
        answers = caller.makefile()
        wait_until(lambda: json.loads(answers.readline()) == {"go": True})
        time.sleep(0.2)
        assert not pod0.gathered.done()
        answers.close()
    pod0.gathered.result(30)


def test_a_pod_that_is_told_to_go_and_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "CONNECT", 0.2)
    pod0 = Pod0(2)
    with pod0.call(gang=GANG, rank=1):
        pod0.gathered.result(30)


def test_a_stranger_who_stays_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    pod0 = Pod0(2)
    with socket.create_connection(("127.0.0.1", pod0.port)):
        join("127.0.0.1", pod0.port, GANG, 1, lambda there: None)
        pod0.gathered.result(30)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_pod_0_does_meanwhile_may_fail() -> None:
    def fail() -> None:
        raise PermissionError("not yours")

    with pytest.raises(PermissionError), listen(0) as listener:
        asyncio.run(host(GANG, 2, listener, fail))
