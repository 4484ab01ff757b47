"""When a pass is recorded and when it is not; what a recording is, tests/gpu shows on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbooth.contract import Stage
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion import graphs
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.graphs import AT_MOST, Graphs
from instructbooth_trainer.diffusion.model import DiffusionModel
from tests.unit.trainer.tiny import SIZE
from tests.unit.trainer.tiny_families import BUILDERS


class Recording:
    """Stands for a recording, and computes instead: the gradient of `weight * input` is the input."""

    made: list[Recording]

    def __init__(self, module: Net, function: Any, inputs: Sequence[Tensor], learning: bool, tape: Any) -> None:
        if len(inputs) > 1:
            raise RuntimeError("no memory")
        self.function, self.weights, self.replays = function, [module.weight] if learning else [], 0
        self.made.append(self)

    @torch.no_grad()
    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        self.replays += 1
        self.inputs = inputs
        out: Tensor = self.function(*inputs)
        return out

    def replay_backward(self, incoming: Tensor) -> tuple[Tensor, ...]:
        return ((incoming * self.inputs[0]).sum(),)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))
        self.frozen = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.weight * x


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def recorded(net: Net, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    Recording.made = []
    monkeypatch.setattr(graphs, "_Graph", Recording)
    monkeypatch.setattr(graphs, "_Tape", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return Graphs(net)


def ones(*shape: int) -> list[Tensor]:
    return [torch.ones(shape)]


def test_a_pass_is_recorded_when_its_shapes_come_again(net, recorded):
    with torch.no_grad():
        for _ in range(3):
            recorded(net, ones(2))
            recorded(net, ones(3))
    assert [recording.replays for recording in Recording.made] == [2, 2]


def test_constants_dtypes_and_gradients_tell_passes_apart(net, recorded):
    def everything() -> None:
        recorded(net, ones(2), 1.0)
        recorded(net, ones(2), 2.0)
        recorded(net, [torch.ones(2).double()], 1.0)
        with torch.no_grad():
            recorded(net, ones(2), 1.0)

    everything()
    assert recorded.recorded == 0
    everything()
    assert [len(recording.weights) for recording in Recording.made] == [1, 1, 1]  # and the last is half of the first


def test_a_pass_without_gradient_is_half_of_one_with_as_soon_as_that_is_recorded(net, recorded):
    def without() -> None:
        with torch.no_grad():
            recorded(net, ones(2))

    for _ in range(2):
        without()
    for _ in range(2):
        recorded(net, ones(2)).sum().backward()
    without()
    assert [len(recording.weights) for recording in Recording.made] == [0, 1]
    assert [recording.replays for recording in Recording.made] == [1, 2]


def test_only_so_many_are_kept(net, recorded):
    with torch.no_grad():
        for _ in range(2):
            for size in range(AT_MOST + 2):
                assert torch.equal(recorded(net, ones(size)), 3 * torch.ones(size))
    assert recorded.recorded == AT_MOST


def test_gradients_of_replays_add_up(net, recorded):
    for value in (1.0, 2.0, 4.0, 8.0):
        recorded(net, [torch.tensor([value])]).sum().backward()
    assert net.weight.grad == 15
    assert Recording.made[0].replays == 3


def test_nothing_is_replayed_before_the_backward_pass_that_is_to_come(net, recorded):
    for _ in range(2):
        recorded(net, ones(1)).sum().backward()
    net.weight.grad = None
    first = recorded(net, [torch.tensor([2.0])])
    assert not recorded.free
    second = recorded(net, [torch.tensor([5.0])])
    with torch.no_grad():
        recorded(net, ones(1))
    (first + second).sum().backward()
    assert net.weight.grad == 7
    assert recorded.free
    assert Recording.made[0].replays == 2


def test_a_pass_that_is_never_learnt_from_is_forgotten(net, recorded):
    for _ in range(2):
        recorded(net, ones(1))
    kept = recorded(net, ones(1))
    assert not recorded.free
    del kept
    assert recorded.free
    recorded(net, ones(1))
    assert Recording.made[0].replays == 3


def test_a_second_backward_pass_is_refused(net, recorded):
    for _ in range(2):
        output = recorded(net, ones(1))
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a recorded pass has one backward pass"):
        output.sum().backward()


def test_a_trained_input_is_computed_as_ever(net, recorded):
    given = torch.ones(1, requires_grad=True)
    for _ in range(3):
        recorded(net, [given]).sum().backward()
    assert given.grad == 9
    assert not Recording.made


def test_a_recording_that_fails_is_told_once_and_what_was_recorded_goes_on(net, recorded, caplog):
    with torch.no_grad():
        recorded(net, ones(1))
        for _ in range(4):
            assert torch.equal(recorded(net, [torch.ones(1), torch.ones(1)]), torch.tensor([3.0]))
            recorded(net, ones(1))
            recorded(net, ones(2))
    assert caplog.text.count("one failed: no memory") == 1
    assert [recording.replays for recording in Recording.made] == [4]


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], True),
        ([[1.0, 2.0]], [[1.0, 2.1]], False),
        ([[1.0], [5.0, 0.0], None], [[1.0], [5.0, 0.01], None], True),  # gradients count together
        ([[1.0], [5.0], None], [[1.0], [5.0], [0.0]], False),
        ([[1.0], [float("inf"), 2.0]], [[1.0], [float("inf"), 2.0]], True),  # fp16 may overflow, in both
        ([[1.0], [float("inf"), 2.0]], [[1.0], [3.0, 2.0]], False),
        ([[float("nan")]], [[1.0]], False),
        ([[0.0], [0.0]], [[0.0], [0.0]], True),
    ],
)
def test_what_counts_as_the_same(found, expected, same):
    def tensors(values: list[Any]) -> list[Tensor | None]:
        return [None if value is None else torch.tensor(value) for value in values]

    assert graphs._alike(tensors(found), tensors(expected)) is same


def test_the_gradient_that_replays_are_compared_by_fits_into_fp16():
    signs = graphs._signs(torch.zeros(8, 4, 64, 64, dtype=torch.float16))
    assert signs.dtype == torch.float16
    assert float(signs.float().norm()) == pytest.approx(1, rel=0.01)
    assert float(signs.float().sum()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_leaves_on_the_weights_memory_give_the_weights_gradients(family, folders):
    model = DiffusionModel.load(folders[family], dtype="bf16", resolution=SIZE)
    adapter = Adapter(model, Lora(rank=2, alpha=2, targets="all"), text_encoder=False, seed=0)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    with torch.no_grad():
        encoding = model.condition(["a small mascot"], guidance=1.0).encoding
    latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    inputs = [latents, model.schedule(4, eta=1.0).timesteps[:1], *encoding.values()]

    def function(latents: Tensor, timesteps: Tensor, *rows: Tensor) -> Tensor:
        return model.forward(latents, timesteps, dict(zip(encoding, rows, strict=True)), 1.0)

    held = function(*inputs)  # a pass whose nodes live on
    incoming = torch.ones_like(held)
    exchanged = graphs.Exchanged(model.denoiser, function, learning=True)
    assert all(one is other for one, other in zip(exchanged.weights, adapter.parameters(), strict=True))
    for _ in range(2):
        output = exchanged.run(inputs)
        assert torch.equal(output, function(*inputs))
        ours = exchanged.derive(output, incoming)
        expected = torch.autograd.grad(function(*inputs), adapter.parameters(), incoming, allow_unused=True)
        for one, other in zip(ours, expected, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert all(weight.grad is None for weight in adapter.parameters())
        with torch.no_grad():
            for weight in adapter.parameters():
                weight.mul_(1.5)  # seen by the leaves, too


def test_disturbed_weights_come_back_and_a_pass_that_waits_does_not_notice(net):
    net.weight.data.fill_(0.1)
    exchanged = graphs.Exchanged(net, net, learning=True)
    waiting = (net(torch.ones(1)) * net.weight).sum()
    with exchanged.disturbed():
        assert float(exchanged.run([torch.ones(1)])) == pytest.approx(0.1 + graphs.DISTURBANCE)
    assert net.weight == torch.tensor(0.1)
    waiting.backward()
    assert net.weight.grad == pytest.approx(0.2)


@pytest.mark.parametrize("stage", [Stage.PERSONALIZE, Stage.REINFORCE])
def test_both_trained_stages_record(lab, personalized, monkeypatch, stage):
    class Recorded(Exception):
        pass

    def record(model: DiffusionModel) -> None:
        assert any("lora_" in name for name, _ in model.denoiser.named_parameters()), "the adapter comes first"
        raise Recorded

    monkeypatch.setattr(DiffusionModel, "record", record)
    job = lab.job(personalized.uid)
    job = job.model_copy(
        update={"spec": job.spec.model_copy(update={"model": job.spec.model.model_copy(update={"cuda_graphs": True})})}
    )
    with pytest.raises(Recorded):
        lab.run(job, stage)
