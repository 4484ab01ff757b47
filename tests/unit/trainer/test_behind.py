"""Scoring one batch behind: order, overlap, errors, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from instructbooth_trainer.recipes.behind import one_behind


def test_results_come_in_order_and_one_at_a_time() -> None:
    running = threading.Lock()

    def call(number: int) -> int:
        assert running.acquire(blocking=False), "two calls at once"
        running.release()
        return number * number

    assert list(one_behind(call, range(6))) == [0, 1, 4, 9, 16, 25]
    assert list(one_behind(call, ())) == []


def test_the_next_is_made_while_the_call_runs() -> None:
    """The call on the first item ends only once the second is made: one after the other would never end."""
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    def call(number: int) -> int:
        assert made.wait(timeout=60)
        return number

    assert list(one_behind(call, items())) == [1, 2]


def test_no_more_than_one_item_waits() -> None:
    seen: list[str] = []

    def items() -> Iterator[int]:
        for number in range(3):
            seen.append(f"made {number}")
            yield number

    for result in one_behind(lambda number: number, items()):
        seen.append(f"got {result}")
    assert seen == ["made 0", "made 1", "got 0", "made 2", "got 1", "got 2"]


def test_an_error_of_the_call_is_raised_and_nothing_more_is_called() -> None:
    called: list[int] = []

    def call(number: int) -> int:
        called.append(number)
        if number == 1:
            raise ValueError("no score")
        return number

    results = one_behind(call, range(5))
    assert next(results) == 0
    with pytest.raises(ValueError, match="no score"):
        list(results)
    assert called == [0, 1]


def test_an_error_in_making_an_item_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        list(one_behind(lambda number: number, items()))


def test_the_thread_computes_with_as_many_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert list(one_behind(lambda _: torch.get_num_threads(), [0])) == [before + 1]
    finally:
        torch.set_num_threads(before)


def test_the_thread_has_its_callers_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, int]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: used.append((threading.current_thread().name, device)))
    assert list(one_behind(lambda _: threading.current_thread().name, [0])) == ["scoring_0"]
    assert used == [("scoring_0", 3)]
