"""How the pods of a gang find pod 0: an address in object storage, and how long they wait for whom."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instructbooth.artifacts.errors import AccessDenied, ArtifactError, BucketNotFound, EndpointUnreachable
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.local import LocalStore
from instructbooth.cli.ports import free_port
from instructbooth.contract import GANG_HEADER, Env, Port, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime import gathering, rendezvous
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import TransientError
from instructbooth_trainer.runtime.gathering import NotYet
from instructbooth_trainer.runtime.rendezvous import Place, meet
from tests.unit.runtime.background import spawn, wait_until


@pytest.fixture
def pod(tmp_path: Path, make_job: Callable[..., ResolvedJob]) -> PodEnvironment:
    job = make_job(reinforcement={"nodes": 2})
    LocalStore(tmp_path / "store", job.spec.artifacts.bucket).ensure_bucket(create=True)
    return PodEnvironment(
        job=job,
        stage=Stage.REINFORCE,
        attempt=2,
        inputs={},
        node_rank=0,
        address="127.0.0.1",
        coordinator=None,
        local=False,
        workdir=tmp_path,
        attempt_nodes=2,
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "AGAIN", (0.01, 0.01))
    monkeypatch.setattr(rendezvous, "REWRITE", 0.1)
    monkeypatch.setattr(gathering, "SAY", 0.02)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {Env.STORE: str(tmp_path / "store"), "MASTER_PORT": str(free_port())}


def address_of(pod: PodEnvironment, env: dict[str, str]) -> dict[str, Any]:
    place = Place.of(pod, env)
    try:
        return dict(json.loads(place.read()[1]))
    except NotYet:
        return {}


@pytest.mark.parametrize("first", [0, 1])
def test_the_others_find_pod_0_whoever_comes_first(first: int, pod: PodEnvironment, env: dict[str, str]) -> None:
    both = {rank: replace(pod, node_rank=rank) for rank in (0, 1)}
    early = spawn(meet, both[first], env)
    time.sleep(0.2)
    assert not early.done()
    late = meet(both[1 - first], env, patience=30)
    assert {first: early.result(30), 1 - first: late} == {0: "localhost", 1: "127.0.0.1"}
    key = RunLayout.of(pod.job).rendezvous(Stage.REINFORCE, 2)
    assert key.endswith("/reinforce/2/rendezvous.json")
    assert address_of(pod, env)["address"] == "127.0.0.1"


def test_for_a_pod_0_that_has_not_come_they_wait_without_a_bound(pod: PodEnvironment, env: dict[str, str]) -> None:
    """It has no place yet, for hours perhaps: that is nobody's failure."""
    other = spawn(meet, replace(pod, node_rank=1), env, 0.05)
    time.sleep(0.5)
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


def test_the_address_of_a_former_pod_0_says_nothing(pod: PodEnvironment, env: dict[str, str]) -> None:
    """The attempt was suspended and goes on: nobody listens there, or another gang does, or one that trains."""
    Place.of(pod, env).write("127.0.0.1", 7)
    other = spawn(meet, replace(pod, node_rank=1), env, 0.05)
    time.sleep(0.5)
    with socket.create_server(("127.0.0.1", int(env["MASTER_PORT"]))) as stranger:
        for _ in range(3):
            stranger.accept()[0].close()
    time.sleep(0.5)
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


def test_a_pod_0_that_lives_and_cannot_be_joined_is_a_failure(pod: PodEnvironment, env: dict[str, str]) -> None:
    """Something keeps the pods apart. Pod 0 writes on, so that this can be told from one that is not there."""
    gathered = spawn(meet, pod, env)
    elsewhere = {**env, "MASTER_PORT": str(free_port())}
    began = time.monotonic()
    with pytest.raises(TransientError) as caught:
        meet(replace(pod, node_rank=1), elsewhere, patience=0.3)
    assert time.monotonic() - began >= 0.3
    port = elsewhere["MASTER_PORT"]
    assert caught.value.reason == "CoordinatorUnreachable"
    assert f"pod 0 could not be joined within 0 s: 127.0.0.1, port {port}, does not answer" in caught.value.message
    assert f"(port {port} of pod 0)" in caught.value.message
    assert not gathered.done()
    assert address_of(pod, env)["times"] >= 1
    assert meet(replace(pod, node_rank=1), env) == "127.0.0.1"
    gathered.result(30)


def test_patience_begins_anew_with_a_pod_0_that_was_joined(
    pod: PodEnvironment, env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """It was there and has gone (its node, or Kueue, took its place): the next one may come late."""
    caplog.set_level(logging.INFO)
    place = Place.of(pod, env)
    place.write("127.0.0.1", 0)
    other = spawn(meet, replace(pod, node_rank=1), env, 0.5)
    wait_until(lambda: "waiting for pod 0: 127.0.0.1, port" in caplog.text)
    place.write("127.0.0.1", 1)
    with socket.create_server(("127.0.0.1", int(env["MASTER_PORT"]))) as first:
        connection = first.accept()[0]
        connection.sendall(b'{"there": 1}\n')
        wait_until(lambda: "1 of 2 pods are there" in caplog.text)
        connection.close()
    time.sleep(1)
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


def test_a_host_that_is_known_beforehand_is_waited_for_with_a_bound(
    pod: PodEnvironment, env: dict[str, str], tmp_path: Path
) -> None:
    """On one machine (`instructbooth run`): no address is written."""
    known = replace(pod, coordinator="localhost", address=None)
    gathered = spawn(meet, known, env)
    assert meet(replace(known, node_rank=1), env, patience=30) == "localhost"
    assert gathered.result(30) == "localhost"
    assert not address_of(pod, env)
    with pytest.raises(TransientError, match="does not resolve"):
        meet(replace(known, node_rank=1, coordinator="no-such-host.invalid"), env, patience=0)


def test_a_gang_of_one_pod_needs_no_storage_for_it(pod: PodEnvironment) -> None:
    assert meet(replace(pod, attempt_nodes=1, address=None), {}) == "localhost"


def test_pod_0_makes_the_bucket_where_the_job_wants_it_made(pod: PodEnvironment, tmp_path: Path) -> None:
    elsewhere = {Env.STORE: str(tmp_path / "elsewhere"), "MASTER_PORT": str(free_port())}
    with pytest.raises(BucketNotFound):
        meet(pod, elsewhere)
    artifacts = pod.job.spec.artifacts.model_copy(update={"create_bucket": True})
    spec = pod.job.spec.model_copy(update={"artifacts": artifacts})
    made = replace(pod, job=pod.job.model_copy(update={"spec": spec}))
    other = spawn(meet, replace(made, node_rank=1), elsewhere)  # comes first, and finds no bucket
    time.sleep(0.2)
    assert meet(made, elsewhere) == "localhost"
    assert other.result(30) == "127.0.0.1"
    key = RunLayout.of(pod.job).rendezvous(Stage.REINFORCE, 2)
    assert LocalStore(tmp_path / "elsewhere", artifacts.bucket).get_bytes(key)


class Broken:
    """A store that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_bytes(self, key: str) -> bytes:
        raise self.error

    def url(self, key: str) -> str:
        return f"s3://b/{key}"


def test_what_storage_says_of_the_address() -> None:
    def read(error: Exception, create_bucket: bool = False) -> None:
        Place(Broken(error), "x", create_bucket).read()  # type: ignore[arg-type]

    with pytest.raises(NotYet, match="s3://b/x holds no address"):
        read(ValueError("no JSON"))
    with pytest.raises(NotYet, match="no bucket"):  # pod 0 makes it when it comes
        read(BucketNotFound("no bucket"), create_bucket=True)
    for error in (BucketNotFound("no bucket"), AccessDenied("no"), EndpointUnreachable("nobody at minio:9000")):
        with pytest.raises(type(error)):
            read(error)


class Storage:
    """What Place.read and Place.write meet, by turns: errors, or what is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.asked = 0
        for name in ("read", "write"):
            monkeypatch.setattr(Place, name, self._behind(getattr(Place, name)))

    def _behind(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*arguments: Any) -> Any:
            self.asked += 1
            if self.error:
                raise self.error
            return call(*arguments)

        return answer


def test_storage_that_is_away_is_waited_for_with_a_bound(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(monkeypatch).error = EndpointUnreachable("nobody at minio:9000")
    began = time.monotonic()
    with pytest.raises(EndpointUnreachable):
        meet(replace(pod, node_rank=1), env, patience=0.2)
    assert time.monotonic() - began >= 0.2


def test_storage_that_cannot_be_mended_is_not_waited_for(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(monkeypatch).error = AccessDenied("no")
    with pytest.raises(AccessDenied):
        meet(replace(pod, node_rank=1), env)


def test_storage_that_was_away_is_forgiven(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pod 0 has no place, for hours; once in a while storage does not answer."""
    storage = Storage(monkeypatch)
    other = spawn(meet, replace(pod, node_rank=1), env, 0.3)
    for _ in range(4):
        storage.error = EndpointUnreachable("nobody at minio:9000")
        time.sleep(0.1)
        storage.error = None
        time.sleep(0.1)
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


def test_a_pod_0_that_changed_its_address_once_and_is_gone_is_waited_for(
    pod: PodEnvironment, env: dict[str, str]
) -> None:
    place = Place.of(pod, env)
    place.write("127.0.0.1", 0)
    other = spawn(meet, replace(pod, node_rank=1), env, 0.5)
    time.sleep(0.1)
    place.write("127.0.0.1", 1)
    time.sleep(1)
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


def test_storage_that_is_away_while_pod_0_waits_does_not_end_it(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 1.0)
    storage = Storage(monkeypatch)
    gathered = spawn(meet, pod, env)
    wait_until(lambda: storage.asked == 1)
    storage.error = EndpointUnreachable("nobody at minio:9000")
    wait_until(lambda: storage.asked > 3)
    storage.error = None
    time.sleep(1.5)  # it is forgiven: longer ago than the patience
    assert meet(replace(pod, node_rank=1), env) == "127.0.0.1"
    gathered.result(30)


def test_a_write_that_hangs_keeps_no_gang_from_going(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    write = Place.write

    def hang(place: Place, address: str | None, times: int) -> None:
        if times:
            hangs.set()
            time.sleep(3600)
        write(place, address, times)

    monkeypatch.setattr(Place, "write", hang)
    gathered = spawn(meet, pod, env)
    assert hangs.wait(30)
    assert meet(replace(pod, node_rank=1), env) == "127.0.0.1"
    assert gathered.result(30) == "localhost"


@pytest.mark.parametrize("error", [EndpointUnreachable("away"), AccessDenied("no")])
def test_a_pod_0_that_cannot_say_where_it_is_fails_at_once(
    error: ArtifactError, pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(monkeypatch).error = error
    with pytest.raises(type(error)):
        meet(pod, env)


@pytest.mark.parametrize("error", [AccessDenied("who are you?"), OSError("an odd one")])
def test_an_odd_answer_of_storage_in_hours_of_waiting_is_borne(
    error: Exception, pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its users are not loaded yet, it has too much to do: after it has once said yes that is nobody's mistake."""
    storage = Storage(monkeypatch)
    gathered = spawn(meet, pod, env)
    wait_until(lambda: storage.asked == 1)
    storage.error = error
    wait_until(lambda: storage.asked > 3)
    storage.error = None
    assert meet(replace(pod, node_rank=1), env) == "127.0.0.1"
    gathered.result(30)


def test_so_it_is_by_the_others(pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(monkeypatch)
    other = spawn(meet, replace(pod, node_rank=1), env, 10)
    wait_until(lambda: storage.asked > 1)
    storage.error = AccessDenied("who are you?")
    seen = storage.asked
    wait_until(lambda: storage.asked > seen + 3)
    storage.error = None
    assert not other.done()
    assert meet(pod, env) == "localhost"
    assert other.result(30) == "127.0.0.1"


@pytest.mark.parametrize("error", [EndpointUnreachable("away"), AccessDenied("no"), OSError("an odd one")])
def test_but_not_for_ever_as_nobody_can_know_that_pod_0_lives(
    error: Exception, pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.5)
    storage = Storage(monkeypatch)
    gathered = spawn(meet, pod, env)
    wait_until(lambda: storage.asked == 1)
    storage.error = error
    with pytest.raises(type(error)):
        gathered.result(30)


def test_a_pod_0_whose_write_hangs_ends_as_well(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.5)
    write = Place.write
    monkeypatch.setattr(Place, "write", lambda *given: time.sleep(3600) if given[2] else write(*given))
    with pytest.raises(EndpointUnreachable, match="no answer to a write"):
        meet(pod, env)


def test_while_it_gathers_the_operator_can_see_that_pod_0_lives(
    pod: PodEnvironment, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(Port, "METRICS", port)
    gathered = spawn(meet, pod, env)

    def said() -> tuple[str | None, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                return answer.headers[GANG_HEADER], json.loads(answer.read())["step"]
        except OSError:
            return None, None

    wait_until(lambda: said() == ("team/rex-reinforce-2", 0))
    assert meet(replace(pod, node_rank=1), env) == "127.0.0.1"
    gathered.result(30)
    assert said() == (None, None)  # rank 0 itself serves there from now on
