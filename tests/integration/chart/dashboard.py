"""The queries of the Grafana dashboard, as Prometheus understands them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[3] / "charts" / "instructbooth" / "files" / "dashboard.json"
# What Grafana puts in for its variables when everything is chosen.
_ALL = {"$namespace": ".*", "$job": ".*", "$__rate_interval": "1m"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana gets it."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def expressions() -> dict[str, str]:
    """Where it stands (panel and target, or variable) -> PromQL, with everything chosen in the variables."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = _selector(variable["query"]["query"])
    for name, value in _ALL.items():
        found = {place: expression.replace(name, value) for place, expression in found.items()}
    return found


def dashboard_queries(window: str = "1h") -> list[str]:
    """Each query, asking for its last value within `window` (a Prometheus duration).

    Over a window, because that is what a dashboard shows: the pods of a finished job are gone, its curves are not.
    """
    return [f"last_over_time(({expression})[{window}:10s])" for expression in expressions().values()]


def _selector(query: str) -> str:
    """`label_values(metric{...}, label)` as the series in which the label is set."""
    match = re.fullmatch(r"label_values\((\w+)(?:\{(.*)\})?, (\w+)\)", query)
    if match is None:
        raise ValueError(f"{query!r} is not label_values(metric, label)")
    metric, matchers, label = match.groups()
    return f"{metric}{{{', '.join(filter(None, (matchers, f'{label}!=' + chr(34) * 2)))}}}"
