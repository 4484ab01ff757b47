"""From raw numbers to measures. Nothing here starts, waits or asks."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import rounded
from instructbooth import intervals

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# By the clock and not by the job: leader election, and who it is that scrapes the metrics.
_METHODS = {"post": "create", "put": "update", "patch": "patch", "apply": "patch", "delete": "delete"}
_LABEL = re.compile(r'(\w+)="([^"]*)"')
CLOCKWORK = frozenset({"leases", "tokenreviews", "subjectaccessreviews"})


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, interpolated between neighbours; nan of nothing."""
    if not values:
        return math.nan
    return intervals.percentile(sorted(values), share)


def buckets(text: str, metric: str) -> dict[float, float]:
    """A Prometheus histogram out of a scrape, summed over all labels: cumulative counts by upper bound."""
    found: dict[float, float] = {}
    for labels, value in _series(text, f"{metric}_bucket"):
        bound = float(labels["le"])
        found[bound] = found.get(bound, 0.0) + value
    return found


def quantile(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float:
    """A quantile of what a histogram took in between two scrapes, as Prometheus interpolates it; nan of nothing."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = counts.get(math.inf, 0.0)
    lower, below = 0.0, 0.0
    for bound, count in counts.items():
        if total and count >= share * total:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * ((share * total - below) / (count - below) if count > below else 0.0)
        lower, below = bound, count
    return math.nan


def requests(lines: Iterable[str], namespaces: Sequence[str]) -> Counter[str]:
    """Requests by `verb resource`, from an audit log, of the ServiceAccounts of some namespaces. Watches do not end."""
    found: Counter[str] = Counter()
    owners = tuple(f"system:serviceaccount:{namespace}:" for namespace in namespaces)
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if not event["user"].get("username", "").startswith(owners) or "objectRef" not in event:
            continue
        ref = event["objectRef"]
        resource = "/".join(filter(None, (ref.get("resource"), ref.get("subresource"))))
        if event["verb"] != "watch" and resource:
            found[f"{event['verb']} {resource}"] += 1
    return found


def counter(text: str, metric: str, **wanted: str) -> float:
    """A Prometheus counter or gauge out of a scrape, summed over all series with the labels that are wanted."""
    return sum(value for labels, value in _series(text, metric) if wanted.items() <= labels.items())


def all_writes(text: str) -> dict[str, float]:
    """Writes of everybody by `verb resource`, out of a scrape of the API server."""
    found: dict[str, float] = {}
    for label, value in _series(text, "apiserver_request_total"):
        verb, resource = label["verb"].lower(), "/".join(filter(None, (label["resource"], label["subresource"])))
        if verb in _METHODS and resource and label["code"].startswith("2"):
            name = f"{_METHODS[verb]} {resource}"
            found[name] = found.get(name, 0.0) + value
    return found


def _series(text: str, metric: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each labelled series of a metric, out of a scrape."""
    for line in text.splitlines():
        if line.startswith(f"{metric}{{"):
            labels, _, value = line.rpartition(" ")
            yield dict(_LABEL.findall(labels)), float(value)


def writes(counted: Mapping[str, int]) -> int:
    """Writes of everything but events and leases."""
    return sum(count for name, count in counted.items() if _kind(name) == "write")


def events(counted: Mapping[str, int]) -> int:
    """Writes of events."""
    return sum(count for name, count in counted.items() if _kind(name) == "event")


def reads(counted: Mapping[str, int]) -> int:
    """Reads of everything but leases."""
    return sum(count for name, count in counted.items() if _kind(name) == "read")


def _kind(name: str) -> str:
    verb, _, resource = name.partition(" ")
    base = resource.partition("/")[0]
    if base in CLOCKWORK:
        return "clockwork"
    if verb not in WRITES:
        return "read"
    return "event" if base == "events" else "write"


def row(
    name: str, ours: float | None, peer: float | None, unit: str, versions: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    """One measure, side by side. `ratio` is ours / peer, null where one is missing or theirs is zero."""
    known = ours is not None and peer is not None and not math.isnan(ours) and not math.isnan(peer) and peer != 0
    return {
        "name": name,
        "ours": rounded(ours),
        "peer": rounded(peer),
        "ratio": rounded(ours / peer) if known and ours is not None and peer is not None else None,
        "unit": unit,
        **more,
        "versions": dict(versions),
    }
