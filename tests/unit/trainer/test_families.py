"""Every family does all that the recipes ask of one, on a tiny random model in its real folder format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instructbooth.contract import Stage
from instructbooth.spec.job import Model, ResolvedJob
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.kohya import KOHYA_WEIGHTS
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.sampling import sample
from instructbooth_trainer.families import families
from instructbooth_trainer.redraw import redraw
from instructbooth_trainer.report.evaluation import Evaluation
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import load_recipe, make_context
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.test_diffusion import disturb
from tests.unit.trainer.tiny import SIZE, TinyWorld
from tests.unit.trainer.tiny_families import BUILDERS

PROMPTS = ["a photo of a sks striped star mascot", "a small mascot"]
PROMPT = {"inline": ["a {subject} on red"]}
METRIC = {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}


@pytest.fixture(params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str, folders: dict[str, Path]) -> DiffusionModel:
    return DiffusionModel.load(folders[family], resolution=SIZE)


@pytest.fixture
def family_lab(family: str, folders: dict[str, Path], tiny: TinyWorld, tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store", TinyWorld(folders[family], tiny.clip, tiny.vision))


def job_for(lab: Lab, uid: str, **changes: dict[str, Any]) -> ResolvedJob:
    """A small job at the tiny models' resolution."""
    stages: dict[str, dict[str, Any]] = {
        "personalization": {
            "steps": 2,
            "lora": {"rank": 2, "alpha": 2},
            "priorPreservation": {"numImages": 2, "sampling": {"steps": 2, "guidanceScale": 2}},
        },
        "reinforcement": {
            "epochs": 1,
            "promptsPerEpoch": 2,
            "imagesPerPrompt": 3,
            "updatesPerEpoch": 1,
            "sampling": {"steps": 3, "guidanceScale": 2},
        },
        "evaluation": {
            "prompts": PROMPT,
            "metrics": [METRIC],
            "imagesPerPrompt": 2,
            "sampling": {"steps": 2, "guidanceScale": 2},
        },
    }
    for name, change in changes.items():
        stages[name] |= change
    wire = lab.job(uid, **stages).to_wire()
    wire["spec"]["model"]["resolution"] = SIZE
    return ResolvedJob.model_validate(wire)


def predict(model: DiffusionModel, guidance: float = 1.0) -> Tensor:
    """The model's output at the first and a middle step."""
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, model.schedule(4, 0.0).timesteps[[0, 2]], model.condition(PROMPTS, guidance))


def test_the_schema_the_files_and_the_tests_know_the_same_families() -> None:
    known = set(get_args(Model.model_fields["family"].annotation)) - {"auto"}
    assert known == set(families()) == set(BUILDERS)


def test_all_three_stages_and_a_users_own_process(family_lab: Lab, family: str) -> None:
    job = job_for(family_lab, family, personalization={"trainTextEncoder": True})
    for stage in (Stage.PERSONALIZE, Stage.REINFORCE):
        family_lab.run(job, stage)
    first, second = (family_lab.output(job, stage) for stage in (Stage.PERSONALIZE, Stage.REINFORCE))
    assert (first / WEIGHTS).read_bytes() != (second / WEIGHTS).read_bytes()
    numbers = json.loads((second / "reinforce.json").read_text())["epochs"][0]
    assert numbers["grad_norm"] > 0
    assert (second / KOHYA_WEIGHTS).exists() is (family in ("stable-diffusion", "stable-diffusion-xl"))
    evaluate(family_lab, job)
    output = family_lab.output(job, Stage.EVALUATE)
    evaluation = Evaluation.model_validate_json((output / "evaluation.json").read_text())
    pictures = {picture.model: picture for picture in evaluation.pictures}
    for name, lora in {"base": None, "personalized": first, "reinforced": second}.items():
        picture = pictures[name]
        drawn = redraw(family_lab.world.pipeline, lora, evaluation, picture)
        assert np.array_equal(drawn, np.asarray(Image.open(output / picture.file).convert("RGB")))


def evaluate(lab: Lab, job: ResolvedJob) -> None:
    workdir = lab.root / "evaluate"
    workdir.mkdir()
    inputs = {Stage.PERSONALIZE: 1, Stage.REINFORCE: 1}
    pod = PodEnvironment(job, Stage.EVALUATE, 1, inputs, 0, None, local=True, workdir=workdir)
    with lab.environment():
        load_recipe(Stage.EVALUATE)(make_context(pod, StopFlag()))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_our_sampler_without_noise_is_the_stock_pipeline(model: DiffusionModel, guidance: float) -> None:
    seeds = [3, 4]
    stock = model.draw_stock(PROMPTS, seeds, 4, guidance)
    with torch.no_grad():
        ours = sample(
            model,
            model.schedule(4, eta=0.0),
            model.condition(PROMPTS, guidance),
            [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        )[-1]
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"targets": "attention"}, {"targets": "all"}, {"targets": "all", "useDora": True}],
    ids=["attention", "all", "dora"],
)
def test_the_familys_own_pipeline_loads_the_adapter(
    family: str, folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = DiffusionModel.load(folders[family], resolution=SIZE)
    plain = predict(model)
    adapter = Adapter(model, Lora.model_validate({"rank": 2, "alpha": 4, **changes}), text_encoder=True, seed=0)
    assert torch.equal(predict(model), plain), "a fresh adapter changes nothing"
    disturb(adapter)
    adapter.save(tmp_path)
    expected = predict(model)
    assert not torch.allclose(expected, plain)
    components = {name.split(".")[0] for name in adapter.tensors()}
    assert components == {model.denoiser_name, *model.text_encoder_names}
    lengths = {name.split(".")[0] for name in adapter.tensors() if "magnitude" in name}
    assert lengths == (components if "useDora" in changes else set())
    again = DiffusionModel.load(folders[family], resolution=SIZE)
    Adapter(again, Lora.model_validate({"rank": 2, "alpha": 4, **changes}), text_encoder=True, seed=1).load(tmp_path)
    assert torch.equal(predict(again), expected)

    stock = DiffusionModel.load(folders[family], resolution=SIZE)
    stock.pipeline.load_lora_weights(str(tmp_path), weight_name=WEIGHTS)
    torch.testing.assert_close(predict(stock), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_part_that_is_trained(model: DiffusionModel) -> None:
    adapter = Adapter(model, Lora(rank=2), text_encoder=True, seed=0)
    disturb(adapter)
    model.checkpoint_gradients(text_encoder=True)
    objective = model.objective(None)
    latents, noise = torch.randn(2, 2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps = objective.draw_timesteps(2, keyed_generator("t"))
    exercise = objective.exercise(latents, noise, timesteps)
    prediction = model.predict(exercise.noisy, timesteps, model.condition(PROMPTS, 1.0))
    (prediction - exercise.target).square().mean().backward()
    for component in (model.denoiser_name, *model.text_encoder_names):
        parameters = [p for name, p in model.pipeline.components[component].named_parameters() if "lora_" in name]
        assert sum(float(p.grad.abs().sum()) for p in parameters if p.grad is not None) > 0, component


def test_pictures_there_and_back(model: DiffusionModel, tiny: TinyWorld) -> None:
    latents = model.encode_images(tiny.subject_images())
    assert latents.shape == (3, *model.latent_shape)
    shift, scale = model.vae.config.get("shift_factor") or 0.0, model.vae.config.scaling_factor
    pixels = torch.from_numpy(np.array(tiny.subject_images()[0])).permute(2, 0, 1).float() / 255 * 2 - 1
    with torch.no_grad():
        mean = model.vae.encode(pixels[None]).latent_dist.mean
    torch.testing.assert_close(latents[:1], (mean - shift) * scale)
    assert model.decode(latents).shape == (3, 3, SIZE, SIZE)


def test_a_prompt_nobody_reads_to_its_end_is_refused(model: DiffusionModel) -> None:
    with pytest.raises(UserError, match="PromptTooLong"):
        model.condition(["a " * 600], 1.0)


def test_half_precision_trains_in_float32(family: str, folders: dict[str, Path]) -> None:
    model = DiffusionModel.load(folders[family], dtype="bf16", resolution=SIZE)
    adapter = Adapter(model, Lora(rank=2), text_encoder=True, seed=0)
    disturb(adapter)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    prediction = model.predict(latents, model.schedule(4, 0.0).timesteps[[0, 2]], model.condition(PROMPTS, 2.0))
    assert prediction.dtype == torch.float32
    assert bool(prediction.isfinite().all())
    prediction.square().mean().backward()
    assert {p.grad.dtype for p in adapter.parameters() if p.grad is not None} == {torch.float32}
    assert model.denoiser.dtype == torch.bfloat16


def test_half_precision_keeps_the_decoder_whole(family: str, folders: dict[str, Path]) -> None:
    model = DiffusionModel.load(folders[family], dtype="fp16", resolution=SIZE)
    assert model.vae.dtype == torch.float32
    assert model.denoiser.dtype == torch.float16
