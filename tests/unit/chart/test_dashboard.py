"""The dashboard asks for metrics, and labels, that operator and trainer really serve."""

from __future__ import annotations

import ast
import re
import urllib.request
from pathlib import Path
from typing import cast

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from instructbooth.contract import Stage
from instructbooth_operator.cache import Cache
from instructbooth_operator.metrics import JobCollector
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels
from tests.integration.chart.dashboard import dashboard, dashboard_queries, expressions
from tests.integration.chart.helm import CHART

TRAINER = Path(__file__).resolve().parents[3] / "trainer" / "instructbooth_trainer"
SPEAKERS = [*TRAINER.glob("recipes/*.py"), TRAINER / "rewards" / "base.py"]
METRIC = re.compile(r"\b((?:instructbooth|process)_\w+)(?:\{([^}]*)\})?")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
JOB = {
    "metadata": {"namespace": "n", "name": "j"},
    "status": {
        "phase": "Reinforcing",
        "stages": [{"name": "reinforce", "progress": {"step": 1, "total": 2, "metrics": {"reward_mean": 0.5}}}],
        "evaluation": {"base": {"oracle": 0.3}},
    },
}


class OneJob:
    def jobs(self):
        return [JOB]


def said_by_recipes() -> set[str]:
    """What the recipes may tell the reporter: keywords of `progress.update(...)` and keys of dictionaries."""
    found: set[str] = set()
    for path in SPEAKERS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("progress.update"):
                found |= {keyword.arg for keyword in node.keywords if keyword.arg}
            elif isinstance(node, ast.Dict):
                found |= {key.value for key in node.keys if isinstance(key, ast.Constant) and type(key.value) is str}
    return {name for name in found if name.isidentifier()}


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Metric -> its labels, of a real reporter over HTTP and of the operator's registry."""
    reporter = ProgressReporter(RunLabels("n", "j", Stage.REINFORCE))
    port = reporter.serve(0, "127.0.0.1")
    try:
        reporter.start(10, "epochs")
        reporter.update(1, **dict.fromkeys(said_by_recipes() - {"step"}, 1.0))
        reporter.update(2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    finally:
        reporter.close()
    registry = CollectorRegistry()
    registry.register(JobCollector(cast(Cache, OneJob())))
    found: dict[str, set[str]] = {}
    for family in [*families, *registry.collect(), *REGISTRY.collect()]:
        labels = {label for sample in family.samples for label in sample.labels}
        for suffix in SUFFIXES.get(family.type, ("",)):
            found[family.name + suffix] = labels
    return found


ALERTS = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
QUERIES = expressions() | {f"alert {alert['alert']}": alert["expr"] for alert in ALERTS}


@pytest.mark.parametrize("place", QUERIES)
def test_query_asks_for_what_is_served(place, served):
    selectors = METRIC.findall(QUERIES[place])
    assert selectors
    for metric, matchers in selectors:
        assert metric in served, f"{place}: nobody serves {metric}"
        assert set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) <= served[metric], f"{place}: {metric}"


def test_reward_curve_has_its_band():
    reward = [e for place, e in expressions().items() if place.startswith("Reward, mean")]
    assert len(reward) == 3
    assert " + " in reward[1]
    assert " - " in reward[2]


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_variable_of_grafana_is_replaced():
    assert not [query for query in dashboard_queries() if "$" in query]
    assert 'instructbooth_job_progress_ratio{namespace=~".*", name!=""}' in expressions()["variable job"]
