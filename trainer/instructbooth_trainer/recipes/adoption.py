"""Stage 1 with an adapter that exists already: checked, and published as the stage's own, where the others find it."""

from __future__ import annotations

import json
from pathlib import Path

from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from instructbooth.contract import Outcome
from instructbooth.spec.personalization import Lora
from instructbooth.spec.sources import ModelSource
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.identifier import IdentifierReport
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes.export import write_adapter
from instructbooth_trainer.recipes.training import samples_sheet
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import UserError

_FIELD = "spec.personalization.adapter"


def adopt(run: RunContext, model: DiffusionModel, source: ModelSource, identifier: IdentifierReport) -> Outcome:
    """Publish the adapter of the source. Collective. Raises UserError AdapterNotFound, -Corrupt, -Mismatch."""
    job = run.job.spec
    spec = job.personalization
    base, folder = run.model_folder(job.model.source), run.adapter_folder(source)
    tensors = run.gang.once(lambda: read_adapter(base, folder, spec.lora))
    adapter = Adapter(model, spec.lora, text_encoder=spec.train_text_encoder, seed=spec.seed)
    adapter.load_tensors(tensors)
    output = run.workdir / "output"
    if run.gang.is_main:
        output.mkdir(parents=True, exist_ok=True)
        samples_sheet(run, model, output / "samples.png", spec.caption_templates)
        write_adapter(run, adapter, output, {})
        record = {"adapter": source.to_wire(), "identifier": identifier.record(), "spec": spec.to_wire()}
        (output / "personalize.json").write_text(json.dumps(record, indent=1))
    return run.publish(output, identifier.metrics())


def read_adapter(base: Path, folder: Path, lora: Lora) -> dict[str, Tensor]:
    """The weights of a LoRA by our names: whatever stock diffusers loads, Kohya's names among them.

    Args:
        base: folder of the base model; loaded in float32 and let go of again, so that the weights stay what they are.
        folder: with `pytorch_lora_weights.safetensors`, or another safetensors file if it is the only one.
        lora: what the adapter is said to be.

    Raises:
        UserError: `AdapterNotFound`, `AdapterCorrupt`, or `AdapterMismatch` where it is something else.
    """
    path = _weights(folder)
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise UserError("AdapterCorrupt", f"{_FIELD}: {path.name} cannot be read: {error}; upload it again") from error
    model = DiffusionModel.load(base)
    pipeline = model.pipeline
    try:
        pipeline.load_lora_weights(str(folder), weight_name=path.name, use_safetensors=True, adapter_name="given")
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError("AdapterMismatch", f"{_FIELD} is no LoRA of spec.model: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name, module in {model.denoiser_name: model.denoiser, **model.text_encoders()}.items():
        config = getattr(module, "peft_config", {}).get("given")
        if config is None:
            continue
        found = (config.r, float(config.lora_alpha), not (config.rank_pattern or config.alpha_pattern))
        if found != (lora.rank, float(lora.alpha), True):
            raise UserError(
                "AdapterMismatch",
                f"{_FIELD} has rank {found[0]} and alpha {found[1]:g}{'' if found[2] else ', not in every layer'}, "
                f"spec.personalization.lora has rank {lora.rank} and alpha {lora.alpha:g}: "
                "later stages need them equal; correct rank and alpha",
            )
        weights = get_peft_model_state_dict(module, adapter_name="given")
        tensors |= {f"{name}.{key}": tensor.detach().float().cpu() for key, tensor in weights.items()}
    return tensors


def _weights(folder: Path) -> Path:
    """The LoRA's file in a folder. Raises UserError AdapterNotFound."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise UserError(
        "AdapterNotFound",
        f"{_FIELD} holds no {WEIGHTS} and no single other safetensors file at its root (found: {names}); rename the "
        "LoRA's file to that where you keep it in S3 or on a volume, or correct the source",
    )
