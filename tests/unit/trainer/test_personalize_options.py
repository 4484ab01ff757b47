"""What personalization can do beyond its defaults: each option does what it says, and all resume bit for bit."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from instructbooth.contract import Stage
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.algorithms.averaging import warmed_decay
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.training import SynchronizedAdamW, make_optimizer
from instructbooth_trainer.report.validation import spread
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.state import load_optimizer_tensors, optimizer_tensors
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.second_stage import Killed, kill_at_update
from tests.unit.trainer.tiny import TinyWorld

PERSONALIZE = Stage.PERSONALIZE
PLAIN: dict[str, Any] = {"steps": 3, "priorPreservation": {"weight": 0}, "captionTemplates": ["a {subject}"]}
EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "steps": 9,
    "checkpointIntervalSteps": 4,
    "trainTextEncoder": True,
    "gradientCheckpointing": True,
    "schedule": "cosine",
    "warmupSteps": 3,
    "ema": {"decay": 0.5},
    "earlyStopping": {"intervalSteps": 2, "patience": 9},
    "lora": {"rank": 2, "alpha": 2, "dropout": 0.3, "useDora": True, "targetModules": ["to_q", "conv1"]},
    "validation": {"prompts": {"inline": ["a {subject}", "the star"]}, "intervalSteps": 3, "imagesPerPrompt": 1},
}


def test_with_everything_in_use_it_goes_on_bit_for_bit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = (lab.job(f"everything-{n}", personalization=EVERYTHING) for n in range(2))
    lab.run(whole, PERSONALIZE)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 7)  # the checkpoint is of the fourth step; attempt 1 drew steps 0, 3 and 6
        with pytest.raises(Killed):
            lab.run(killed, PERSONALIZE)
    lab.run(killed, PERSONALIZE, attempt=2)
    expected, found = lab.output(whole, PERSONALIZE), lab.output(killed, PERSONALIZE, 2)
    files = {str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file()}
    sheets = {f"validation/step-00000{step}.png" for step in (0, 3, 6, 9)}
    assert files >= sheets | {WEIGHTS, "README.md", "validation.png", "samples.png", "personalize.json"}
    for name in files - {"README.md", "manifest.json"}:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert len({(expected / sheet).read_bytes() for sheet in sheets}) == 4, "the pictures change"
    attempts = lab.root / "runs/test/tiny" / killed.uid / "personalize"
    assert sorted(p.name for p in (attempts / "1/validation").iterdir()) == ["0", "3", "6"]
    assert sorted(p.name for p in (attempts / "2/validation").iterdir()) == ["6", "9"]


def test_the_average_is_published(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[dict[str, Tensor]] = []
    original = AdapterAverage.update

    def watching(self: AdapterAverage, step: int) -> None:
        steps.append(self._adapter.tensors())
        original(self, step)

    monkeypatch.setattr(AdapterAverage, "update", watching)
    job = lab.job("average", personalization=PLAIN | {"ema": {"decay": 0.15}})
    lab.run(job, PERSONALIZE)
    published = load_file(lab.output(job, PERSONALIZE) / WEIGHTS)
    # Decays 0, 1/10 and min(0.15, 2/11) = 0.15: ((w1) 0.1 + 0.9 w2) 0.15 + 0.85 w3.
    for name, tensor in published.items():
        first, second, third = (step[name] for step in steps)
        torch.testing.assert_close(tensor, 0.015 * first + 0.135 * second + 0.85 * third)
    assert any(not torch.equal(published[name], steps[-1][name]) for name in published)
    assert warmed_decay(0.15, 2) == 0.15


def test_the_rate_follows_its_schedule(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = SynchronizedAdamW.step

    def watching(self: SynchronizedAdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SynchronizedAdamW, "step", watching)
    changes = PLAIN | {"steps": 4, "schedule": "linear", "warmupSteps": 1, "learningRate": 0.006}
    lab.run(lab.job("schedule", personalization=changes), PERSONALIZE)
    assert rates == pytest.approx([0.003, 0.006, 0.004, 0.002])


def test_checkpointed_gradients_are_the_same(tiny: TinyWorld) -> None:
    found, passes = [], []
    for checkpointed in (False, True):
        model = DiffusionModel.load(tiny.pipeline)
        adapter = Adapter(model, Lora(rank=2, dropout=0.2), text_encoder=True, seed=0)
        with torch.no_grad():
            for number, parameter in enumerate(adapter.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
        if checkpointed:
            model.checkpoint_gradients(text_encoder=True)
        calls = {"unet": 0, "text_encoder": 0}
        watched = {
            "unet": model.denoiser.mid_block.attentions[0].transformer_blocks[0].attn1.to_q,
            "text_encoder": model.pipeline.text_encoder.encoder.layers[0].self_attn.q_proj,
        }
        for name, layer in watched.items():

            def count(*_: Any, name: str = name, calls: dict[str, int] = calls) -> None:
                calls[name] += 1

            layer.register_forward_pre_hook(count)
        latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        with adapter.dropping("key"):
            conditioning = model.condition(["a sks star", "a star"], 1.0)
            output = model.predict(latents, torch.tensor([500, 1]), conditioning)
            output.square().sum().backward()
        found.append([parameter.grad for parameter in adapter.parameters()])
        passes.append(calls)
    assert passes == [{"unet": 1, "text_encoder": 1}, {"unet": 2, "text_encoder": 2}], "computed again, not kept"
    for plain, checkpointed_gradient in zip(*found, strict=True):
        assert plain is not None
        assert float(plain.abs().max()) > 0
        assert torch.equal(plain, checkpointed_gradient)


def test_an_optimizer_that_is_not_installed_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"OptimizerMissing.*personalization\.optimizer.*podTemplate\.image.*adamw"):
        make_optimizer("adamw8bit", [torch.nn.Parameter(torch.zeros(1))], 1e-3, 0.01)


class CountingAdamW(torch.optim.Optimizer):
    """Keeps its step as a Python int and its statistics one level deeper, as bitsandbytes' optimizers do."""

    def __init__(self, parameters: Any, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state.setdefault("step", 0)
            assert type(state["step"]) is int
            state["step"] += 1
            state["quantized"] = {"state1": torch.full((2,), state["step"], dtype=torch.uint8)}
            parameter -= self.param_groups[0]["lr"] * state["step"]


def test_the_8_bit_optimizer_is_used_and_its_state_comes_back(tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("bitsandbytes")
    library.optim = ModuleType("optim")  # type: ignore[attr-defined]
    library.optim.AdamW8bit = CountingAdamW
    adapter = Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=2), text_encoder=False, seed=0)
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)  # now: PEFT would look into it
    optimizer = SynchronizedAdamW(Accelerator(cpu=True), adapter, 1e-3, 1.0, "fp32", 0.01, "adamw8bit")
    optimizer.step(1, 0.0)
    again = make_optimizer("adamw8bit", adapter.parameters(), 1e-3, 0.01)
    load_optimizer_tensors(again, optimizer_tensors(optimizer.optimizer))
    state = again.state[adapter.parameters()[0]]
    assert state["quantized"]["state1"].tolist() == [1, 1]
    again.step()
    assert state["step"] == 2


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
def test_a_step_shrinks_the_weights_by_their_decay(tiny: TinyWorld, decay: float) -> None:
    adapter = Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=2), text_encoder=False, seed=0)
    optimizer = SynchronizedAdamW(Accelerator(cpu=True), adapter, 0.1, 1.0, "fp32", decay)
    before = [parameter.detach().clone() for parameter in adapter.parameters()]
    optimizer.step(1, 0.0)  # without a gradient
    for old, new in zip(before, adapter.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 0.1 * decay))


def test_a_long_row_of_validations_is_thinned_out() -> None:
    assert spread([0, 5, 9]) == [0, 5, 9]
    assert spread(list(range(0, 1000, 10))) == [0, 90, 180, 270, 360, 450, 540, 630, 720, 810, 900, 990]
