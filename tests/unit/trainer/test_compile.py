"""spec.model.compile: the same predictions, gradients and rollouts, or a plain word where no compiler is.

The graphs are made as for any backend, and run by one that needs no compiler and makes no kernels: those are torch's
own, and `make bench-trainer` runs them.
"""

from __future__ import annotations

import pytest
import torch

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.sampling import sample
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import TinyWorld


def test_compiled_graphs_compute_the_same(tiny: TinyWorld) -> None:
    torch._dynamo.reset()
    model = DiffusionModel.load(tiny.pipeline)
    adapter = Adapter(model, Lora(rank=2, alpha=2), text_encoder=False, seed=0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    conditioning = model.condition(["a thing", "another"], guidance=1.0)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    schedule = model.schedule(2, eta=1.0)

    def computed() -> tuple[torch.Tensor, ...]:
        prediction = model.predict(latents, schedule.timesteps[torch.tensor([0, 1])], conditioning)
        gradients = torch.autograd.grad(prediction.square().sum(), adapter.parameters())
        trajectory = sample(model, schedule, conditioning, [keyed_generator(n) for n in range(2)])
        return prediction, *gradients, trajectory

    expected = computed()
    model.compile("aot_eager")
    torch.testing.assert_close(computed(), expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "one for training, one for rollouts"
    assert not any("_orig_mod" in name for name in adapter.tensors()), "files keep their names"


@pytest.mark.parametrize("stage", [Stage.PERSONALIZE, Stage.REINFORCE])
def test_without_a_compiler_the_field_is_named(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    monkeypatch.setenv("PATH", "")
    job = lab.job(personalized.uid, model={"compile": True})
    with pytest.raises(UserError, match=r"CompilerMissing: spec\.model\.compile: .* needs a C\+\+ compiler"):
        lab.run(job, stage)
