"""A simulated day: what happens to which job, and what counts as growth."""

import subprocess
import sys

import pytest

from benchmarks.operator import life
from benchmarks.operator.life import fate, growth, pod_stages


def test_a_job_s_fate_is_its_number_s_and_all_kinds_happen():
    fates = [fate(number) for number in range(500)]
    assert fates == [fate(number) for number in range(500)]
    deleted = [f for f in fates if f.deleted_after is not None]
    suspended = [f for f in fates if f.suspended_after is not None]
    assert 25 < len(deleted) < 75
    assert 25 < len(suspended) < 75
    assert all(f.resumed_after == (f.suspended_after or 0) + 1800 for f in suspended)
    assert all(f.suspended_after is None for f in deleted)


def test_growth_compares_the_last_quarter_with_the_second():
    flat = [{"m": 100.0}] * 4 + [{"m": 120.0}] * 12  # warming up is no growth
    assert growth(flat, "m") == 0
    assert growth([{"m": float(n)} for n in range(16)], "m") == 8


COMPLETE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-complete}
spec:
  next:
    statusTemplate: |
      exitCode: 0
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
    monkeypatch.setattr(life, "module_folder", lambda *_: tmp_path)
    return folder


def test_pods_take_their_time_and_a_few_fail(module):
    stages = {stage["metadata"]["name"]: stage["spec"] for stage in pod_stages(speed=100)}
    assert set(stages) == {"pod-ready", "pod-complete", "pod-delete", "pod-fail"}
    assert stages["pod-complete"]["delay"] == {"durationMilliseconds": 9000, "jitterDurationMilliseconds": 27000}
    assert stages["pod-complete"]["weight"] == 24 * stages["pod-fail"]["weight"]
    assert "exitCode: 0" in stages["pod-complete"]["next"]["statusTemplate"]
    assert "exitCode: 75\nreason: Error\nphase: Failed" in stages["pod-fail"]["next"]["statusTemplate"]
    assert "delay" not in stages["pod-ready"]


def test_another_kwok_that_says_it_otherwise_is_an_error(module):
    (module / "pod-complete.yaml").write_text(COMPLETE.replace("exitCode: 0", "exitCode: {{ 0 }}"))
    with pytest.raises(ValueError, match="exitCode: 0"):
        pod_stages(speed=100)


def test_the_benchmark_explains_itself():
    for module in ("benchmarks.operator", "benchmarks.operator.soak"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "--out" in done.stdout
