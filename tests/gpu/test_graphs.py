"""CUDA graphs give what the kernels give one by one: predictions and gradients, of every family. Needs a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.model import DiffusionModel
from tests.unit.trainer.tiny import SIZE
from tests.unit.trainer.tiny_families import BUILDERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PROMPTS = ["a photo of a sks striped star mascot", "a small mascot"]
ROWS = 2
PASSES = 5  # the second is recorded, the others replayed


@pytest.fixture(params=sorted(BUILDERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> DiffusionModel:
    folder = BUILDERS[request.param](tmp_path / "model")
    return DiffusionModel.load(folder, dtype="bf16", device="cuda", resolution=SIZE)


@pytest.fixture
def adapter(model: DiffusionModel) -> Adapter:
    made = Adapter(model, Lora(rank=2, alpha=2, targets="all"), text_encoder=False, seed=0)
    torch.manual_seed(1)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.record()
    return made


@pytest.fixture
def conditioning(model: DiffusionModel) -> Conditioning:
    with torch.no_grad():
        return model.condition(PROMPTS, guidance=2.0)


def exercise(model: DiffusionModel, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    latents = torch.randn(ROWS, *model.latent_shape, generator=generator).cuda()
    return latents, model.schedule(6, eta=1.0).timesteps[torch.tensor([number % 5, (number + 2) % 5])]


def learn(model: DiffusionModel, adapter: Adapter, conditioning: Conditioning) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions of some passes, and the sum of their gradients; the weights move in between."""
    for weight in adapter.parameters():
        weight.grad = None
    predictions = []
    for number in range(PASSES):
        prediction = model.predict(*exercise(model, number), conditioning)
        predictions.append(prediction.detach())
        loss = prediction.square().mean()  # held on to while the next pass is recorded, as the recipes do
        loss.backward()
        with torch.no_grad():
            for weight in adapter.parameters():
                weight.mul_(1.1)
    sums = [weight.grad for weight in adapter.parameters() if weight.grad is not None]
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.div_(1.1**PASSES)
    return predictions, sums


def alike(ours: list[Tensor], others: list[Tensor]) -> None:
    """All together: a single gradient may be all rounding."""
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in others]
    one, other = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (ours, others))
    assert bool(one.isfinite().all())
    assert float((one - other).norm()) <= 0.02 * float(other.norm())


def test_predictions_and_summed_gradients_are_those_of_single_kernels(model, adapter, conditioning, caplog):
    start = adapter.tensors()
    graphs, model.graphs = model.graphs, None
    expected, expected_sums = learn(model, adapter, conditioning)
    adapter.load_tensors(start)
    model.graphs = graphs
    with caplog.at_level(logging.WARNING):
        ours, sums = learn(model, adapter, conditioning)
    assert not caplog.records, caplog.text
    assert graphs.recorded == 1
    alike(ours, expected)
    alike(sums, expected_sums)
    assert any(float(tensor.norm()) > 0 for tensor in sums)


def test_a_pass_without_gradient_is_the_same_to_the_last_bit(model, adapter, conditioning):
    learn(model, adapter, conditioning)
    for number in range(3):
        with torch.no_grad():
            ours = model.predict(*exercise(model, number), conditioning)
        assert torch.equal(ours, model.predict(*exercise(model, number), conditioning).detach())
    assert model.graphs.recorded == 1


def test_passes_between_a_pass_and_its_backward_pass_leave_its_gradients_alone(model, adapter, conditioning):
    learn(model, adapter, conditioning)
    with torch.no_grad():
        for number in range(3):
            model.predict(*exercise(model, number), conditioning)

    def gradients() -> list[Tensor]:
        first = model.predict(*exercise(model, 7), conditioning)
        second = model.predict(*exercise(model, 8), conditioning)
        with torch.no_grad():
            model.predict(*exercise(model, 9), conditioning)
        loss = first.square().mean() + second.abs().mean()
        return [g for g in torch.autograd.grad(loss, adapter.parameters(), allow_unused=True) if g is not None]

    assert model.graphs.recorded == 1
    ours = gradients()
    model.graphs = None
    alike(ours, gradients())


def test_a_pass_that_is_never_learnt_from_does_not_end_the_replays(model, adapter, conditioning):
    learn(model, adapter, conditioning)
    kept = model.predict(*exercise(model, 0), conditioning)
    assert model.graphs.recorded == 1
    assert not model.graphs.free
    del kept
    assert model.graphs.free


def test_a_pass_that_still_waits_does_not_hinder_the_recording(model, adapter, conditioning):
    waiting = model.predict(*exercise(model, 0), conditioning)  # with kernels: nothing is recorded yet
    again = model.predict(*exercise(model, 1), conditioning)
    assert model.graphs.recorded == 1
    (waiting.square().mean() + again.square().mean()).backward()
    ours = [weight.grad.clone() for weight in adapter.parameters() if weight.grad is not None]
    for weight in adapter.parameters():
        weight.grad = None
    model.graphs = None
    sum(model.predict(*exercise(model, number), conditioning).square().mean() for number in range(2)).backward()
    alike(ours, [weight.grad for weight in adapter.parameters() if weight.grad is not None])


def test_what_differs_from_its_pass_is_not_replayed(model, adapter, conditioning, monkeypatch, caplog):
    forward = model.forward

    def fickle(*inputs: Tensor) -> Tensor:
        output: Tensor = forward(*inputs)
        return output + (1 if torch.cuda.is_current_stream_capturing() else 0)

    monkeypatch.setattr(model, "forward", fickle)
    with torch.no_grad():
        for number in range(3):
            model.predict(*exercise(model, number), conditioning)
    assert model.graphs.recorded == 0
    assert "a replay gives something else than the pass does" in caplog.text
