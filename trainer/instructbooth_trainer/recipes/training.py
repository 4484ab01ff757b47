"""What both training recipes share: one synchronised optimizer step, and what a checkpoint holds.

Gradients are summed over the gang in one flat tensor instead of by DDP: a LoRA's gradients are small, ranks may have
uneven numbers of rows or micro-batches, and nothing can be left out by accident, for all that is trained is in it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import JsonValue
from torch import Tensor

from instructbooth.spec.stages import Dtype
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import expand
from instructbooth_trainer.diffusion.sampling import draw, grid
from instructbooth_trainer.recipes.loss_scale import LossScale
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import RunError, UserError
from instructbooth_trainer.runtime.state import load_optimizer_tensors, optimizer_tensors

SAMPLES = 4  # pictures per row of a sheet of samples


@dataclass(frozen=True)
class StepResult:
    """Mean loss over all ranks' rows, and the gradient's norm before it was scaled down; equal on all ranks."""

    loss: float
    grad_norm: float


class SynchronizedAdamW:
    """AdamW on the adapter; a step is the same on all ranks, bit for bit."""

    def __init__(
        self,
        accelerator: Accelerator,
        adapter: Adapter,
        learning_rate: float,
        max_grad_norm: float,
        dtype: Dtype,
        weight_decay: float,
        kind: str = "adamw",
    ) -> None:
        self._accelerator = accelerator
        self._parameters = adapter.parameters()
        self._max_norm = max_grad_norm
        self.optimizer = make_optimizer(kind, self._parameters, learning_rate, weight_decay)
        self._scale = LossScale(self.optimizer, dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a sum of losses (not of a mean: `step` divides)."""
        (loss * self._scale.value).backward()  # type: ignore[no-untyped-call]

    def set_learning_rate(self, learning_rate: float) -> None:
        """For the steps from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self, count: int, total_loss: float) -> StepResult:
        """Sum gradients over all ranks, divide by the sum of `count`, scale down to the norm, update.

        In fp16 a step whose gradient overflows changes nothing but the loss scale, and has a norm of 0.

        Args:
            count: how many rows this rank's losses were summed over; may be 0 on some ranks.
            total_loss: the sum of this rank's losses, for the record.

        Raises:
            RunError: `GradientNotFinite` rather than a ruined adapter.
        """
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        numbers = gradients[0].new_tensor([total_loss, float(count)])
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients] + [numbers]), reduction="sum")
        if not flat[-1]:  # more updates were asked for than there are rows: nothing to learn in this one, on any rank
            return StepResult(0.0, 0.0)
        loss = float(flat[-2] / flat[-1])
        flat = flat[:-2] / (flat[-1] * self._scale.value)
        norm = flat.norm()
        if not bool(norm.isfinite()):
            if math.isfinite(loss) and self._scale.overflowed():
                self.optimizer.zero_grad(set_to_none=True)
                return StepResult(loss, 0.0)
            raise RunError(
                "GradientNotFinite", "the gradient is not finite: lower learningRate, or use dtype fp32 or bf16"
            )
        flat = flat * (self._max_norm / norm.clamp(min=self._max_norm))
        for parameter, piece in zip(self._parameters, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = piece.view_as(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._scale.passed()
        return StepResult(loss, float(norm))


def make_optimizer(
    kind: str, parameters: Sequence[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`adamw`, or `adamw8bit` with both moments in 8 bits (arXiv 2110.02861). Raises UserError OptimizerMissing."""
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            "OptimizerMissing",
            f"spec.personalization.optimizer: {kind} needs the package bitsandbytes, which this image lacks ({error}); "
            "name an image that has it in spec.podTemplate.image, or use adamw",
        ) from error
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(parameters, lr=learning_rate, weight_decay=weight_decay)
    return optimizer


class AdapterState:
    """A TrainState: adapter, optimizer, further copies of the adapter, and a JSON record.

    Attributes:
        curve: numbers of each step or epoch, equal on all ranks.
        kept: copies of the adapter by name, such as the best one so far.
        record: whatever else must be remembered, JSON.
    """

    def __init__(self, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
        self._adapter, self._optimizer = adapter, optimizer
        self.curve: list[dict[str, float]] = []
        self.kept: dict[str, dict[str, Tensor]] = {}
        self.record: dict[str, JsonValue] = {}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor."""
        parts = {"adapter": self._adapter.tensors(), "optimizer": optimizer_tensors(self._optimizer)}
        parts |= {f"kept:{name}": tensors for name, tensors in self.kept.items()}
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def meta(self) -> dict[str, JsonValue]:
        """Curve and record."""
        return {"curve": [dict(point) for point in self.curve], "record": self.record}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, JsonValue]) -> None:
        """Take over what `tensors` and `meta` gave. Raises UserError AdapterMismatch, ValueError."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self._adapter.load_tensors(parts.pop("adapter"))
        load_optimizer_tensors(self._optimizer, parts.pop("optimizer"))
        self.kept = {part.removeprefix("kept:"): tensors for part, tensors in parts.items()}
        curve, record = meta["curve"], meta["record"]
        assert isinstance(curve, list)
        assert isinstance(record, dict)
        self.curve, self.record = _points(curve), record

    def generators(self) -> dict[str, torch.Generator]:
        """None: every random number comes from a generator keyed by what it is for."""
        return {}


def _points(curve: list[JsonValue]) -> list[dict[str, float]]:
    return [{name: float(str(value)) for name, value in point.items()} for point in curve if isinstance(point, dict)]


def samples_sheet(run: RunContext, model: DiffusionModel, path: Path, templates: Sequence[str]) -> None:
    """Draw up to eight prompts with the present adapter as the evaluation would, a row of four each, into a PNG."""
    sampling = run.job.spec.evaluation.sampling
    prompts = [expand(t, run.job.spec.subject, identifier=True) for t in templates[:8] for _ in range(SAMPLES)]
    generators = [keyed_generator("samples", number % SAMPLES) for number in range(len(prompts))]
    grid(draw(model, prompts, generators, sampling.steps, sampling.guidance_scale), SAMPLES).save(path)
