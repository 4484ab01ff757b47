"""remote against a real HTTP server: what it is sent, what is tried again, and what each failure becomes."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from instructbooth.contract import ExitCode
from instructbooth_trainer.rewards import score
from instructbooth_trainer.rewards.remote import create
from instructbooth_trainer.runtime.errors import RunError, TransientError, UserError
from instructbooth_trainer.runtime.exits import FAILURE, classify


@dataclass
class Service:
    """Answers by a script, (status, body, headers) per request, the last one for ever; keeps what it was sent."""

    script: list[tuple[int, bytes, dict[str, str]]]
    url: str = ""
    bodies: list[dict[str, list[str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serve(*script: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> Iterator[Service]:
    service = Service([(*entry, {})[:3] for entry in script])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            service.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            service.headers.append(dict(self.headers))
            status, body, headers = service.script[min(len(service.bodies), len(service.script)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}/score"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Instead of waiting, what would have been waited."""
    seconds: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", seconds.append)
    return seconds


def scores(*values: object) -> bytes:
    return json.dumps({"scores": list(values)}).encode()


IMAGES = torch.linspace(0, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
PROMPTS = ["a star", "a mäscot"]


def test_it_sends_png_and_text_and_returns_the_numbers() -> None:
    with serve((200, scores(0.25, -3))) as service:
        assert create({"url": service.url})(IMAGES, PROMPTS).tolist() == [0.25, -3.0]
    (body,) = service.bodies
    assert body["prompts"] == PROMPTS
    for png, expected in zip(body["images"], IMAGES, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(png)))
        assert picture.format == "PNG"
        sent = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert torch.equal(sent, (expected * 255).round().to(torch.uint8))
    assert "Authorization" not in service.headers[0]


def test_batches_keep_their_order() -> None:
    with serve((200, scores(1, 2)), (200, scores(3, 4)), (200, scores(5))) as service:
        images, prompts = torch.zeros(5, 3, 4, 4), list("abcde")
        assert create({"url": service.url, "batchSize": 2})(images, prompts).tolist() == [1, 2, 3, 4, 5]
    assert [body["prompts"] for body in service.bodies] == [["a", "b"], ["c", "d"], ["e"]]


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "secret")
    with serve((200, scores(1, 2)), (403, b"who are you?")) as service:
        reward = create({"url": service.url, "tokenEnv": "SCORER_TOKEN"})
        reward(IMAGES, PROMPTS)
        with pytest.raises(UserError, match=r"403: who are you\?") as caught:
            reward(IMAGES, PROMPTS)
    assert service.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("status", [408, 429, 500, 503, 599])
def test_a_failing_service_is_asked_again(status: int, waits: list[float]) -> None:
    with serve((status, b"later"), (status, b"later"), (200, scores(1, 2))) as service:
        assert create({"url": service.url})(IMAGES, PROMPTS).tolist() == [1, 2]
    assert len(service.bodies) == 3
    assert service.bodies[0] == service.bodies[2]
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 3.0


def test_a_service_that_fails_for_ever_is_a_failure_of_the_surroundings(waits: list[float]) -> None:
    with serve((503, b"overloaded")) as service, pytest.raises(TransientError, match="503: overloaded") as caught:
        create({"url": service.url, "retries": 9})(IMAGES, PROMPTS)
    assert len(service.bodies) == 10
    assert len(waits) == 9
    assert max(waits) <= 60
    assert classify(caught.value)[0] == ExitCode.TRANSIENT
    assert classify(caught.value)[1].reason == "RewardFailed"


def test_no_retries_is_one_attempt() -> None:
    with serve((503, b"")) as service, pytest.raises(TransientError, match="503: nothing"):
        create({"url": service.url, "retries": 0})(IMAGES, PROMPTS)
    assert len(service.bodies) == 1


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("86400", 60)])
def test_retry_after_is_honoured_up_to_a_minute(asked: str, waited: int, waits: list[float]) -> None:
    with serve((429, b"", {"Retry-After": asked}), (200, scores(1, 2))) as service:
        create({"url": service.url})(IMAGES, PROMPTS)
    assert waits == [waited]


def test_nobody_there_is_a_failure_of_the_surroundings(waits: list[float]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/score?key=secret"
        with pytest.raises(TransientError, match=r"RewardFailed: http://127\.0\.0\.1:\d+/score cannot be reached"):
            create({"url": url, "retries": 2})(IMAGES, PROMPTS)
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 404, 413, 301, 204])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    headers = {"Location": "http://127.0.0.1:9/elsewhere", "Retry-After": "1"}
    with serve((status, b"no\nsuch " + b"thing" * 100, headers)) as service, pytest.raises(UserError) as caught:
        create({"url": service.url})(IMAGES, PROMPTS)
    assert len(service.bodies) == 1
    assert f"answered {status}" in caught.value.message
    assert status == 204 or "no such thing" in caught.value.message
    assert len(caught.value.message) < 420


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (scores(1), "of 2 numbers"),
        (scores(1, 2, 3), "of 2 numbers"),
        (b'{"score": [1, 2]}', "of 2 numbers"),
        (b"[1, 2]", "of 2 numbers"),
        (b"<html>", "no JSON: <html>"),
        (b"\xff", "no JSON"),
        (b'{"scores": [1, NaN]}', "nan, which is no finite number"),
        (b'{"scores": [1, -Infinity]}', "-inf, which is no finite number"),
        (scores(1, "2"), "'2', which is no finite number"),
        (scores(1, True), "True, which is no finite number"),
        (scores(None, 1), "None, which is no finite number"),
    ],
)
def test_a_bad_answer_ends_the_run(body: bytes, told: str) -> None:
    with serve((200, body)) as service, pytest.raises(RunError) as caught:
        score("remote", create({"url": service.url}), IMAGES, PROMPTS)
    assert caught.value.reason == "RewardFailed"
    assert told in caught.value.message
    assert classify(caught.value)[0] == FAILURE
    assert len(service.bodies) == 1


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "url is None"),
        ({"url": "ftp://a/b"}, "http or https"),
        ({"url": "http:///b"}, "http or https"),
        ({"url": "http://me:secret@a/b"}, "tokenEnv"),
        ({"batchSize": 0}, "batchSize is 0; it must be a whole number from 1 to 1024"),
        ({"batchSize": 2.5}, r"batchSize is 2\.5"),
        ({"retries": 21}, "retries is 21; it must be a whole number from 0 to 20"),
        ({"retries": True}, "retries is True"),
        ({"timeoutSeconds": 0}, "timeoutSeconds is 0; it must be a number above 0 and at most 3600"),
        ({"tokenEnv": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE"),
        ({"token": "secret"}, "unknown parameter 'token'"),
    ],
)
def test_bad_parameters_are_told(params: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        create({"url": "http://scorer/score", **params} if params else {})
