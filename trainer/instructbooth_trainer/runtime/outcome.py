"""The last word of a process: contract.Outcome as JSON in the pod's termination message."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from instructbooth import contract
from instructbooth.contract import TERMINATION_MESSAGE_LIMIT, Outcome

log = logging.getLogger(__name__)

_CUT = " [...] "


def render(outcome: Outcome, limit: int = TERMINATION_MESSAGE_LIMIT) -> bytes:
    """The outcome as UTF-8 JSON of at most `limit` bytes.

    What is too long loses the middle of its message (how it began and how it ended say most), and then its metrics. The
    log gets what room is left: its newest lines.
    """
    lines, outcome = outcome.log, replace(outcome, log=[])
    encoded = _render(outcome, limit)
    kept = parse(encoded)
    for first in range(len(lines)):
        longer = _encode(replace(kept, log=lines[first:]))
        if len(longer) <= limit:
            return longer
    return encoded


def _render(outcome: Outcome, limit: int) -> bytes:
    encoded = _encode(outcome)
    if len(encoded) <= limit:
        return encoded
    if len(_encode(replace(outcome, message=_CUT))) > limit:
        log.warning("the outcome's metrics do not fit into %d bytes; they are in the artifact", limit)
        outcome = replace(outcome, metrics={})
    low, high = 0, len(outcome.message)
    while low < high:  # the most characters that fit
        middle = (low + high + 1) // 2
        if len(_encode(_shorten(outcome, middle))) <= limit:
            low = middle
        else:
            high = middle - 1
    return _encode(_shorten(outcome, low))


def parse(data: bytes) -> Outcome:
    """Undo `render`. Raises ValueError, TypeError, UnicodeDecodeError for anything else."""
    return Outcome(**json.loads(data))


def write(outcome: Outcome, env: Mapping[str, str]) -> None:
    """Write the outcome where the kubelet reads it, or where INSTRUCTBOOTH_TERMINATION_LOG says.

    Outside of a pod the kubelet's file does not exist, and is not made.
    """
    named = env.get(contract.Env.TERMINATION_LOG)
    path = Path(named or contract.Path.TERMINATION_LOG)
    if not named and not path.exists():
        return
    try:
        path.write_bytes(render(outcome))
    except OSError as error:
        log.error("cannot write the outcome to %s: %s", path, error)


def _shorten(outcome: Outcome, length: int) -> Outcome:
    message = outcome.message
    if length >= len(message):
        return outcome
    head = length // 2
    return replace(outcome, message=message[:head] + _CUT + message[len(message) - (length - head) :])


def _encode(outcome: Outcome) -> bytes:
    return json.dumps(asdict(outcome), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
