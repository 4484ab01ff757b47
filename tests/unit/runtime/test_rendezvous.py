"""How the pods of a gang find rank 0: an address in object storage, believed only where the right one answers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from instructbooth.artifacts.errors import AccessDenied, BucketNotFound, EndpointUnreachable
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import Env, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime import rendezvous
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import TransientError
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels
from instructbooth_trainer.runtime.rendezvous import NotYet, check, meet, read


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


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def rank0(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[RunLabels], ProgressReporter]]:
    """Serves as the rank 0 of a gang at 127.0.0.1, in place of the one before."""
    serving: list[ProgressReporter] = []

    def serve(labels: RunLabels) -> ProgressReporter:
        reporter = ProgressReporter(labels)
        port = reporter.serve(0, "127.0.0.1")
        serving.append(reporter)
        monkeypatch.setattr(rendezvous, "check", lambda address, gang: check(address, gang, port))
        return reporter

    yield serve
    for reporter in serving:
        reporter.close()


LABELS = RunLabels("team", "rex", Stage.REINFORCE, 2)


def env(tmp_path: Path, port: int) -> dict[str, str]:
    return {Env.STORE: str(tmp_path / "store"), "MASTER_PORT": str(port)}


def test_the_others_find_rank_0_by_what_it_wrote(
    pod: PodEnvironment, listening: int, tmp_path: Path, rank0: Callable[[RunLabels], ProgressReporter]
) -> None:
    store = LocalStore(tmp_path / "store", pod.job.spec.artifacts.bucket)
    rank0(LABELS)
    assert meet(pod, env(tmp_path, listening)) == "localhost"
    key = RunLayout.of(pod.job).rendezvous(Stage.REINFORCE, 2)
    assert key.endswith("/reinforce/2/rendezvous.json")
    assert json.loads(store.get_bytes(key)) == {"address": "127.0.0.1"}
    assert meet(replace(pod, node_rank=1), env(tmp_path, listening), patience=0) == "127.0.0.1"


def test_they_may_begin_before_it(
    pod: PodEnvironment,
    listening: int,
    tmp_path: Path,
    rank0: Callable[[RunLabels], ProgressReporter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendezvous, "AGAIN", 0.01)
    rank0(LABELS)
    late = threading.Timer(0.3, meet, (pod, env(tmp_path, listening)))
    late.start()
    began = time.monotonic()
    assert meet(replace(pod, node_rank=1), env(tmp_path, listening), patience=30) == "127.0.0.1"
    assert time.monotonic() - began >= 0.3
    late.join()


@pytest.mark.parametrize(
    "other",
    [
        replace(LABELS, attempt=1),
        replace(LABELS, stage=Stage.EVALUATE),
        replace(LABELS, namespace="others"),
        replace(LABELS, job="max"),
    ],
)
def test_an_address_that_is_another_gang_s_by_now_is_not_joined(
    other: RunLabels,
    pod: PodEnvironment,
    listening: int,
    tmp_path: Path,
    rank0: Callable[[RunLabels], ProgressReporter],
) -> None:
    """The attempt was suspended and goes on: its former rank 0 has left its address there."""
    meet(pod, env(tmp_path, listening))
    rank0(other)
    with pytest.raises(TransientError, match=f"at 127.0.0.1 it is {other.gang} that answers") as caught:
        meet(replace(pod, node_rank=1), env(tmp_path, listening), patience=0)
    assert caught.value.reason == "CoordinatorUnreachable"


def test_a_gang_that_is_complete_is_a_former_one(
    pod: PodEnvironment, listening: int, tmp_path: Path, rank0: Callable[[RunLabels], ProgressReporter]
) -> None:
    """The attempt was suspended and goes on while its former pods still save."""
    meet(pod, env(tmp_path, listening))
    former = rank0(LABELS)
    former.formed()
    with pytest.raises(TransientError, match="is complete: it is a former one"):
        meet(replace(pod, node_rank=1), env(tmp_path, listening), patience=0)
    rank0(LABELS)
    assert meet(replace(pod, node_rank=1), env(tmp_path, listening), patience=0) == "127.0.0.1"


def test_what_answers_and_is_no_rank_0_is_not_joined(listening: int) -> None:
    def answer() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports.append(server.getsockname()[1])
            ready.set()
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")

    ports: list[int] = []
    ready = threading.Event()
    thread = threading.Thread(target=answer)
    thread.start()
    ready.wait()
    with pytest.raises(NotYet, match="it is something else that answers"):
        check("127.0.0.1", LABELS.gang, ports[0])
    thread.join()


def test_what_is_missing_is_said(
    pod: PodEnvironment, tmp_path: Path, rank0: Callable[[RunLabels], ProgressReporter]
) -> None:
    other = replace(pod, node_rank=1)
    with pytest.raises(TransientError, match="within 0 s: it has not said where it is; see whether pod 0 runs"):
        meet(other, env(tmp_path, 9), patience=0)
    meet(pod, env(tmp_path, 9))
    with pytest.raises(NotYet, match=r"127\.0\.0\.1, port 9, does not answer"):
        check("127.0.0.1", LABELS.gang, 9)
    rank0(LABELS)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1, port 9, does not answer.*\(ports 9 and 9400\)"):
        meet(other, env(tmp_path, 9), patience=0)


def test_a_host_that_is_known_beforehand_is_only_waited_for(pod: PodEnvironment, listening: int) -> None:
    """On one machine (`instructbooth run`): no address is written, nobody is asked who it is."""
    known = replace(pod, coordinator="localhost", address=None)
    assert meet(known, {"MASTER_PORT": str(listening)}) == "localhost"
    assert meet(replace(known, node_rank=1), {"MASTER_PORT": str(listening)}, patience=0) == "localhost"
    with pytest.raises(TransientError, match="does not resolve"):
        meet(replace(known, node_rank=1, coordinator="no-such-host.invalid"), {}, patience=0)


def test_a_gang_of_one_pod_needs_no_storage_for_it(pod: PodEnvironment) -> None:
    assert meet(replace(pod, attempt_nodes=1, address=None), {}) == "localhost"


def test_pod_0_makes_the_bucket_where_the_job_wants_it_made(
    pod: PodEnvironment, tmp_path: Path, make_job: Callable[..., ResolvedJob]
) -> None:
    elsewhere = {Env.STORE: str(tmp_path / "elsewhere")}
    with pytest.raises(BucketNotFound):
        meet(pod, elsewhere)
    artifacts = pod.job.spec.artifacts.model_copy(update={"create_bucket": True})
    spec = pod.job.spec.model_copy(update={"artifacts": artifacts})
    made = replace(pod, job=pod.job.model_copy(update={"spec": spec}))
    assert meet(made, elsewhere) == "localhost"
    key = RunLayout.of(pod.job).rendezvous(Stage.REINFORCE, 2)
    assert LocalStore(tmp_path / "elsewhere", artifacts.bucket).get_bytes(key)


def test_storage_that_is_away_is_waited_for_and_what_cannot_be_mended_is_raised() -> None:
    class Broken:
        error: Exception

        def get_bytes(self, key: str) -> bytes:
            raise self.error

        def url(self, key: str) -> str:
            return f"s3://b/{key}"

    broken = Broken()
    broken.error = EndpointUnreachable("nobody at minio:9000")
    with pytest.raises(NotYet, match="nobody at minio:9000"):
        read(broken, "x")  # type: ignore[arg-type]
    broken.error = ValueError("no JSON")
    with pytest.raises(NotYet, match="s3://b/x holds no address"):
        read(broken, "x")  # type: ignore[arg-type]
    broken.error = BucketNotFound("no bucket")
    with pytest.raises(NotYet, match="no bucket"):  # rank 0 is about to make it
        read(broken, "x", create_bucket=True)  # type: ignore[arg-type]
    for error in (BucketNotFound("no bucket"), AccessDenied("no")):
        broken.error = error
        with pytest.raises(type(error)):
            read(broken, "x")  # type: ignore[arg-type]
