"""Progress as people see it."""

from __future__ import annotations

import pytest

from instructbooth.reconcile.policies.visible import duration, evaluation_of, merged, number, percent, summary
from instructbooth.spec.status import Progress


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(), None),
        (Progress(step=1, total=3), "33%"),
        (Progress(step=42, total=100, eta_seconds=187), "42% 3m10s"),
        (Progress(step=999, total=1000, eta_seconds=3), "99% 10s"),
        (Progress(step=3, total=3, eta_seconds=0), "100%"),
        (Progress(step=5, total=3), "100%"),
        (Progress(step=1, total=100, eta_seconds=90_000), "1% 1d1h"),
    ],
)
def test_the_progress_column(progress: Progress, said: str | None) -> None:
    assert summary(progress) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (59, "59s"), (61, "1m1s"), (3660, "1h1m"), (90_000, "1d1h"), (86_400, "1d0h")]
)
def test_durations(seconds: int, said: str) -> None:
    assert duration(seconds) == said


OLD = Progress(step=420, total=1000, eta_seconds=187, metrics={"reward_mean": 0.5, "kl": 0.1})


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"step": 429}, False, id="less than a percent"),
        pytest.param({"step": 430}, True, id="a percent"),
        pytest.param({"eta_seconds": 181}, False, id="the same ten seconds"),
        pytest.param({"eta_seconds": 180}, True, id="ten seconds"),
        pytest.param({"metrics": {"reward_mean": 0.5001, "kl": 0.1}}, False, id="the fourth digit of the reward"),
        pytest.param({"metrics": {"reward_mean": 0.501, "kl": 0.1}}, True, id="the third"),
        pytest.param({"metrics": {"reward_mean": 0.5, "kl": 9.0}}, False, id="what no column shows"),
        pytest.param({"total": 1001}, True, id="how far it is"),
        pytest.param({"unit": "epochs"}, True, id="the unit"),
    ],
)
def test_only_what_people_would_notice_is_written(changes: dict[str, object], written: bool) -> None:
    new = OLD.model_copy(update=changes)
    assert (merged(OLD, new) is new) is written
    assert merged(None, new) is new


@pytest.mark.parametrize(
    ("step", "total", "said"), [(0, 0, None), (0, 7, 0), (6, 7, 85), (7, 7, 100), (9, 7, 100), (199, 200, 99)]
)
def test_whole_percents(step: int, total: int, said: int | None) -> None:
    assert percent(Progress(step=step, total=total)) == said


def test_numbers_have_three_digits_and_the_evaluation_is_a_table() -> None:
    assert [number(value) for value in (0.123456, 12.3456, 123456.0, -0.5)] == ["0.123", "12.3", "1.23e+05", "-0.5"]
    metrics = {"base/clip-score": 0.1, "reinforced/clip-score": 0.3, "reinforced/oracle": 1.0, "seconds": 5.0}
    assert evaluation_of(metrics) == {"base": {"clip-score": 0.1}, "reinforced": {"clip-score": 0.3, "oracle": 1.0}}
