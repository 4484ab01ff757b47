"""Specs that are read once."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from instructbooth.reconcile.policies import skew
from instructbooth_operator.cache import job_key
from instructbooth_operator.specs import Specs, _size
from tests.unit.reconcile.world import job_object


def job(uid: str, **spec: Any) -> dict[str, Any]:
    made = deepcopy(job_object())
    made["metadata"] |= {"name": uid, "uid": uid}
    made["spec"] |= spec
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uids of the jobs that were really read."""
    found: list[str] = []

    def read(obj: Any, begun: bool) -> Any:
        found.append(obj["metadata"]["uid"])
        return skew_read(obj, begun)

    skew_read = skew.read
    monkeypatch.setattr(skew, "read", read)
    return found


def test_a_spec_is_read_once_and_again_when_it_changes(reads: list[str]) -> None:
    read = Specs().read
    assert read(job("a")) == read(job("a")) == skew.read(job("a"), False)
    assert reads == ["a", "a"], "once by itself, once by this test"
    reads.clear()
    assert read(job("a", runPolicy={"backoffLimit": 9}))[0].spec.run_policy.backoff_limit == 9
    assert read(job("a"))[0].spec.run_policy.backoff_limit != 9
    assert reads == ["a", "a"]


def test_of_a_changed_spec_nothing_is_kept() -> None:
    kept = Specs()
    kept.read(job("a", runPolicy={"backoffLimit": 9}))
    kept.read(job("a"))
    assert (len(kept), kept._size) == (1, _size(job("a")["spec"]))


def test_what_is_the_same_of_another_job_is_not_taken_for_its_own(reads: list[str]) -> None:
    read = Specs().read
    assert [read(job(uid))[0].uid for uid in ("a", "b")] == ["a", "b"]
    assert reads == ["a", "b"]


def test_a_job_made_again_under_the_same_name_is_read_anew(reads: list[str]) -> None:
    read = Specs().read
    again = job("a")
    again["metadata"]["uid"] = "b"
    assert [read(job("a"))[0].uid, read(again)[0].uid] == ["a", "b"]


def test_those_that_were_asked_for_last_are_kept(reads: list[str]) -> None:
    size = _size(job("a")["spec"])
    kept = Specs(most=2 * size)
    for uid in ("a", "b", "a", "c", "a", "b"):
        kept.read(job(uid))
    assert reads == ["a", "b", "c", "b"]
    assert len(kept) == 2
    long = job("long", personalization={"steps": 7}, podTemplate={"annotations": {"a": "x" * size}})
    kept.read(long)
    assert len(kept) == 0, "what is too large is not kept, and nothing beside it"
    kept.read(job("a"))
    kept.forget(job_key(job("a")))
    kept.forget(job_key(job("a")))
    assert (len(kept), kept._size) == (0, 0)


def test_a_mistake_is_told_each_time() -> None:
    read = Specs().read
    for _ in range(2):
        with pytest.raises(ValidationError):
            read(job("a", runPolicy={"backoffLimit": -1}))
    assert read(job("a", news=1))[1] == ["spec.news"]
