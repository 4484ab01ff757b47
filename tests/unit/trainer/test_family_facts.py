"""What only one family has: sizes and zeros of SDXL, SD3 without T5, the guidances of FLUX, what flows refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from instructbooth.spec.personalization import FlowMatching, Lora
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.kohya import save_kohya
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.diffusion.sampling import sample
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.test_diffusion import disturb
from tests.unit.trainer.test_families import PROMPTS, predict
from tests.unit.trainer.tiny import SIZE
from tests.unit.trainer.tiny_families import make_flux, make_sd3


def test_sdxl_is_told_sizes_and_guided_away_from_zeros(folders: dict[str, Path]) -> None:
    model = DiffusionModel.load(folders["stable-diffusion-xl"], resolution=SIZE)
    encoding, empty = model.encode_prompts(PROMPTS), model.encode_empty()
    assert encoding["time_ids"].tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2
    assert encoding["embeddings"].shape[2] == 64, "both encoders side by side"
    assert not empty["embeddings"].any()
    assert not empty["pooled"].any()
    model.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert model.encode_empty()["embeddings"].any()


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_sdxls_kohya_file_has_the_names_of_the_original_code(
    folders: dict[str, Path], tmp_path: Path, targets: str
) -> None:
    model = DiffusionModel.load(folders["stable-diffusion-xl"], resolution=SIZE)
    adapter = Adapter(model, Lora.model_validate({"rank": 2, "targets": targets}), text_encoder=True, seed=0)
    disturb(adapter)
    name = model.kohya_layer()
    assert name is not None
    block = "attentions.0.transformer_blocks.0.attn1.to_out.0"
    layer = "transformer_blocks_0_attn1_to_out_0"
    assert name("unet", f"down_blocks.1.{block}") == f"lora_unet_input_blocks_3_1_{layer}"
    assert name("unet", f"up_blocks.0.{block}") == f"lora_unet_output_blocks_0_1_{layer}"
    assert name("unet", f"mid_block.{block}") == f"lora_unet_middle_block_1_{layer}"
    assert name("unet", "up_blocks.1.resnets.1.conv_shortcut") == "lora_unet_output_blocks_3_0_skip_connection"
    save_kohya(adapter.tensors(), 16, tmp_path / "kohya.safetensors", name)
    stock = DiffusionModel.load(folders["stable-diffusion-xl"], resolution=SIZE)
    stock.pipeline.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors")
    torch.testing.assert_close(predict(stock), predict(model), rtol=1e-5, atol=1e-5)


def test_sd3_does_without_t5(tmp_path: Path) -> None:
    model = DiffusionModel.load(make_sd3(tmp_path / "model", t5=False), resolution=SIZE)
    stock = model.draw_stock(PROMPTS, [3, 4], 2, 2.0)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)]
    ours = sample(model, model.schedule(2, 0.0), model.condition(PROMPTS, 2.0), generators)[-1]
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"PromptTooLong.*16"):
        model.check_prompts(["a " * 40])


def test_t5_reads_what_clip_does_not(folders: dict[str, Path]) -> None:
    DiffusionModel.load(folders["stable-diffusion-3"], resolution=SIZE).check_prompts(["a " * 40])


def test_flux_is_told_the_guidance_or_guided_by_a_second_pass(folders: dict[str, Path], tmp_path: Path) -> None:
    told = DiffusionModel.load(folders["flux"], resolution=SIZE)
    assert told.condition(PROMPTS, 3.0).empty is None
    assert not torch.allclose(predict(told, 3.0), predict(told, 1.0))
    guided = DiffusionModel.load(make_flux(tmp_path / "schnell", distilled=False), resolution=SIZE)
    for guidance in (1.0, 3.0):
        stock = guided.draw_stock(PROMPTS, [3, 4], 2, guidance)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)]
        conditioning = guided.condition(PROMPTS, guidance)
        assert (conditioning.empty is None) is (guidance == 1.0)
        ours = sample(guided, guided.schedule(2, 0.0), conditioning, generators)[-1]
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-4)


def test_a_resolution_that_is_no_multiple_of_a_patch_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"ResolutionInvalid.*36.*multiple of 8.*patch"):
        DiffusionModel.load(folders["flux"], resolution=36)


def test_min_snr_has_no_meaning_for_a_flow(folders: dict[str, Path]) -> None:
    for name in ("stable-diffusion-3", "flux"):
        with pytest.raises(UserError, match=r"MinSnrUndefined.*minSnrGamma 5"):
            DiffusionModel.load(folders[name], resolution=SIZE).objective(5)


def test_a_flow_draws_and_weighs_timesteps_as_it_is_told(folders: dict[str, Path]) -> None:
    model = DiffusionModel.load(folders["stable-diffusion-3"], resolution=SIZE)  # its times are shifted by 3

    def objective(**options: Any) -> Objective:
        return model.objective(None, FlowMatching.model_validate(options))

    def draw(chosen: Objective) -> torch.Tensor:
        return chosen.draw_timesteps(5, torch.Generator().manual_seed(0))

    plain = draw(model.objective(None))
    assert torch.equal(draw(objective()), plain)
    # The logit of a time is m + s u, and log 3 more once it is shifted.
    u = (plain / 1000).logit() - math.log(3)
    moved = (draw(objective(logitMean=-1.0, logitStd=2.0)) / 1000).logit() - math.log(3)
    torch.testing.assert_close(moved, 2 * u - 1, rtol=1e-3, atol=1e-3)
    mode = draw(objective(weightingScheme="mode", modeScale=0.0)) / 1000
    uniform = torch.rand(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mode, 3 * (1 - uniform) / (1 + 2 * (1 - uniform)))
    latents = torch.zeros(1, *model.latent_shape)
    weighed = objective(weightingScheme="sigma_sqrt").exercise(latents, latents, torch.tensor([500.0]))
    assert weighed.weights is not None
    assert weighed.weights.tolist() == [4.0]
    assert model.objective(None).exercise(latents, latents, torch.tensor([500.0])).weights is None


def test_flow_matching_has_no_meaning_for_a_unet(folders: dict[str, Path]) -> None:
    for name in ("stable-diffusion", "stable-diffusion-xl"):
        with pytest.raises(UserError, match=r"FlowMatchingUndefined.*flowMatching.*minSnrGamma"):
            DiffusionModel.load(folders[name], resolution=SIZE).objective(None, FlowMatching())


def test_another_scheduler_than_a_flows_is_refused(tmp_path: Path) -> None:
    folder = make_sd3(tmp_path / "model", t5=False)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(UserError, match=r"ModelInvalid.*DDIMScheduler"):
        DiffusionModel.load(folder)
