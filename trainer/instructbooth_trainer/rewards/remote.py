"""remote: scores by a service of your own over HTTP, for models that do not fit into the trainer or speak no Python.

Asked is POST {"prompts": [text, ...], "images": [PNG in base64, ...]}, answered {"scores": [number, ...]}, one each.

Parameters:
    url: where, http or https. Required.
    batchSize: pictures per request, 1 to 1024; 16 by default.
    timeoutSeconds: of one request, at most 3600; 30 by default.
    retries: further attempts of a request, 0 to 20; 5 by default. Tried again are connection errors, 408, 429 and 5xx,
        after 1, 2, 4, ... seconds give or take half, or after what Retry-After asks for; never more than a minute.
    tokenEnv: environment variable (spec.podTemplate.env) that holds a bearer token. A token never stands in a spec.

Ranks wait for each other's scores for five minutes: choose timeoutSeconds and retries so that one call stays below it.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import certifi
import torch
import urllib3
from PIL import Image
from torch import Tensor
from urllib3.exceptions import HTTPError

from instructbooth_trainer.rewards.params import check_known, number, whole_number
from instructbooth_trainer.runtime.errors import RunError, TransientError, UserError

RETRIED = frozenset({408, 429, *range(500, 600)})
LONGEST_WAIT = 60  # seconds
SHOWN = 300  # characters of an answer in a message


class Patience(urllib3.Retry):
    """When a request is tried again, and after how long."""

    RETRY_AFTER_STATUS_CODES = frozenset()  # those of RETRIED, and no others
    _random = random.Random()  # of its own: the global generator belongs to the run

    def get_backoff_time(self) -> float:
        """Seconds before the next attempt."""
        return min(LONGEST_WAIT, 2.0 ** (len(self.history) - 1) * self._random.uniform(0.5, 1.5))


class Remote:
    """A service that scores pictures."""

    def __init__(self, url: str, *, batch_size: int, timeout: float, retries: int, token: str | None) -> None:
        """Ask nothing yet: the service may come up while the models load."""
        parts = urlsplit(url)
        self._url, self._place = url, f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may hold a key
        self._batch_size = batch_size
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._http = urllib3.PoolManager(
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
            timeout=urllib3.Timeout(total=timeout),
            retries=Patience(
                total=retries,
                status_forcelist=RETRIED,
                allowed_methods=None,
                raise_on_status=False,
                retry_after_max=LONGEST_WAIT,
            ),
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [batch], float32. images: [batch, 3, height, width] in [0, 1].

        Raises TransientError when the service cannot be reached or fails, UserError when it refuses the request, and
        RunError when its answer is not a finite number per picture; all with the reason `RewardFailed`.
        """
        scores: list[float] = []
        for first in range(0, len(images), self._batch_size):
            rows = slice(first, first + self._batch_size)
            scores += self._ask([_png(image) for image in images[rows]], prompts[rows])
        return torch.tensor(scores)

    def _ask(self, pngs: list[bytes], prompts: Sequence[str]) -> list[float]:
        body = {"prompts": list(prompts), "images": [base64.b64encode(png).decode() for png in pngs]}
        try:
            # Not redirected: the token is meant for this place.
            answer = self._http.request(
                "POST", self._url, body=json.dumps(body).encode(), headers=self._headers, redirect=False
            )
        except HTTPError as error:
            raise TransientError("RewardFailed", f"{self._place} cannot be reached: {error}") from error
        if answer.status != 200:
            said = f"{self._place} answered {answer.status}: {_shown(answer.data)}"
            kind = TransientError if answer.status in RETRIED else UserError
            raise kind("RewardFailed", said)
        return self._read(answer.data, len(pngs))

    def _read(self, data: bytes, count: int) -> list[float]:
        try:
            content = json.loads(data)
        except ValueError as error:
            raise RunError("RewardFailed", f"{self._place} answered no JSON: {_shown(data)}") from error
        scores = content.get("scores") if isinstance(content, dict) else None
        if not isinstance(scores, list) or len(scores) != count:
            raise RunError(
                "RewardFailed", f'{self._place} answered no {{"scores": [...]}} of {count} numbers: {_shown(data)}'
            )
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise RunError("RewardFailed", f"{self._place} answered {score!r}, which is no finite number")
        return [float(score) for score in scores]


def _png(image: Tensor) -> bytes:
    """A picture, [3, height, width] in [0, 1], as a PNG file's bytes."""
    pixels = (image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _shown(data: bytes) -> str:
    text = " ".join(data.decode(errors="replace").split())
    return text[:SHOWN] + ("..." if len(text) > SHOWN else "") if text else "nothing"


def create(params: Mapping[str, object]) -> Remote:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters, or when the token is not there."""
    check_known(params, "url", "batchSize", "timeoutSeconds", "retries", "tokenEnv")
    url = params.get("url")
    parts = urlsplit(url) if isinstance(url, str) else None
    if not isinstance(url, str) or parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url is {url!r}; it must be an http or https URL, for example http://scorer:8000/score")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url holds credentials; give a token by tokenEnv, which names an environment variable")
    name = params.get("tokenEnv")
    if name is not None and (not isinstance(name, str) or not os.environ.get(name)):
        raise ValueError(f"tokenEnv is {name!r}, but there is no such environment variable; set it in podTemplate.env")
    return Remote(
        url,
        batch_size=whole_number(params, "batchSize", 1, 1024, default=16),
        timeout=number(params, "timeoutSeconds", 0, 3600) or 30.0,
        retries=whole_number(params, "retries", 0, 20, default=5),
        token=os.environ[name] if isinstance(name, str) else None,
    )
