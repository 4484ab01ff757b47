"""The Stable Diffusion family on a tiny random model: sampler, log-probabilities, adapters, prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from instructbooth.spec.personalization import Lora
from instructbooth.spec.subject import Subject
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import class_text, expand, reward_text
from instructbooth_trainer.diffusion.sampling import conditioning_for, grid, sample
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.tiny import TinyWorld, make_tiny_world

SUBJECT = Subject.model_validate(
    {
        "images": {"s3": {"prefix": "x"}},
        "identifier": "sks",
        "className": "mascot",
        "description": "striped star mascot",
    }
)
PROMPTS = ["a photo of a sks striped star mascot", "a small mascot", "the star"]


@pytest.fixture(params=["v_prediction", "epsilon"])
def model(request: pytest.FixtureRequest, tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """v prediction, zero terminal SNR, trailing; or as in SD 1.5: epsilon, leading, steps_offset 1."""
    folder = tiny.pipeline
    if request.param == "epsilon":
        folder = make_tiny_world(tmp_path_factory.mktemp("epsilon"), "epsilon").pipeline
    return DiffusionModel.load(folder)


def generators(count: int = 3) -> list[torch.Generator]:
    return [keyed_generator("test", n) for n in range(count)]


def disturb(adapter: Adapter) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def unet_output(pipeline: StableDiffusionPipeline, model: DiffusionModel) -> Tensor:
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings = pipeline.text_encoder(model.tokenize(PROMPTS))[0]
        output: Tensor = pipeline.unet(latents, torch.tensor([999, 500, 1]), encoder_hidden_states=embeddings).sample
    return output


def test_expand_and_reward_text() -> None:
    assert expand("a {subject} on red", SUBJECT, identifier=True) == "a sks striped star mascot on red"
    assert expand("a {subject} on red", SUBJECT, identifier=False) == "a striped star mascot on red"
    assert expand("a dog", SUBJECT, identifier=True) == "a dog"
    assert class_text("a {subject} on red", SUBJECT) == "a mascot on red"
    assert reward_text("a {subject} on red", SUBJECT) == "a striped star mascot on red"
    assert reward_text("the SKS {subject} with asks", SUBJECT) == "the striped star mascot with asks"
    # Whatever stands beside it, and wherever it stands.
    assert reward_text("sks, a {subject} (SKS), no sksy: sks", SUBJECT) == ", a striped star mascot (), no sksy:"
    assert reward_text("sks {subject}", SUBJECT) == "striped star mascot"
    odd = SUBJECT.model_copy(update={"identifier": "<s+>"})
    assert reward_text("a <s+>, {subject}", odd) == "a, striped star mascot"
    assert class_text("a photo of a sks {subject}", SUBJECT) == "a photo of a mascot"
    plain = SUBJECT.model_copy(update={"description": None})
    assert expand("a {subject}", plain, identifier=True) == "a sks mascot"


@pytest.mark.parametrize("steps", [3, 8])
def test_sampler_without_noise_is_diffusers_ddim(model: DiffusionModel, steps: int) -> None:
    conditioning = conditioning_for(model, PROMPTS, 1.0)
    ours = sample(model, model.schedule(steps, eta=0.0), conditioning, generators())
    scheduler = DDIMScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = ours[0]
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = model.predict(latents, timestep.expand(3), conditioning).detach()
        latents = scheduler.step(prediction, int(timestep), latents, eta=0.0).prev_sample
        torch.testing.assert_close(ours[step + 1], latents, rtol=1e-4, atol=1e-4)


def test_stochastic_step_is_diffusers_ddim(model: DiffusionModel) -> None:
    schedule = model.schedule(6, eta=0.7)
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(6)
    torch.manual_seed(0)
    latents, prediction, noise = (torch.randn(2, *model.latent_shape) for _ in range(3))
    for step, timestep in enumerate(scheduler.timesteps):
        steps = torch.tensor([step, step])
        theirs = scheduler.step(prediction, int(timestep), latents, eta=0.7, variance_noise=noise).prev_sample
        ours = schedule.mean(prediction, latents, steps) + schedule.sigma[step] * noise
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        if step < 5:
            assert schedule.sigma[step] > 1e-3
            log_prob, mean = schedule.log_prob(prediction, latents, ours, steps)
            normal = torch.distributions.Normal(mean, schedule.sigma[step])
            torch.testing.assert_close(log_prob, normal.log_prob(ours).mean(dim=(1, 2, 3)))


def test_a_picture_does_not_depend_on_its_neighbours(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    schedule = model.schedule(4, eta=1.0)
    together = sample(model, schedule, conditioning_for(model, PROMPTS, 1.0), generators())
    alone = sample(model, schedule, conditioning_for(model, PROMPTS[1:2], 1.0), generators()[1:2])
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-4, atol=1e-4)


def test_guidance_in_one_batch_is_two_passes(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    torch.manual_seed(0)
    latents, timesteps = torch.randn(3, *model.latent_shape), torch.tensor([900, 500, 100])
    with torch.no_grad():
        folded = model.predict(latents, timesteps, model.condition(PROMPTS, 3.0))
        conditioned = model.predict(latents, timesteps, model.condition(PROMPTS, 1.0))
        without = model.predict(latents, timesteps, model.condition([""] * 3, 1.0))
    torch.testing.assert_close(folded, without + 3 * (conditioned - without), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": "attention"},
        {"targets": "all"},
        {"targetModules": ["to_q", "ff.net.2", "conv1"]},
        {"targets": "all", "useDora": True},
        {"targets": "all", "useDora": True, "dropout": 0.5},
    ],
    ids=["attention", "all", "modules", "dora", "dora-dropout"],
)
@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_stock_pipeline_loads_the_adapter(
    tiny: TinyWorld, tmp_path: Path, changes: dict[str, Any], text_encoder: bool
) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    plain = unet_output(model.pipeline, model)
    lora = Lora.model_validate({"rank": 4, "alpha": 8, **changes})
    adapter = Adapter(model, lora, text_encoder=text_encoder, seed=0)
    assert torch.equal(unet_output(model.pipeline, model), plain), "a fresh adapter changes nothing"
    disturb(adapter)
    adapter.save(tmp_path)
    expected = unet_output(model.pipeline, model)
    assert not torch.allclose(expected, plain)

    stock = StableDiffusionPipeline.from_pretrained(tiny.pipeline, safety_checker=None)
    stock.load_lora_weights(tmp_path)
    assert torch.equal(unet_output(stock, model), expected)

    again = DiffusionModel.load(tiny.pipeline)
    other = Adapter(again, lora, text_encoder=text_encoder, seed=9)
    other.load(tmp_path)
    assert torch.equal(unet_output(again.pipeline, again), expected)
    assert other.parameters()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in other.parameters())


def test_adapter_file_is_the_same_for_equal_runs_and_names_no_path(tiny: TinyWorld, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        adapter = Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=4), text_encoder=True, seed=5)
        adapter.save(tmp_path / name)
        files.append((tmp_path / name / WEIGHTS).read_bytes())
    assert files[0] == files[1]
    assert str(tiny.pipeline).encode() not in files[0]


def gradients(model: DiffusionModel, adapter: Adapter, *key: int | str) -> list[Tensor]:
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with adapter.dropping(*key):
        output = model.predict(latents, torch.tensor([500, 1]), model.condition(PROMPTS[:2], 1.0))
        return list(torch.autograd.grad(output.square().sum(), adapter.parameters()))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_drops_by_key_and_only_in_training(tiny: TinyWorld, dora: bool) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    adapter = Adapter(model, Lora(rank=4, dropout=0.5, use_dora=dora), text_encoder=True, seed=0)
    disturb(adapter)
    outside = unet_output(model.pipeline, model)
    assert torch.equal(unet_output(model.pipeline, model), outside), "a fresh adapter does not train"
    state = torch.get_rng_state()
    first = gradients(model, adapter, 0, "dropout", 7)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are touched"
    assert same(gradients(model, adapter, 0, "dropout", 7), first)
    assert not same(gradients(model, adapter, 0, "dropout", 8), first)
    assert torch.equal(unet_output(model.pipeline, model), outside)
    text = [p is q for p in adapter.parameters() for q in model.pipeline.text_encoder.parameters() if p is q]
    assert text, "the text encoder's adapter is among them"


def test_half_of_the_inputs_are_dropped(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    adapter = Adapter(model, Lora(rank=4, dropout=0.5), text_encoder=False, seed=0)
    layer = model.denoiser.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with adapter.dropping("key"):
        kept = layer.lora_dropout["default"](torch.ones(100, 100))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert float((kept == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("name", "why"), [("to_z", "none"), ("attentions.0", "Transformer2DModel"), ("o_q", "none")])
def test_a_target_that_is_no_layer_is_the_users_error(tiny: TinyWorld, name: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"LoraTargetsInvalid.*targetModules.*{name}.*{why}"):
        Adapter(DiffusionModel.load(tiny.pipeline), Lora(target_modules=["to_q", name]), text_encoder=False, seed=0)


def test_swapped_weights_come_back(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    adapter = Adapter(model, Lora(rank=4), text_encoder=False, seed=0)
    reference, plain = adapter.tensors(), unet_output(model.pipeline, model)
    disturb(adapter)
    changed = unet_output(model.pipeline, model)
    with adapter.swapped(reference):
        assert torch.equal(unet_output(model.pipeline, model), plain)
    assert torch.equal(unet_output(model.pipeline, model), changed)


def test_an_adapter_of_another_rank_or_a_corrupt_file_is_the_users_error(tiny: TinyWorld, tmp_path: Path) -> None:
    Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=2), text_encoder=False, seed=0).save(tmp_path)
    other = Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=4), text_encoder=False, seed=0)
    with pytest.raises(UserError, match="AdapterMismatch"):
        other.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\xff" * 64)
    with pytest.raises(UserError, match="AdapterCorrupt"):
        other.load(tmp_path)


def test_frozen_text_encoder_is_not_trained_but_saved(tiny: TinyWorld) -> None:
    adapter = Adapter(DiffusionModel.load(tiny.pipeline), Lora(rank=2), text_encoder=True, seed=0)
    before = len(adapter.parameters())
    adapter.freeze_text_encoder()
    assert 0 < len(adapter.parameters()) < before
    assert any(name.startswith("text_encoder.") for name in adapter.tensors())


def test_half_precision_keeps_the_adapter_in_float32(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline, dtype="bf16")
    adapter = Adapter(model, Lora(rank=2), text_encoder=False, seed=0)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert model.denoiser.conv_in.weight.dtype == torch.bfloat16
    output = model.predict(torch.randn(1, *model.latent_shape), torch.tensor([5]), model.condition(["a"], 1.0))
    assert output.dtype == torch.float32
    output.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.parameters())


def test_scheduler_of_another_kind_does_not_clip_latents(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = make_tiny_world(tmp_path / "pndm", "epsilon").pipeline
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "clip_sample"}))
    assert DiffusionModel.load(folder).pipeline.scheduler.config.clip_sample is False


def test_a_long_prompt_is_refused(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    with pytest.raises(UserError, match=r"PromptTooLong.*16"):
        model.encode_prompts(["a " * 40])


def test_a_scheduler_without_a_formula_is_the_users_error(tmp_path: Path) -> None:
    folder = make_tiny_world(tmp_path / "sample", "epsilon").pipeline
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(UserError, match=r"ModelInvalid.*'sample'"):
        DiffusionModel.load(folder)


def test_an_index_that_is_no_json_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"ModelInvalid.*no JSON"):
        DiffusionModel.load(tmp_path)


def test_a_folder_of_no_family_or_another_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ModelInvalid"):
        DiffusionModel.load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(UserError, match=r"'KandinskyPipeline'.*stable-diffusion is a StableDiffusionPipeline"):
        DiffusionModel.load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match="family stable-diffusion-3"):
        DiffusionModel.load(tmp_path, family="stable-diffusion-3")


def test_decode_undoes_encode_up_to_shape_and_range(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    latents = model.encode_images(tiny.subject_images())
    assert latents.shape == (3, *model.latent_shape)
    pictures = model.decode(latents)
    assert pictures.shape == (3, 3, 32, 32)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    assert grid(pictures, columns=2).size == (64, 64)


def test_keyed_generators_depend_on_the_whole_key() -> None:
    draws = [float(torch.randn(1, generator=keyed_generator(*key))) for key in [(0, "a", 1), (0, "a", 2), (1, "a", 1)]]
    assert len(set(draws)) == 3
    assert float(torch.randn(1, generator=keyed_generator(0, "a", 1))) == draws[0]
