"""The demo, and what must be true of it."""

from __future__ import annotations

import json

import pytest

from tests.e2e import lab
from tests.e2e.demo import OUT, QUERIES, Demo, query, run_demo
from tests.integration.chart.dashboard import dashboard_queries


@pytest.fixture(scope="module")
def demo(installed: None) -> Demo:
    return run_demo()


def test_job_succeeded_with_all_stages(demo):
    status = demo.job["status"]
    assert status["phase"] == "Succeeded"
    assert [(s["name"], s["state"], s["attempt"]) for s in status["stages"]] == [
        ("personalize", "Succeeded", 1), ("reinforce", "Succeeded", 1), ("evaluate", "Succeeded", 1)
    ]  # fmt: skip
    assert status["observedGeneration"] == demo.job["metadata"]["generation"]


def test_reinforce_ran_as_two_pods_on_two_nodes(demo):
    pods = demo.placement["reinforce"]
    assert len(pods) == 2
    assert len(set(pods.values())) == 2
    assert json.loads((OUT / "reinforce" / "reinforce.json").read_text())["world_size"] == 2


def test_reinforcement_raises_alignment(demo):
    evaluation = demo.job["status"]["evaluation"]
    assert evaluation["reinforced"]["miniature-oracle"] > evaluation["personalized"]["miniature-oracle"]


def test_reinforcement_keeps_the_subject(demo):
    evaluation = demo.job["status"]["evaluation"]
    assert evaluation["reinforced"]["subject-identity"] >= evaluation["personalized"]["subject-identity"] - 0.03


def test_personalization_learned_the_subject(demo):
    evaluation = demo.job["status"]["evaluation"]
    # Twice the standard error of 64 pictures' likeness, and more: they scatter by 0.15.
    assert evaluation["personalized"]["subject-identity"] >= evaluation["base"]["subject-identity"] + 0.05


def test_report_is_self_contained(demo):
    text = (OUT / "report.html").read_text()
    assert "data:image/png;base64," in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert (OUT / "contact-sheet.png").stat().st_size > 10_000


def test_prometheus_answered(demo):
    assert all(demo.answers[expression] for expression in QUERIES.values())


def test_gpu_pods_were_scheduled_with_their_requests(demo):
    assert demo.gpu_pods == [("gpu-1", "4"), ("gpu-1", "4")]


def test_every_query_of_the_dashboard_returns_data(demo):
    with lab.port_forward("svc/prometheus", 9090, namespace=lab.MONITORING) as address:
        empty = [expression for expression in dashboard_queries() if not query(address, expression)]
    assert not empty
