"""What KWOK does with pods: its own stages, a mark on what is finished, and a day's failures."""

import pytest
import yaml

from benchmarks.operator import stages

COMPLETE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-complete}
spec:
  next:
    statusTemplate: |
      {{ $now := Now }}
      containerStatuses:
      - exitCode: 0
        reason: Completed
      phase: Succeeded
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    folder = tmp_path / "kustomize/stage/pod/fast"
    folder.mkdir(parents=True)
    for name in ("pod-ready", "pod-delete"):
        (folder / f"{name}.yaml").write_text(COMPLETE.replace("pod-complete", name))
    (folder / "pod-complete.yaml").write_text(COMPLETE)
    monkeypatch.setattr(stages, "module_folder", lambda *_: tmp_path)
    return folder


def specs(found):
    return {stage["metadata"]["name"]: stage["spec"] for stage in found}


def patch(spec):
    """What a stage sends, `{{ }}` aside: its only patch, of the status."""
    (only,) = spec["next"]["patches"]
    assert only["subresource"] == "status"
    assert "root" not in only, "with a root the annotation would be a field of the status"
    return yaml.safe_load("\n".join(line for line in only["template"].splitlines() if "{{" not in line))


def test_a_finished_pod_is_marked_in_the_request_that_finishes_it(module):
    found = specs(stages.quick())
    assert set(found) == {"pod-ready", "pod-complete", "pod-delete"}
    assert "statusTemplate" not in found["pod-complete"]["next"], "it would be a request of its own"
    assert patch(found["pod-complete"]) == {
        "metadata": {"annotations": {"bench.instructbooth.dev/finished": "true"}},
        "status": {"containerStatuses": [{"exitCode": 0, "reason": "Completed"}], "phase": "Succeeded"},
    }
    assert "delay" not in found["pod-complete"]
    for other in ("pod-ready", "pod-delete"):
        assert found[other] == yaml.safe_load(COMPLETE)["spec"]


def test_pods_of_a_day_take_their_time_and_a_few_fail(module):
    found = specs(stages.of_a_day(speed=100))
    assert set(found) == {"pod-ready", "pod-complete", "pod-delete", "pod-fail"}
    good, bad = found["pod-complete"], found["pod-fail"]
    assert good["delay"] == bad["delay"] == {"durationMilliseconds": 9000, "jitterDurationMilliseconds": 27000}
    assert good["weight"] == 24 * bad["weight"]
    assert patch(good)["status"]["phase"] == "Succeeded"
    assert patch(bad) == {
        "metadata": {"annotations": {"bench.instructbooth.dev/finished": "true"}},
        "status": {"containerStatuses": [{"exitCode": 75, "reason": "Error"}], "phase": "Failed"},
    }
    assert "delay" not in found["pod-ready"]


def test_another_kwok_that_says_it_otherwise_is_an_error(module):
    (module / "pod-complete.yaml").write_text(COMPLETE.replace("exitCode: 0", "exitCode: {{ 0 }}"))
    with pytest.raises(ValueError, match="exitCode: 0"):
        stages.of_a_day(speed=100)
