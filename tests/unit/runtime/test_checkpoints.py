"""State goes out and comes back bit for bit; what is damaged is passed over. Gangs are in test_launcher."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from instructbooth.artifacts.layout import MANIFEST, RunLayout
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import Stage
from instructbooth_trainer.runtime.checkpoints import Checkpointer
from instructbooth_trainer.runtime.errors import Checkpointed
from instructbooth_trainer.runtime.gang import Gang
from instructbooth_trainer.runtime.state import (
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    rng_tensors,
)

LAYOUT = RunLayout("u/")


def draw(generator: torch.Generator) -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        float(torch.randn((), generator=generator)),
    ]


@pytest.mark.parametrize("warm_up", [0, 1, 2])
def test_random_numbers_go_on_where_they_were(tmp_path: Path, warm_up: int) -> None:
    """Warm up, because gauss() makes numbers in pairs and keeps the second."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(warm_up):
        draw(generator)
    saved = rng_tensors({"own": generator})
    save_file(saved, tmp_path / "rng.safetensors")  # nothing that safetensors could not hold
    expected = [draw(generator) for _ in range(3)]
    draw(generator)
    load_rng_tensors(saved, {"own": generator})
    assert [draw(generator) for _ in range(3)] == expected


def test_the_optimizer_goes_on_where_it_was() -> None:
    def train(steps: int, weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            ((weight - 3) ** 2).sum().backward()
            optimizer.step()

    first = torch.nn.Parameter(torch.arange(4.0))
    one = torch.optim.AdamW([first], lr=0.1)
    train(3, first, one)
    one.param_groups[0]["lr"] = 0.05
    second = torch.nn.Parameter(first.detach().clone())
    two = torch.optim.AdamW([second], lr=0.1)
    load_optimizer_tensors(two, optimizer_tensors(one))
    train(3, first, one)
    train(3, second, two)
    assert torch.equal(first, second)


def test_another_model_s_optimizer_is_refused() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    one = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones(1)
    one.step()
    with pytest.raises(ValueError, match=r"parameters \[1\]"):
        load_optimizer_tensors(torch.optim.AdamW(weights[:1]), optimizer_tensors(one))


class State:
    """A number."""

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"value": self.value, "shared": self.value}

    def meta(self) -> dict[str, JsonValue]:
        return {"best": float("-inf"), "seen": [1, 2]}

    def load(self, tensors: dict[str, torch.Tensor], meta: dict[str, JsonValue]) -> None:
        self.value = tensors["value"]
        assert meta == self.meta()

    def generators(self) -> dict[str, torch.Generator]:
        return {}


class Runner:
    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "store", "b")
        self.folder = folder
        self.stop = False

    def checkpointer(self, attempt: int, interval: int = 2) -> Checkpointer:
        return Checkpointer(
            self.store, LAYOUT, Stage.REINFORCE, attempt, Gang(0, 0, 1), lambda: self.stop, self.folder, 2, interval
        )

    def run(self, checkpointer: Checkpointer, state: State, first: int, last: int) -> None:
        for step in range(first, last + 1):
            state.value = torch.tensor(float(step))
            checkpointer.step_done(step, state)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_saves_at_the_interval_keeps_the_newest_and_resumes(runner: Runner) -> None:
    runner.run(runner.checkpointer(1), State(), 1, 7)
    saved = {o.key.split("/")[4] for o in runner.store.list("u/reinforce/1/checkpoints/")}
    assert saved == {"4", "6"}
    state = State()
    assert runner.checkpointer(2).resume(state) == 6
    assert state.value == 6


def test_nothing_to_resume(runner: Runner) -> None:
    assert runner.checkpointer(1).resume(State()) == 0


def test_stop_saves_off_the_interval_and_says_so(runner: Runner) -> None:
    checkpointer = runner.checkpointer(1, interval=100)
    runner.run(checkpointer, State(), 1, 2)
    runner.stop = True
    with pytest.raises(Checkpointed, match="step 3"):
        runner.run(checkpointer, State(), 3, 3)
    runner.stop = False
    assert runner.checkpointer(2).resume(State()) == 3


def test_a_later_attempt_s_checkpoint_is_not_a_zombie_s_business(runner: Runner) -> None:
    runner.run(runner.checkpointer(1), State(), 1, 2)
    runner.run(runner.checkpointer(2), State(), 1, 4)
    assert runner.checkpointer(1).resume(State()) == 2


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(runner: Runner, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    runner.run(runner.checkpointer(1), State(), 1, 4)
    prefix = LAYOUT.checkpoint(Stage.REINFORCE, 1, 4)
    if damage == "cut":
        runner.store.put_bytes(prefix + "state.safetensors", b"cut")
    elif damage == "gone":
        runner.store.delete(prefix + "rng-0.safetensors")
    else:
        runner.store.put_bytes(prefix + MANIFEST, b"{")
    state = State()
    assert runner.checkpointer(2).resume(state) == 2
    assert state.value == 2
    assert "passing over the checkpoint of step 4" in caplog.text


def test_another_world_size_goes_on_with_the_state_and_says_so(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    writer = runner.checkpointer(1)
    writer.gang.world_size = 2
    runner.run(writer, State(), 1, 2)
    state = State()
    before = torch.get_rng_state()
    assert runner.checkpointer(2).resume(state) == 2
    assert state.value == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert "made by 2 processes, these are 1" in caplog.text
