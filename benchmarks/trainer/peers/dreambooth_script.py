"""diffusers' train_dreambooth_lora.py as it is, with a clock: `... peers.dreambooth_script SCRIPT WORKLOAD OUTPUT`.

Seconds of a step are taken where the script calls `Accelerator.backward`, once a step. It is given
--pre_compute_text_embeddings, without which it encodes the same caption in every step.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from benchmarks.trainer.clock import Clock
from benchmarks.trainer.workload import Workload

WARMUP_STEPS = 5
PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def arguments(work: Workload, output: str) -> list[str]:
    """The script's command line for this work."""
    return [
        "--pretrained_model_name_or_path", work.model,
        "--instance_data_dir", work.subject,
        "--instance_prompt", work.caption,
        "--output_dir", output,
        "--resolution", str(work.resolution),
        "--train_batch_size", str(work.batch),
        "--max_train_steps", str(work.steps),
        "--learning_rate", str(work.learning_rate),
        "--adam_weight_decay", str(work.weight_decay),
        "--rank", str(work.rank),
        "--mixed_precision", PRECISION[work.dtype],
        "--lr_scheduler", "constant",
        "--lr_warmup_steps", "0",
        "--checkpointing_steps", "1000000",
        "--report_to", "all",
        "--seed", "0",
        "--pre_compute_text_embeddings",
    ]  # fmt: skip


def main() -> None:
    """Run the script to its end."""
    script, work = sys.argv[1], Workload.read(Path(sys.argv[2]))
    clock = Clock(work.device, work.threads)
    marks: list[tuple[float, float]] = []
    backward = Accelerator.backward

    def marked(self: Any, *args: Any, **kwargs: Any) -> None:
        marks.append(clock.now())
        backward(self, *args, **kwargs)

    Accelerator.backward = marked
    sys.argv = [script, *arguments(work, sys.argv[3])]
    runpy.run_path(script, run_name="__main__")
    clock.keep(marks[min(WARMUP_STEPS, len(marks) - 2) :])
    clock.finish("torch", "diffusers", "peft", "torchvision").say()


if __name__ == "__main__":
    main()
