"""What the operator reads from rank 0."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from instructbooth.contract import GANG_HEADER, Stage
from instructbooth.spec.status import Progress
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels, format_seconds, metric_name

LABELS = {"namespace": "team", "job": "rex", "stage": "reinforce"}


class Now:
    def __init__(self) -> None:
        self.value = 1_700_000_000.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def reporter(now: Now) -> Iterator[ProgressReporter]:
    made = ProgressReporter(RunLabels("team", "rex", Stage.REINFORCE), now=now)
    yield made
    made.close()


def get(port: int, path: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.headers["Content-Type"], response.read()


def test_eta_counts_from_where_this_attempt_began(reporter: ProgressReporter, now: Now) -> None:
    reporter.start(100, "epochs", done=40)
    now.value += 30
    reporter.update(50, reward_mean=0.5)  # 10 epochs in 30 s: 50 more take 150 s
    assert reporter.current == Progress(
        step=50,
        total=100,
        unit="epochs",
        eta_seconds=150,
        heartbeat="2023-11-14T22:13:50Z",
        metrics={"reward_mean": 0.5},
    )


def test_it_is_served_in_the_words_of_the_schema_and_of_prometheus(reporter: ProgressReporter, now: Now) -> None:
    port = reporter.serve(0, "127.0.0.1")
    reporter.start(4, "epochs")
    now.value += 2
    reporter.update(1, loss=0.25, reward_mean=0.5, kl=0.01)
    kind, body = get(port, "/progress")
    assert kind == "application/json"
    assert json.loads(body)["etaSeconds"] == 6
    assert Progress.model_validate_json(body) == reporter.current
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(get(port, "/metrics")[1].decode())
        for sample in family.samples
    }
    assert samples["instructbooth_stage_progress_ratio"].value == 0.25
    assert samples["instructbooth_reward_mean"].value == 0.5
    assert samples["instructbooth_loss"].value == 0.25
    assert samples["instructbooth_kl"].value == 0.01
    assert all(sample.labels == LABELS for sample in samples.values())
    assert get(port, "/healthz")[1] == b"ok\n"
    with pytest.raises(urllib.error.HTTPError):
        get(port, "/other")


def test_what_is_no_number_is_left_out_and_said(reporter: ProgressReporter, caplog: pytest.LogCaptureFixture) -> None:
    reporter.start(2, "steps")
    reporter.update(1, loss=float("nan"), kl=1.0)
    assert reporter.current.metrics == {"kl": 1.0}
    assert "loss is nan" in caplog.text


def test_a_heartbeat_without_a_step(reporter: ProgressReporter, now: Now) -> None:
    reporter.start(2, "steps")
    now.value += 60
    reporter.beat()
    assert reporter.current.heartbeat == "2023-11-14T22:14:20Z"
    assert reporter.current.step == 0


def test_lines_are_spaced_but_the_last_one_always_comes(
    reporter: ProgressReporter, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reporter.start(3, "steps")
    for step in (1, 2, 3):
        now.value += 1
        reporter.update(step, loss=0.5)
    lines = [r.message for r in caplog.records]
    assert lines == ["reinforce: 1/3 steps, 2s left, loss 0.5", "reinforce: 3/3 steps, 0s left, loss 0.5"]


@pytest.mark.parametrize(("seconds", "text"), [(42, "42s"), (190, "3m10s"), (3720, "1h02m")])
def test_durations_for_people(seconds: int, text: str) -> None:
    assert format_seconds(seconds) == text


def test_names_prometheus_allows() -> None:
    assert metric_name("reward/clip-score") == "reward_clip_score"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_rank_0_answers_on_both_families_and_says_who_it_is(host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    made = ProgressReporter(RunLabels("team", "rex", Stage.REINFORCE, 3))
    port = made.serve(0)

    connection = http.client.HTTPConnection(host, port, timeout=5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().getheader(GANG_HEADER) == "team/rex-reinforce-3"
    connection.close()
    made.close()


def test_where_there_is_no_ipv6_it_answers_without(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without(address: tuple[str, int], **options: Any) -> socket.socket:
        if options.get("family") == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "IPv6 is switched off")
        return create(address, **options)

    monkeypatch.setattr(socket, "create_server", without)
    made = ProgressReporter(RunLabels("team", "rex", Stage.REINFORCE))
    port = made.serve(0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()
    made.close()
