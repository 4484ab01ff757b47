"""A pod of a lost node is removed without its kubelet, and never another one of its name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from instructbooth.reconcile.actions import ForgetPod
from instructbooth_operator.cache import Cache
from instructbooth_operator.carry_out import Hands
from instructbooth_operator.errors import ApiError
from instructbooth_operator.freshness import Freshness
from tests.unit.reconcile.world import job_object


class OnlyDeletes:
    """An API server that is asked to delete, and answers so."""

    def __init__(self, answer: ApiError | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str, dict[str, Any]]] = []

    async def delete(self, resource: Any, namespace: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((resource.plural, namespace, name, options))
        if self.answer is not None:
            raise self.answer
        return {}


def forget(answer: ApiError | None) -> list[tuple[str, str, str, dict[str, Any]]]:
    api = OnlyDeletes(answer)
    hands = Hands(api, Cache(), Freshness())  # type: ignore[arg-type]
    # A finalizer may keep the pod: nobody need look again in a moment, as after other actions.
    assert asyncio.run(hands.act(job_object(), ForgetPod("mascot-reinforce-1-1-x", "u1"))) is False
    return api.asked


@pytest.mark.parametrize("answer", [None, ApiError(404, "NotFound", "gone"), ApiError(409, "Conflict", "another uid")])
def test_it_is_deleted_without_grace_if_it_is_still_that_pod(answer: ApiError | None) -> None:
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": "u1"}}
    assert forget(answer) == [("pods", "lab", "mascot-reinforce-1-1-x", options)]


def test_what_else_goes_wrong_is_not_swallowed() -> None:
    with pytest.raises(ApiError):
        forget(ApiError(403, "Forbidden", "no such right"))
