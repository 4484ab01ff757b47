"""TRL's DDPOTrainer on the workload, `python -m benchmarks.trainer.peers.trl_ddpo KIND WORKLOAD`

reinforce   seconds of each epoch (`DDPOTrainer.step`)
update      one update from the pairs of our side: INPUT has pairs and weights, OUTPUT gets the weights after it
learn       epochs of the LESSON, scored by its CLIP, with four updates each; snapshots of the weights
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

from benchmarks.trainer.clock import Clock
from benchmarks.trainer.equal.clip import Clip
from benchmarks.trainer.equal.lesson import Lesson, learn
from benchmarks.trainer.gradients import keep_gradients
from benchmarks.trainer.workload import Workload

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
UPDATES = 4
Reward = Callable[[torch.Tensor, Sequence[str]], torch.Tensor]


def brightness(images: torch.Tensor, _: Sequence[str]) -> torch.Tensor:
    """A reward that costs nothing."""
    return images.float().mean(dim=(1, 2, 3))


def groups_of(size: int) -> dict[str, int]:
    """Settings with which a prompt's advantages come from so many pictures of this epoch; 0 leaves TRL's own."""
    names = ("per_prompt_stat_tracking_buffer_size", "per_prompt_stat_tracking_min_count")
    return dict.fromkeys(names, size) if size else {}


class Adapted(DefaultDDPOStableDiffusionPipeline):  # type: ignore[misc]
    """TRL's pipeline with an adapter that exists already in place of its own fresh one of rank 4 on the attention."""

    def __init__(self, model: str, lesson: Lesson) -> None:
        """Nothing is added before the trainer asks for what it may train."""
        super().__init__(model)
        self._lesson = lesson

    def get_trainable_layers(self) -> Any:
        """Add the adapter, as TRL does its own."""
        unet, lesson = self.sd_pipeline.unet, self._lesson
        unet.add_adapter(LoraConfig(r=lesson.rank, lora_alpha=lesson.rank, target_modules=lesson.targets))
        assert lesson.adapter is not None
        set_peft_model_state_dict(unet, {n.removeprefix("unet."): t for n, t in load_file(lesson.adapter).items()})
        return unet


def trainer(work: Workload, scores: Reward = brightness, updates: int = 1, lesson: Lesson | None = None) -> Any:
    """TRL's trainer with the workload's numbers, `updates` an epoch, no checkpoints, no logs."""
    group = lesson.group if lesson else 0
    config = DDPOConfig(
        mixed_precision=PRECISION[work.dtype],
        allow_tf32=False,
        save_freq=10**9,
        sample_num_steps=work.sampling_steps,
        sample_guidance_scale=work.guidance,
        sample_batch_size=work.sampling_batch,
        sample_num_batches_per_epoch=work.pictures // work.sampling_batch,
        train_batch_size=work.train_batch,
        train_gradient_accumulation_steps=work.pictures // work.train_batch // updates,
        train_timestep_fraction=work.trained_steps / work.sampling_steps,
        train_cfg=work.guidance != 1,
        train_learning_rate=work.learning_rate,
        train_adam_weight_decay=work.weight_decay,
        train_clip_range=work.clip_range,
        train_adv_clip_max=work.advantage_clip,
        per_prompt_stat_tracking=True,
        **groups_of(group),
    )
    pipeline: Any
    if lesson is not None and lesson.adapter is not None:
        pipeline = Adapted(work.model, lesson)
    else:
        pipeline = DefaultDDPOStableDiffusionPipeline(work.model)
    # The base's config says nothing of it, and DDIM would clip latents, which have no bounds.
    pipeline.sd_pipeline.scheduler.register_to_config(clip_sample=False)
    if work.guidance == 1:
        # TRL hands the empty prompts over all the same, and diffusers 0.42 then doubles the batch: give it the prompts.
        pipeline.sd_pipeline._encode_prompt = lambda *_, prompt_embeds, **__: prompt_embeds
    prompts = itertools.cycle([prompt for prompt in work.prompts for _ in range(group or 1)])

    def reward(images: torch.Tensor, drawn: Sequence[str], _: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return scores(images, drawn), {}

    made = DDPOTrainer(config, reward, lambda: (next(prompts), {}), pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return made


def update(work: Workload, clock: Clock, given: Path, output: Path) -> None:
    """The update that TRL makes from our pairs and our weights."""
    tensors = load_file(given)
    made, count = trainer(work), work.trained_steps
    unet = made.sd_pipeline.unet
    before = {n.removeprefix("before.unet."): t for n, t in tensors.items() if n.startswith("before.unet.")}
    set_peft_model_state_dict(unet, before)
    made.sd_pipeline.scheduler.set_timesteps(work.sampling_steps)
    pairs = {name.removeprefix("pairs."): tensor for name, tensor in tensors.items() if name.startswith("pairs.")}
    pairs = {name: tensor.reshape(-1, count, *tensor.shape[1:]) for name, tensor in pairs.items()}
    pairs |= {name: pairs[name][:, 0] for name in ("advantages", "prompt_embeds")}  # the same for all of a picture
    columns = {name: torch.split(tensor, work.train_batch) for name, tensor in pairs.items()}
    batches = [{name: column[row] for name, column in columns.items()} for row in range(len(columns["latents"]))]
    unet.train()
    gradients: dict[str, torch.Tensor] = {}
    keep_gradients(made.optimizer.optimizer, lambda: weights(made), gradients)
    clock.laps(lambda number: made._train_batched_samples(0, number, 0, batches), 0, 1)
    save_file({name: tensor.contiguous() for name, tensor in {**weights(made), **gradients}.items()}, output)


def weights(made: Any) -> dict[str, torch.Tensor]:
    """The LoRA by the names that our side gives its own."""
    return {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(made.sd_pipeline.unet).items()}


def main() -> None:
    """One kind of measurement."""
    work = Workload.read(Path(sys.argv[2]))
    PartialState(cpu=work.device == "cpu")  # its loggers ask for it before the trainer makes it
    clock = Clock(work.device, work.threads)
    if sys.argv[1] == "update":
        update(work, clock, Path(sys.argv[3]), Path(sys.argv[4]))
    elif sys.argv[1] == "learn":
        lesson = Lesson.read(Path(sys.argv[3]))
        made = trainer(work, Clip(Path(lesson.clip), lesson.judged), UPDATES, lesson)
        learn(lesson, clock, lambda number: made.step(number, number), lambda: weights(made))
    else:
        made = trainer(work)
        clock.laps(lambda number: made.step(number, number), work.warmup_epochs, work.epochs)
    clock.finish("trl", "torch", "diffusers", "peft").say()


if __name__ == "__main__":
    main()
