"""Our side, in a process of its own: `python -m benchmarks.trainer.ours KIND WORKLOAD`, told its job like a pod.

passes        seconds of the denoiser's passes alone, as the stages make them
personalize   seconds of each step
reinforce     seconds of each epoch, and of a checkpoint
parts         the same, with the seconds of an epoch's parts
update        one epoch, from whose pairs the peer makes the same update: OUTPUT gets pairs and weights
learn         epochs as the LESSON has them, with the job's own rewards; snapshots of the weights
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.trainer import reward
from benchmarks.trainer.clock import Clock
from benchmarks.trainer.equal.lesson import Lesson, learn
from benchmarks.trainer.gradients import keep_gradients
from benchmarks.trainer.workload import Workload, recordable
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.lora import merged
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import batch_noise, keyed_generator
from instructbooth_trainer.diffusion.sampling import conditioning_for
from instructbooth_trainer.recipes import personalize
from instructbooth_trainer.recipes.reinforce import Reinforce
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import read_environment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context

WARMUP_STEPS = 5


def context() -> RunContext:
    """What the environment asks for, within this process."""
    return make_context(read_environment(os.environ), StopFlag())


def passes(work: Workload, clock: Clock) -> None:
    """Seconds of a forward pass as in sampling, and of a forward and a backward pass as in training."""
    dtype: Any = work.dtype
    model = DiffusionModel.load(Path(work.model), dtype=dtype, device=work.device)
    lora = Lora(rank=work.rank, alpha=work.rank, targets="attention")
    adapter = Adapter(model, lora, text_encoder=False, seed=0)
    if recordable(work):
        model.record()
    rows = max(work.sampling_batch, work.train_batch)
    conditioning = conditioning_for(model, work.prompts[:1] * rows, work.guidance)
    latents = batch_noise(model.latent_shape, [keyed_generator(row) for row in range(rows)], model.device)
    timesteps = torch.full((rows,), 500, device=model.device)

    def predict(count: int) -> Tensor:
        return model.predict(latents[:count], timesteps[:count], conditioning.rows(slice(count)))

    def sampling() -> None:
        predict(work.sampling_batch)

    def training() -> None:
        predict(work.train_batch).square().mean().backward()  # type: ignore[no-untyped-call]
        assert adapter.parameters()[0].grad is not None

    with torch.no_grad(), merged(model.denoiser):  # once a trajectory, so not within a pass
        clock.one_pass("forward_s", sampling)
    clock.one_pass("training_s", training)


def personalize_steps(work: Workload, clock: Clock) -> None:
    """Seconds of the steps, measured where the recipe reports one done."""
    run = context()
    marks: list[tuple[float, float]] = []
    report = run.progress.update

    def update(step: int, **metrics: float) -> None:
        report(step, **metrics)
        marks.append(clock.now())

    run.progress.update = update  # type: ignore[method-assign]
    personalize.run(run)
    clock.keep(marks[min(WARMUP_STEPS, len(marks) - 2) :])


def reinforcement() -> Reinforce:
    """The stage, ready for its first epoch."""
    with reward.installed():
        stage = Reinforce(context())
    stage.restore()
    stage.run.progress.start(stage.spec.epochs, "epochs")
    return stage


def reinforce_epochs(work: Workload, clock: Clock) -> None:
    """Seconds of epochs, and of a checkpoint."""
    stage = reinforcement()
    clock.laps(stage.epoch, work.warmup_epochs, work.epochs)
    with clock.number("checkpoint_s"):
        stage.run.checkpoint(work.warmup_epochs + work.epochs, stage.state, force=True)
    clock.result.numbers["checkpoint_interval_epochs"] = float(stage.spec.checkpoint_interval_epochs)


def reinforce_parts(work: Workload, clock: Clock) -> None:
    """Where an epoch's seconds go."""
    stage = reinforcement()
    for number in range(work.warmup_epochs):
        stage.epoch(number)

    def timed(place: Any, name: str, part: Callable[[], str]) -> None:
        call = getattr(place, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with clock.number(part()):
                return call(*args, **kwargs)

        setattr(place, name, measured)

    timed(stage.model, "predict", lambda: "forward_training_s" if torch.is_grad_enabled() else "forward_sampling_s")
    timed(stage.model, "decode", lambda: "decode_s")
    timed(stage.optimizer, "backward", lambda: "backward_s")
    timed(stage.optimizer, "step", lambda: "optimizer_s")
    clock.laps(lambda number: stage.epoch(work.warmup_epochs + number), 0, work.epochs)
    numbers = clock.result.numbers
    for name in numbers:
        numbers[name] /= work.epochs
    numbers["rest_s"] = sum(clock.result.seconds) / work.epochs - sum(numbers.values())


def reinforce_update(work: Workload, clock: Clock, output: Path) -> None:
    """One epoch of one update; keep what it was made from and what came out."""
    stage = reinforcement()
    train, tensors = stage.train, {f"before.{name}": tensor for name, tensor in stage.adapter.tensors().items()}

    def spy(pairs: Any, epoch: int) -> dict[str, float]:
        with torch.no_grad():
            index = torch.arange(len(pairs.steps), device=stage.model.device)
            log_probs = torch.cat([stage.log_prob(pairs, rows)[0] for rows in torch.split(index, work.train_batch)])
        samples: dict[str, Tensor] = {
            "latents": pairs.latents,
            "next_latents": pairs.next_latents,
            "timesteps": stage.schedule.timesteps[pairs.steps],
            "advantages": pairs.advantages,
            "log_probs": log_probs,
            "prompt_embeds": pairs.conditioning.encoding["embeddings"],
        }
        tensors.update({f"pairs.{name}": tensor.cpu().contiguous().clone() for name, tensor in samples.items()})
        return train(pairs, epoch)

    stage.train = spy  # type: ignore[method-assign]
    keep_gradients(stage.optimizer.optimizer, stage.adapter.tensors, tensors)
    clock.laps(stage.epoch, 0, 1)
    tensors.update({f"after.{name}": tensor for name, tensor in stage.adapter.tensors().items()})
    save_file(tensors, output)


def main() -> None:
    """One kind of measurement."""
    kind, work = sys.argv[1], Workload.read(Path(sys.argv[2]))
    clock = Clock(work.device, work.threads)
    if kind == "update":
        reinforce_update(work, clock, Path(sys.argv[3]))
    elif kind == "learn":
        stage = reinforcement()
        learn(Lesson.read(Path(sys.argv[3])), clock, stage.epoch, stage.adapter.tensors)
    else:
        kinds = {"passes": passes, "personalize": personalize_steps, "reinforce": reinforce_epochs}
        {**kinds, "parts": reinforce_parts}[kind](work, clock)
    clock.finish("instructbooth", "torch", "diffusers", "peft").say()
    # Threads of libraries outlive the interpreter now and then; everything has been said.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
