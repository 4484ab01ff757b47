"""Ratios, shares of the floor, and what a missing peer looks like."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks.measure import Measure
from benchmarks.trainer.measures import compare, largest_difference, versions
from benchmarks.trainer.sides import Peers, SideFailed, measured, run
from benchmarks.trainer.workload import Result, Workload, typical

ROOT = Path(__file__).resolve().parents[3]


def row(measure: Measure) -> dict[str, object]:
    (line,) = measure.line().splitlines()
    out: dict[str, object] = json.loads(line)
    return out


def work(**sizes: object) -> Workload:
    return Workload("model", "subject", ["a", "b"], "c", 64, **sizes)  # type: ignore[arg-type]


def test_a_rate_is_better_when_it_is_higher():
    out = row(Measure("x", "images/s", ours=12, peer=10, floor=16))
    assert (out["ratio"], out["ours_of_floor"], out["peer_of_floor"]) == (1.2, 0.75, 0.625)


def test_seconds_and_memory_are_better_when_they_are_lower():
    out = row(Measure("x", "s", ours=16, peer=20, floor=12, higher_is_better=False))
    assert (out["ratio"], out["ours_of_floor"], out["peer_of_floor"]) == (1.25, 0.75, 0.6)


def test_without_a_peer_the_ratio_is_to_the_floor_and_the_reason_is_said():
    out = row(Measure("x", "images/s", ours=12, floor=16, reason="no environment"))
    assert (out["peer"], out["ratio"], out["peer_of_floor"], out["reason"]) == (None, 0.75, None, "no environment")


def test_every_line_has_what_was_promised():
    out = row(Measure("x", "s", ours=None, more={"cpu_s": 2.0}, versions={"torch": "1"}))
    assert {"name", "ours", "peer", "floor", "ratio", "unit", "versions"} <= out.keys()
    assert (out["ours"], out["ratio"], out["cpu_s"], out["versions"]) == (None, None, 2.0, {"torch": "1"})


def test_a_result_survives_the_output_around_it(capsys):
    Result([1.5], [2.5], 3.0, {"a": 1.0}, {"torch": "1"}).say()
    said = f"RESULT of something else\n{capsys.readouterr().out}warning: the end\n"
    assert Result.heard(said) == Result([1.5], [2.5], 3.0, {"a": 1.0}, {"torch": "1"})
    with pytest.raises(ValueError, match="no result"):
        Result.heard("Traceback\n")


def test_the_typical_second_is_the_median_of_all_rounds():
    assert typical([Result([1.0, 2.0]), Result([3.0, 90.0, 2.5])]) == 2.5
    with pytest.raises(ValueError, match="nothing"):
        typical([Result()])


def test_the_floor_has_the_passes_of_the_loops():
    plain = work(pictures=64, sampling_batch=64, sampling_steps=8, train_batch=32)
    assert (plain.sampling_passes, plain.training_passes, plain.rows) == (8, 14, 1)
    assert (work(pictures=16, sampling_batch=8, sampling_steps=5, train_batch=12).training_passes) == 6
    assert work(pictures=16, sampling_batch=8, sampling_steps=5).sampling_passes == 10
    assert work(guidance=3.0).rows == 2


def test_a_workload_survives_its_file(tmp_path):
    assert Workload.read(work(guidance=2.0).save(tmp_path / "w.json")) == work(guidance=2.0)


def test_rates_and_memory_of_three_sides():
    ours = [Result([2.0, 4.0, 2.0], [3.0], 100.0, versions={"torch": "1"}), Result([2.0], [3.0], 120.0)]
    peer = [Result([4.0], [5.0], 200.0, versions={"torch": "2", "trl": "3"})]
    floor = [Result([1.0], [1.0], 80.0)]
    rate, memory = (row(measure) for measure in compare("loop", "images/s", 8, [ours, peer, floor], None))
    assert (rate["name"], rate["ours"], rate["peer"], rate["floor"]) == ("loop_images_per_s", 4, 2, 8)
    assert (rate["ratio"], rate["ours_of_floor"], rate["ours_cpu_s"], rate["peer_cpu_s"]) == (2, 0.5, 3, 5)
    assert (memory["ours"], memory["peer"], memory["ratio"]) == (120, 200, 1.667)
    assert rate["versions"] == {"torch": "1", "peer-torch": "2", "trl": "3"}


def test_an_absent_peer_is_null():
    rate, memory = (row(m) for m in compare("loop", "images/s", 8, [[Result([2.0], [3.0], 9.0)], [], []], "none here"))
    assert (rate["peer"], rate["ratio"], memory["peer"], memory["ratio"]) == (None, None, None, None)
    assert rate["reason"] == memory["reason"] == "none here"
    assert versions([], []) == {}


def test_reasons_name_the_way_out(tmp_path):
    interpreter = tmp_path / "python"
    assert "--peers-python" in str(Peers(None, None).no_trl)
    assert "no interpreter" in str(Peers(interpreter, None).no_trl)
    interpreter.touch()
    assert Peers(interpreter, None).no_trl is None
    assert "DIFFUSERS_EXAMPLES" in str(Peers(interpreter, None).no_script)
    assert str(tmp_path) in str(Peers(interpreter, tmp_path).no_script)
    script = tmp_path / "dreambooth" / "train_dreambooth_lora.py"
    script.parent.mkdir()
    script.touch()
    assert Peers(interpreter, tmp_path).no_script is None
    assert "--peers-python" in str(Peers(None, tmp_path).no_script)


def test_a_process_that_fails_or_says_nothing_is_an_error():
    with pytest.raises(SideFailed, match=r"(?s)code 2.*usage"):
        run(["json.tool", "--no-such-option"], 1, [{}])
    with pytest.raises(SideFailed, match="no result"):
        measured(["this"], 1, {})


def test_one_that_waits_for_a_failed_one_is_ended():
    with pytest.raises(SideFailed, match=r"(?s)code 1.*not today"):
        run(["tests.unit.benchmarks.waits_or_fails"], 1, [{}, {"FAIL": "not today"}])


def test_differences_of_weights():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0])}
    assert largest_difference(one, {"a": torch.tensor([1.0, 2.5]), "b": torch.tensor([0.25])}) == 0.5
    with pytest.raises(ValueError, match="b"):
        largest_difference(one, {"a": one["a"]})


def test_the_peers_have_our_versions_of_what_we_share():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(line.split("==") for line in project["optional-dependencies"]["trainer"])
    lines = (ROOT / "benchmarks/peers.in").read_text().splitlines()
    peers = dict(line.split("==") for line in lines if not line.startswith("#"))
    shared = pinned.keys() & peers.keys()
    assert {"torch", "diffusers", "transformers", "peft", "accelerate"} <= shared
    assert {name: peers[name] for name in shared} == {name: pinned[name] for name in shared}
    locked = (ROOT / "benchmarks/peers.txt").read_text()
    for name, number in peers.items():
        assert f"\n{name}=={number} \\\n    --hash=sha256:" in locked, name
