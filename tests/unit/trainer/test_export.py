"""What lies beside the adapter, and adapters that come from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import load_file, save_file

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.kohya import KOHYA_WEIGHTS, kohya_tensors, save_kohya
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.report.card import model_card
from instructbooth_trainer.runtime import hub
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.harness import BUCKET, Lab, published
from tests.unit.trainer.test_diffusion import disturb, unet_output
from tests.unit.trainer.tiny import TinyWorld

PERSONALIZE = Stage.PERSONALIZE


def given(lab: Lab, name: str, **changes: Any) -> ResolvedJob:
    """A job whose adapter lies under `given/<name>`."""
    return lab.job(f"adopt-{name}", personalization={"adapter": {"s3": {"prefix": f"given/{name}"}}, **changes})


def folder(lab: Lab, name: str) -> Path:
    path = lab.root / BUCKET / "given" / name
    path.mkdir(parents=True)
    return path


def test_kohyas_names() -> None:
    unet = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
    down, up, text = torch.ones(2, 8), torch.zeros(8, 2), torch.ones(2, 4)
    named = kohya_tensors(
        {
            f"unet.{unet}.lora_A.weight": down,
            f"unet.{unet}.lora_B.weight": up,
            "text_encoder.encoder.layers.11.self_attn.q_proj.lora_A.weight": text,
        },
        alpha=4,
    )
    layer = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0"
    encoder = "lora_te_text_model_encoder_layers_11_self_attn_q_proj"
    assert set(named) == {
        f"{layer}.lora_down.weight",
        f"{layer}.lora_up.weight",
        f"{layer}.alpha",
        f"{encoder}.lora_down.weight",
        f"{encoder}.alpha",
    }
    assert torch.equal(named[f"{layer}.lora_down.weight"], down)
    assert float(named[f"{layer}.alpha"]) == 4


def test_the_stock_pipeline_loads_kohyas_file(tiny: TinyWorld, tmp_path: Path) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    adapter = Adapter(model, Lora(rank=4, alpha=2), text_encoder=True, seed=0)
    disturb(adapter)
    save_kohya(adapter.tensors(), 2, tmp_path / "kohya.safetensors")
    stock = StableDiffusionPipeline.from_pretrained(tiny.pipeline, safety_checker=None)
    stock.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    torch.testing.assert_close(unet_output(stock, model), unet_output(model.pipeline, model))


def test_both_stages_publish_card_and_kohyas_file(lab: Lab, personalized: ResolvedJob) -> None:
    output = lab.output(personalized, PERSONALIZE)
    assert load_file(output / KOHYA_WEIGHTS)
    card = (output / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["instance_prompt"] == "a photo of a sks striped star mascot"
    assert "| loss |" in card
    assert "![samples](samples.png)" in card


def test_the_card_names_the_base_model_on_the_hub(lab: Lab) -> None:
    wire = lab.job("card", personalization={"lora": {"useDora": True, "rank": 8}}).to_wire()
    wire["spec"]["model"]["source"] = {"hub": {"repo": "owner/base", "revision": "0" * 40}}
    card = model_card(ResolvedJob.model_validate(wire), Stage.REINFORCE, {"kl": 0.5}, kohya=False)
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "owner/base"
    for piece in ("owner/base at 000", "`sks`", "DoRA, rank 8", "| kl | 0.5 |", "stages 1 and 2"):
        assert piece in card
    assert "kohya" not in card


def test_an_adapter_of_ours_is_published_again_as_it_is(lab: Lab, personalized: ResolvedJob) -> None:
    shutil.copy(lab.output(personalized, PERSONALIZE) / WEIGHTS, folder(lab, "ours"))
    job = given(lab, "ours")
    lab.run(job, PERSONALIZE)
    assert published(lab, job, PERSONALIZE) == published(lab, personalized, PERSONALIZE)
    files = {path.name for path in lab.output(job, PERSONALIZE).iterdir()}
    assert files >= {"personalize.json", "samples.png", "README.md"}


def test_an_adapter_under_kohyas_names_is_taken_too(lab: Lab, personalized: ResolvedJob) -> None:
    shutil.copy(lab.output(personalized, PERSONALIZE) / KOHYA_WEIGHTS, folder(lab, "kohya") / WEIGHTS)
    job = given(lab, "kohya")
    lab.run(job, PERSONALIZE)
    assert published(lab, job, PERSONALIZE) == published(lab, personalized, PERSONALIZE)


def test_an_adapter_of_the_hub_is_taken_whatever_it_is_called(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, *, local_dir: Path, **options: Any) -> None:
        asked.update(options, repo=repo)
        local_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(lab.output(personalized, PERSONALIZE) / WEIGHTS, local_dir / "my_lora.safetensors")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    source = {"hub": {"repo": "someone/lora", "revision": "1" * 40}}
    job = lab.job("adopt-hub", personalization={"adapter": source})
    lab.run(job, PERSONALIZE)
    assert published(lab, job, PERSONALIZE) == published(lab, personalized, PERSONALIZE)
    assert (asked["repo"], asked["revision"]) == ("someone/lora", "1" * 40)
    repository = ["my_lora.safetensors", "checkpoint-500/model.safetensors", "README.md", "model.bin"]
    taken = filter_repo_objects(
        repository, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(taken) == ["my_lora.safetensors"]
    record = json.loads((lab.output(job, PERSONALIZE) / "personalize.json").read_text())
    assert record["adapter"] == source


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rank", {"lora": {"rank": 8, "alpha": 4}}, r"AdapterMismatch.*rank 4 and alpha 4.*rank 8 and alpha 4"),
        ("alpha", {"lora": {"rank": 4, "alpha": 8}}, r"AdapterMismatch.*alpha 4.*alpha 8"),
        ("text", {"trainTextEncoder": True}, r"AdapterMismatch.*text_encoder"),
        ("targets", {"lora": {"rank": 4, "alpha": 4, "targets": "all"}}, "AdapterMismatch"),
    ],
)
def test_an_adapter_that_does_not_fit_is_the_users_error(
    lab: Lab, personalized: ResolvedJob, name: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copy(lab.output(personalized, PERSONALIZE) / WEIGHTS, folder(lab, name))
    with pytest.raises(UserError, match=message):
        lab.run(given(lab, name, **changes), PERSONALIZE)


def test_a_folder_without_a_lora_is_the_users_error(lab: Lab) -> None:
    empty = folder(lab, "empty")
    for name in ("one", "other"):
        save_file({"a": torch.zeros(1)}, empty / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"AdapterNotFound.*adapter.*pytorch_lora_weights.*one\.safetensors, other"):
        lab.run(given(lab, "empty"), PERSONALIZE)
    save_file({"a": torch.zeros(1)}, folder(lab, "no-lora") / WEIGHTS)
    with pytest.raises(UserError, match=r"AdapterMismatch"):
        lab.run(given(lab, "no-lora"), PERSONALIZE)
