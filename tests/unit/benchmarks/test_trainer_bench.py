"""The benchmark itself, as small as it gets: without peers it says so and still measures ours and the floor."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from benchmarks.trainer.__main__ import main
from benchmarks.trainer.gradients import keep_gradients, relative_difference
from benchmarks.trainer.measures import utilization
from benchmarks.trainer.workload import Result


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_single_passes(capsys, dtype):
    main(["--model", "tiny", "--only", "passes", "--rounds", "1", "--threads", "1", "--dtype", dtype])
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == {"forward_pass_ms", "training_pass_ms"}
    for row in rows.values():
        assert row["ours"] > 0
        assert row["ratio"] == row["ours_of_floor"] == pytest.approx(row["floor"] / row["ours"], rel=0.01)


def test_utilization_is_of_the_operations_that_the_floor_counted():
    floor = Result(seconds=[2.0], numbers={"operations": 8e12, "operations_per_s": 16e12})
    shares = utilization({"ours": [Result(seconds=[1.0, 1.0, 9.0])], "peer": [], "floor": [floor]})
    assert shares == {"ours_mfu": 0.5, "floor_mfu": 0.25, "tflops": 16.0}
    assert utilization({"ours": [floor], "floor": [Result(seconds=[2.0])]}) == {}


def test_ours_alone(capsys):
    main(["--model", "tiny", "--only", "reinforce", "gang", "--rounds", "1", "--epochs", "1", "--threads", "1"])
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    measured = {"reinforce_images_per_s", "reinforce_peak_mib", "checkpoint_share_of_time", "two_process_speedup"}
    assert rows.keys() == measured
    assert rows["two_process_speedup"]["two_images_per_s"] > 0
    speed = rows["reinforce_images_per_s"]
    assert speed["peer"] is None
    assert "--peers-python" in speed["reason"]
    assert speed["ours"] > 0
    assert speed["floor"] > 0
    assert speed["ratio"] == speed["ours_of_floor"] > 0
    assert rows["reinforce_peak_mib"]["ours"] > 100
    assert 0 < rows["checkpoint_share_of_time"]["ours"] < 1


def test_gradients_are_told_apart_by_their_scale_where_weights_after_adam_are_not():
    """One step of Adam moves a weight by the learning rate, whatever the size of its gradient."""

    def named(weight: torch.Tensor, idle: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"w": weight.data, "i": idle.data}

    kept, after = [], []
    for scale in (1.0, 2.0):
        weight = torch.nn.Parameter(torch.ones(3))
        idle = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.AdamW([weight, idle], lr=0.1)
        gradients: dict[str, torch.Tensor] = {}
        keep_gradients(optimizer, partial(named, weight, idle), gradients)
        weight.grad = scale * torch.tensor([1.0, -2.0, 3.0])
        optimizer.step()
        kept.append(gradients)
        after.append(weight.detach().clone())
    assert torch.allclose(after[0], after[1])
    assert kept[1]["gradient.w"].tolist() == [2.0, -4.0, 6.0]
    assert kept[0]["gradient.i"].tolist() == [0.0]
    assert relative_difference(kept[1], kept[0]) == pytest.approx(1.0)
    assert relative_difference(kept[0], kept[0]) == 0.0
    with pytest.raises(ValueError, match="different weights"):
        relative_difference(kept[0], {})
