"""LoRA layers computed at less cost: the same output and gradients as PEFT's own, and weights that come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear

from instructbooth_trainer.diffusion import sampling
from instructbooth_trainer.diffusion.lora import ADAPTER, fuse, merged


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 8)
        self.second = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).unflatten(1, (1, -1))
        out: torch.Tensor = self.second(torch.cat([hidden, hidden.square()], dim=1))
        return out


def net(**options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=2, target_modules=["first", "second"], **options)
    made = inject_adapter_in_model(config, Net())
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def gradients(module: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))


def peft_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: object, **kwargs: object) -> None:
        raise AssertionError("PEFT's own forward")

    monkeypatch.setattr(Linear, "forward", forward)


def test_fused_layers_give_the_same_output_and_gradients(x, monkeypatch):
    plain, fused = net(), net()
    fuse(fused)
    expected, expected_gradients = plain(x), gradients(plain, x)
    peft_refuses(monkeypatch)
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(fused, x).items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_dropout_and_dora_are_left_to_peft(options, x, monkeypatch):
    fused = net(**options)
    fuse(fused)
    fused.train()
    fused(x)
    peft_refuses(monkeypatch)
    with pytest.raises(AssertionError, match="PEFT"):
        fused(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_adapter_is_rounded_for_the_product_alone(dtype, x, monkeypatch):
    x = x.to(dtype)
    plain, fused = net(), net()
    for module in (plain, fused):
        module.first.base_layer.to(dtype)
    fuse(fused)
    expected, expected_gradients = plain.first(x), gradients(plain.first, x)  # PEFT's, the product in float32
    peft_refuses(monkeypatch)
    assert fused.first(x).dtype == dtype
    torch.testing.assert_close(fused.first(x), expected, rtol=0.02, atol=0.02)
    for name, gradient in gradients(fused.first, x).items():
        assert gradient.dtype == torch.float32
        error = (gradient - expected_gradients[name]).norm() / expected_gradients[name].norm()
        assert 0 < error < 0.02


def test_a_disabled_adapter_stays_disabled(x):
    fused = net()
    fuse(fused)
    fused.first.enable_adapters(False)
    torch.testing.assert_close(fused.first(x), fused.first.base_layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_merged_weights_give_the_same_output_and_come_back_bit_for_bit(options, x):
    module = net(**options)
    fuse(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        expected = module(x)
        with merged(module):
            assert module.first.merged
            assert not torch.equal(module.first.base_layer.weight, before["first.base_layer.weight"])
            torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(module(x), expected)
    assert not module.first.merged
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_weights_come_back_after_an_error():
    module = net()
    before = module.first.base_layer.weight.data.clone()
    with pytest.raises(KeyboardInterrupt), merged(module):
        raise KeyboardInterrupt
    assert torch.equal(module.first.base_layer.weight.data, before)
    assert module.first.active_adapters == [ADAPTER]
    assert not module.first.merged


def test_half_precision_is_not_merged_for_the_adapter_would_be_rounded_away():
    module = net()
    module.first.base_layer.to(torch.bfloat16)
    with merged(module):
        assert not module.first.merged
        assert module.second.merged


def test_rollouts_are_drawn_with_merged_weights():
    class Model:
        denoiser, device, latent_shape = net(), torch.device("cpu"), (1, 2, 2)

        def predict(self, latents: torch.Tensor, *_: object) -> torch.Tensor:
            assert self.denoiser.first.merged
            return latents

    class Schedule:
        timesteps, sigma = torch.tensor([2, 1]), torch.tensor([1.0, 0.0])

        def mean(self, prediction: torch.Tensor, *_: object) -> torch.Tensor:
            return prediction

    made: Any = sampling.sample(Model(), Schedule(), None, [torch.Generator().manual_seed(0)])  # type: ignore[arg-type]
    assert made.shape == (3, 1, 1, 2, 2)
    assert not Model.denoiser.first.merged
