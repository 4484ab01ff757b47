"""A recipe that only counts, with every kind of random number; STUB_MODE (stub_trainer.py) says how it fails."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from instructbooth.contract import Outcome
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.state import load_optimizer_tensors, optimizer_tensors

STEPS = 6
MODE, *ARGUMENTS = os.environ["STUB_MODE"].split(":")


@dataclass
class Counter:
    """A parameter that AdamW moves by gradients from every kind of random number there is."""

    rank: int
    weight: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.zeros(5)))
    history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW([self.weight], lr=0.1)
        self.generator = torch.Generator().manual_seed(100 + self.rank)
        random.seed(self.rank)
        np.random.seed(self.rank)
        torch.manual_seed(self.rank)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight} | {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}

    def meta(self) -> dict[str, JsonValue]:
        return {"history": list(self.history)}

    def load(self, tensors: dict[str, torch.Tensor], meta: dict[str, JsonValue]) -> None:
        self.weight.data.copy_(tensors["weight"])
        prefix = "optimizer."
        load_optimizer_tensors(
            self.optimizer, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        history = meta["history"]
        assert isinstance(history, list)
        self.history = [float(str(x)) for x in history]

    def generators(self) -> dict[str, torch.Generator]:
        return {"own": self.generator}

    def step(self, run: RunContext) -> None:
        noise = torch.tensor([random.gauss(0, 1), np.random.randn(), float(torch.randn(()))])
        gradient = torch.cat([noise, torch.randn(2, generator=self.generator)])
        self.weight.grad = run.accelerator.reduce(gradient, reduction="mean")
        self.optimizer.step()
        self.history.append(float(self.weight.sum()))


def sleep_like_a_lost_mount() -> None:
    time.sleep(3600)


def hold_the_interpreter() -> None:
    """A call into C that keeps the interpreter's lock: no other Python thread runs any more."""
    ctypes.PyDLL(None).sleep(3600)


def recipe(run: RunContext) -> Outcome:
    me = run.gang.rank
    if MODE == "user-error" and me == int(ARGUMENTS[0]):
        raise UserError("PromptsWithoutSubject", "no prompt names the subject")
    if MODE == "defect" and me == int(ARGUMENTS[0]):
        raise ZeroDivisionError("a defect")
    if MODE == "together":
        run.gang.once_per_node(lambda: (_ for _ in ()).throw(UserError("ModelInvalid", "unet is cut")))
    if MODE == "diverge":
        run.stop_if_asked() if me else run.gang.barrier()
    state = Counter(me)
    run.start_checkpoints(2)
    first = run.resume(state)
    run.progress.start(STEPS, "steps", done=first)
    for step in range(first + 1, (10_000 if MODE == "wait" else STEPS) + 1):
        if MODE == "kill" and [me, step] == [int(a) for a in ARGUMENTS]:
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE == "zombie" and [me, step] == [int(a) for a in ARGUMENTS]:
            os.kill(os.getpid(), signal.SIGSTOP)  # its node is cut off; when it comes back it goes on, and does harm
            state.weight.data += 1000.0
        if MODE == "hang" and [me, step] == [int(a) for a in ARGUMENTS]:
            sleep_like_a_lost_mount()
        if MODE == "hold" and [me, step] == [int(a) for a in ARGUMENTS]:
            hold_the_interpreter()
        if MODE == "wait":
            time.sleep(0.05)
        state.step(run)
        run.progress.update(step, loss=state.history[-1])
        run.checkpoint(step, state)
    folder = run.workdir / "output"
    folder.mkdir()
    save_file({"weight": state.weight.detach(), "history": torch.tensor(state.history)}, folder / "w.safetensors")
    return run.publish(folder, {"loss": state.history[-1]})
