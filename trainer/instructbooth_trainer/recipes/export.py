"""What is published of an adapter: for diffusers, for programs that read Kohya's names, and for people."""

from __future__ import annotations

from pathlib import Path

from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.kohya import KOHYA_WEIGHTS, save_kohya
from instructbooth_trainer.report.card import model_card
from instructbooth_trainer.runtime.context import RunContext


def write_adapter(run: RunContext, adapter: Adapter, folder: Path, numbers: dict[str, float]) -> None:
    """Write the adapter's files and the model card into a folder. `numbers` are what the stage measured."""
    lora = run.job.spec.personalization.lora
    adapter.save(folder)
    kohya = adapter.kohya_layer if not lora.use_dora else None
    if kohya is not None:
        (folder / KOHYA_WEIGHTS).parent.mkdir(exist_ok=True)
        save_kohya(adapter.tensors(), lora.alpha, folder / KOHYA_WEIGHTS, kohya)
    (folder / "README.md").write_text(
        model_card(run.job, run.stage, numbers, kohya=kohya is not None), encoding="utf-8"
    )
