"""fp16: an overflow costs a step and halves the scale, also across restarts; bf16 and fp32 have none."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import Accelerator

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.personalization import Lora
from instructbooth.spec.stages import Dtype
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes import loss_scale
from instructbooth_trainer.recipes.training import SynchronizedAdamW
from instructbooth_trainer.runtime.errors import RunError
from instructbooth_trainer.runtime.state import load_optimizer_tensors, optimizer_tensors
from tests.unit.trainer.harness import Lab, published
from tests.unit.trainer.second_stage import Killed, kill_at_update
from tests.unit.trainer.tiny import TinyWorld


@pytest.fixture
def adapter(tiny: TinyWorld) -> Adapter:
    return Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=2), text_encoder=False, seed=0)


def optimizer(adapter: Adapter, dtype: Dtype) -> SynchronizedAdamW:
    return SynchronizedAdamW(Accelerator(cpu=True), adapter, 1e-3, 1.0, dtype, weight_decay=0.01)


def overflow(adamw: SynchronizedAdamW, adapter: Adapter) -> None:
    """A backward pass in which one number grows beyond fp16."""
    adamw.backward(adapter.parameters()[0].sum())
    gradient = adapter.parameters()[0].grad
    assert gradient is not None
    gradient.view(-1)[0] = float("inf")


def test_a_step_that_overflows_is_left_out(adapter: Adapter) -> None:
    adamw, before = optimizer(adapter, "fp16"), adapter.tensors()
    overflow(adamw, adapter)
    result = adamw.step(1, 0.5)
    assert (result.loss, result.grad_norm) == (0.5, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.tensors().items())
    assert adamw.optimizer.param_groups[0]["loss_scale"] == 512.0
    # The next one is what it is in float32: the scale is taken out again, nothing is left of the overflow.
    loss = (adapter.parameters()[0] * 0.25).sum()
    adamw.backward(loss)
    assert float(adapter.parameters()[0].grad.max()) == 128.0  # type: ignore[union-attr]
    number = adapter.parameters()[0].numel()
    assert adamw.step(1, 0.5).grad_norm == pytest.approx(0.25 * number**0.5)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in adapter.tensors().items())


def test_the_scale_grows_again_and_comes_back_from_a_checkpoint(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    adamw = optimizer(adapter, "fp16")
    scales = []
    for step in range(7):
        if step == 2:
            overflow(adamw, adapter)
        adamw.step(1, 0.0)
        scales.append(adamw.optimizer.param_groups[0]["loss_scale"])
    assert scales == [1024.0, 1024.0, 512.0, 512.0, 512.0, 1024.0, 1024.0]
    kept = optimizer_tensors(adamw.optimizer)
    again = optimizer(adapter, "fp16")
    load_optimizer_tensors(again.optimizer, kept)
    assert again.optimizer.param_groups[0]["since_overflow"] == 1.0
    for _ in range(2):
        again.step(1, 0.0)
    again.backward(adapter.parameters()[0].sum())
    assert float(adapter.parameters()[0].grad.max()) == 2048.0  # type: ignore[union-attr]


def test_what_no_scale_can_mend_ends_the_run(adapter: Adapter) -> None:
    adamw = optimizer(adapter, "fp16")
    for _ in range(10):  # 1024 to 1
        overflow(adamw, adapter)
        adamw.step(1, 0.5)
    overflow(adamw, adapter)
    with pytest.raises(RunError, match="GradientNotFinite"):
        adamw.step(1, 0.5)
    lost = optimizer(adapter, "fp16")  # the forward pass itself overflowed
    overflow(lost, adapter)
    with pytest.raises(RunError, match="GradientNotFinite"):
        lost.step(1, float("nan"))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_other_dtypes_have_no_scale(adapter: Adapter, dtype: Dtype) -> None:
    adamw = optimizer(adapter, dtype)
    overflow(adamw, adapter)
    with pytest.raises(RunError, match="GradientNotFinite"):
        adamw.step(1, 0.5)
    assert not any("scale" in name for name in optimizer_tensors(adamw.optimizer))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_learns_like_float32_and_goes_on_bit_for_bit(
    lab: Lab, personalized: ResolvedJob, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    jobs = []
    for name in ("whole", "killed"):
        wire = lab.job(f"{dtype}-{name}", personalization={"steps": 8, "checkpointIntervalSteps": 4}).to_wire()
        wire["spec"]["model"]["dtype"] = dtype
        jobs.append(ResolvedJob.model_validate(wire))
    lab.run(jobs[0], Stage.PERSONALIZE)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 6)
        with pytest.raises(Killed):
            lab.run(jobs[1], Stage.PERSONALIZE)
    lab.run(jobs[1], Stage.PERSONALIZE, attempt=2)
    assert published(lab, jobs[1], Stage.PERSONALIZE, 2) == published(lab, jobs[0], Stage.PERSONALIZE)
    losses = json.loads((lab.output(jobs[0], Stage.PERSONALIZE) / "personalize.json").read_text())["loss"]
    full = json.loads((lab.output(personalized, Stage.PERSONALIZE) / "personalize.json").read_text())["loss"]
    assert losses == pytest.approx(full[:8], rel=0.05)
