"""From scrapes, audit logs and times to measures: numbers worked out by hand."""

import json
import math

import pytest

from benchmarks.measure import rounded
from benchmarks.operator.measure import Result
from benchmarks.operator.measures import (
    all_writes,
    buckets,
    events,
    percentile,
    quantile,
    reads,
    requests,
    row,
    writes,
)
from benchmarks.operator.report import rows


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.99, 5.0), ([3, 1, 2], 0.5, 2), ([1, 2, 3, 4], 0.5, 2.5), (list(range(101)), 0.99, 99), ([1, 9], 1.0, 9)],
)
def test_percentiles_are_interpolated_between_neighbours(values, share, expected):
    assert percentile(values, share) == pytest.approx(expected)


def test_nothing_has_no_percentile():
    assert math.isnan(percentile([], 0.5))


SCRAPE = """# HELP h_seconds Time.
# TYPE h_seconds histogram
h_seconds_bucket{controller="a",le="0.1"} 4
h_seconds_bucket{controller="a",le="1"} 6
h_seconds_bucket{controller="a",le="+Inf"} 7
h_seconds_bucket{le="0.1",controller="b"} 1
h_seconds_bucket{le="1",controller="b"} 3
h_seconds_bucket{le="+Inf",controller="b"} 3
h_seconds_bucketish{le="1"} 99
h_seconds_sum 12
"""


def test_a_histogram_is_summed_over_its_labels():
    assert buckets(SCRAPE, "h_seconds") == {0.1: 5, 1.0: 9, math.inf: 10}


def test_a_quantile_is_of_what_came_between_two_scrapes():
    before, after = {0.1: 5.0, 1.0: 9.0, math.inf: 10.0}, {0.1: 7.0, 1.0: 19.0, math.inf: 20.0}
    # Ten more: two up to 0.1, eight between 0.1 and 1. The fifth is the third of those eight.
    assert quantile(before, after, 0.5) == pytest.approx(0.1 + 0.9 * 3 / 8)
    assert quantile(before, after, 0.1) == pytest.approx(0.05)
    assert math.isnan(quantile(after, after, 0.5))


def test_a_quantile_beyond_the_last_bound_is_that_bound():
    assert quantile({}, {1.0: 1.0, math.inf: 10.0}, 0.99) == 1.0


def _line(user, verb, resource, subresource=""):
    ref = {"resource": resource, **({"subresource": subresource} if subresource else {})}
    return json.dumps({"user": {"username": user}, "verb": verb, "objectRef": ref})


def test_requests_are_counted_by_verb_and_resource_of_the_controllers_alone():
    ours = "system:serviceaccount:instructbooth-system:operator"
    log = [
        _line(ours, "create", "jobs"),
        _line(ours, "patch", "instructboothjobs", "status"),
        _line(ours, "patch", "instructboothjobs", "status"),
        _line(ours, "create", "events"),
        _line(ours, "list", "pods"),
        _line(ours, "update", "leases"),
        _line(ours, "get", "leases"),
        _line(ours, "watch", "jobs"),
        _line("system:serviceaccount:instructbooth-system-2:operator", "create", "jobs"),
        _line("admin", "create", "jobs"),
        json.dumps({"user": {"username": ours}, "verb": "get"}),
    ]
    counted = requests(log, ["instructbooth-system"])
    assert counted == {
        "create jobs": 1,
        "patch instructboothjobs/status": 2,
        "create events": 1,
        "list pods": 1,
        "update leases": 1,
        "get leases": 1,
    }
    assert (writes(counted), events(counted), reads(counted)) == (3, 1, 1)


def test_a_row_compares():
    assert row("stage_rate", 17.1, 10.3, "stages/s", {"kopf": "1"}, jobs=400) == {
        "name": "stage_rate",
        "ours": 17.1,
        "peer": 10.3,
        "ratio": 1.66,
        "unit": "stages/s",
        "jobs": 400,
        "versions": {"kopf": "1"},
    }


@pytest.mark.parametrize(("ours", "peer"), [(None, 1.0), (1.0, None), (1.0, 0.0), (math.nan, 1.0)])
def test_there_is_no_ratio_with_nothing(ours, peer):
    made = row("x", ours, peer, "s", {})
    assert made["ratio"] is None
    json.dumps(made, allow_nan=False)


def test_numbers_keep_four_digits():
    assert (rounded(12345.6), rounded(0.00123456), rounded(None)) == (12350.0, 0.001235, None)


def result(name, stages, seconds):
    return Result(
        contender=name,
        jobs=100,
        stages=stages,
        seconds=seconds,
        first_pod=(1.0, 2.0),
        own_cpu=3.0,
        memory=100.0,
        reconcile=(0.01, 0.1),
        loop_lag=(0.002, 0.3),
        probe=(0.001, 0.01),
        plane_cpu={"kube-apiserver": 6.0, "etcd": 1.0},
        requests={"create jobs": 300, "create events": 600} if name == "ours" else {"update trainjobs/status": 100},
        all_writes={"create pods": 2.0 * stages, "patch pods/status": 4.0 * stages},
        versions={name: "1"},
    )


def test_the_report_counts_per_stage_and_requests_per_job():
    made = {
        line["name"]: line for line in rows(result("ours", 300, 15.0), result("peer", 100, 10.0), result("f", 100, 4))
    }
    rate = made["stage_rate"]
    assert (rate["ours"], rate["peer"], rate["ratio"], rate["floor"]) == (20.0, 10.0, 2.0, 25.0)
    assert made["own_cpu_per_stage"]["ours"] == 10.0
    assert made["own_cpu_per_stage"]["peer"] == 30.0
    assert made["events_per_stage"]["ours"] == 2.0
    assert made["requests create jobs"]["ours"] == 3.0
    assert made["requests update trainjobs/status"] == made["requests update trainjobs/status"] | {"ours": 0, "peer": 1}
    assert made["machine_cpu_per_stage"]["ours"] == pytest.approx(33.33)


def test_the_report_bears_a_side_that_was_not_run():
    for line in rows(result("ours", 300, 15.0), None, None):
        assert line["peer"] is None
        assert line["ratio"] is None
        json.dumps(line, allow_nan=False)


def test_everybody_s_writes_are_counted_by_what_they_did():
    scrape = """\
apiserver_request_total{code="201",group="",resource="pods",scope="resource",subresource="",verb="POST"} 4
apiserver_request_total{code="200",group="",resource="pods",scope="resource",subresource="status",verb="PATCH"} 6
apiserver_request_total{code="200",group="x",resource="pods",scope="resource",subresource="status",verb="APPLY"} 1
apiserver_request_total{code="409",group="",resource="pods",scope="resource",subresource="status",verb="PATCH"} 9
apiserver_request_total{code="200",group="",resource="pods",scope="namespace",subresource="",verb="LIST"} 7
apiserver_request_total{code="0",group="",resource="pods",scope="namespace",subresource="",verb="WATCH"} 7
"""
    assert all_writes(scrape) == {"create pods": 4.0, "patch pods/status": 7.0}
