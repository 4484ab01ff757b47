"""Muon: what one step does to a matrix, a convolution, and in shares; and that a checkpoint keeps its momentum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from instructbooth_miniature import muon
from instructbooth_miniature.training import Ema, load_checkpoint, optimise, save_checkpoint


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_a_step_keeps_the_directions_and_evens_out_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    sizes = torch.logspace(0, -1.5, min(shape))
    evened = muon.orthogonalise(left @ torch.diag(sizes) @ right)
    seen = left.T @ evened @ right.T
    assert (seen - torch.diag(seen.diagonal())).abs().max() < 1e-4
    assert seen.diagonal().min() > 0.6
    assert seen.diagonal().max() < 1.3


def test_a_convolution_steps_like_the_matrix_of_its_outputs_and_in_the_size_of_adamw() -> None:
    torch.manual_seed(0)
    convolution, matrix = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.empty(8, 36))
    matrix.data = convolution.data.flatten(1).clone()
    gradient, before = torch.randn(8, 4, 3, 3), convolution.detach().clone()
    convolution.grad, matrix.grad = gradient, gradient.flatten(1)
    for weight in (convolution, matrix):
        optimizer = muon.Muon([weight])
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
    assert torch.equal(convolution.flatten(1), matrix)
    moved = convolution.detach() - before
    assert moved.square().mean().sqrt() == pytest.approx(0.01 * muon.ADAMW_SIZE, rel=0.2)
    assert (moved * gradient).sum() < 0  # downhill


def test_momentum_goes_on_where_a_gradient_ends() -> None:
    torch.manual_seed(0)
    weight, gradient = nn.Parameter(torch.zeros(4, 6)), torch.randn(4, 6)
    optimizer = muon.Muon([weight])
    optimizer.param_groups[0]["lr"] = 0.01
    weight.grad = gradient
    optimizer.step()
    after_one = weight.detach().clone()
    weight.grad = torch.zeros(4, 6)
    optimizer.step()
    assert ((weight.detach() - after_one) * gradient).sum() < 0


def test_the_shares_of_all_processes_make_one_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(tensors: Sequence[torch.Tensor], world_size: int) -> None:
        """Not summed: so each process's own share can be seen."""

    monkeypatch.setattr(muon, "sum_together", keep)

    def moved(rank: int, world_size: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape)) for shape in ((4, 6), (5, 5), (3, 2, 3, 3))]
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = muon.Muon(weights, rank, world_size)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        return [weight.detach() - old for weight, old in zip(weights, before, strict=True)]

    for whole, first, second in zip(moved(0, 1), moved(0, 2), moved(1, 2), strict=True):
        assert torch.allclose(first + second, whole, atol=1e-6)
        assert min(first.abs().max(), second.abs().max()) == 0  # each weight is one process's work


def test_layers_at_the_rim_are_left_to_adamw() -> None:
    names = ("conv_in", "inner", "time_embedding", "conv_out", "text_projection")
    module = nn.ModuleDict({name: nn.Linear(3, 3) for name in names})
    assert [id(weight) for weight in muon.inner_matrices(module)] == [id(module["inner"].weight)]
    assert len(muon.other_parameters(module)) == 2 * len(names) - 1


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def run(first: int, last: int, resume: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        adamw = torch.optim.AdamW([weight for weight in model.parameters() if weight.ndim == 1])
        optimizers, emas = [adamw, muon.Muon(muon.inner_matrices(model))], {"model": Ema(model, 0.9)}
        if resume:
            assert load_checkpoint(tmp_path / "kept", {"model": model}, emas, optimizers) == first
        for step in range(first, last):
            data = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            optimise(model(data).square().mean(), list(model.parameters()), optimizers, 0.05)
            emas["model"].update(model, step)
        if not resume and last == 2:
            save_checkpoint(tmp_path / "kept", 2, {"model": model}, emas, optimizers)
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    unbroken = run(0, 4, resume=False)
    run(0, 2, resume=False)
    assert torch.equal(run(2, 4, resume=True), unbroken)
