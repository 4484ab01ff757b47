"""A simulated day: what happens to which job, and what counts as growth."""

import subprocess
import sys

from benchmarks.operator.life import fate, growth


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


def test_the_benchmark_explains_itself():
    for module in ("benchmarks.operator", "benchmarks.operator.soak"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "--out" in done.stdout
