"""A trainer with a recipe that only counts, for tests of the launcher and of the worker: real processes, real gloo.

`launch` is the pod's first process, `work` one of its training processes. STUB_MODE says what the recipe does:
`count`, `wait`, `kill:<rank>:<step>`, `user-error:<rank>`, `defect:<rank>`, `die-early:<rank>`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from instructbooth.contract import Outcome, Stage
from instructbooth_trainer import launch
from instructbooth_trainer.runtime import worker
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import read_environment
from instructbooth_trainer.runtime.errors import TransientError, UserError
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


def recipe(run: RunContext) -> Outcome:
    me = run.gang.rank
    if MODE == "user-error" and me == int(ARGUMENTS[0]):
        raise UserError("PromptsWithoutSubject", "no prompt names the subject")
    if MODE == "defect" and me == int(ARGUMENTS[0]):
        raise ZeroDivisionError("a defect")
    if MODE == "together":
        run.gang.once_per_node(lambda: (_ for _ in ()).throw(UserError("ModelInvalid", "unet is cut")))
    state = Counter(me)
    run.start_checkpoints(2)
    first = run.resume(state)
    run.progress.start(STEPS, "steps", done=first)
    for step in range(first + 1, (10_000 if MODE == "wait" else STEPS) + 1):
        if MODE == "kill" and [me, step] == [int(a) for a in ARGUMENTS]:
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE == "wait":
            time.sleep(0.05)
        state.step(run)
        run.progress.update(step, loss=state.history[-1])
        run.checkpoint(step, state)
    folder = run.workdir / "output"
    folder.mkdir()
    save_file({"weight": state.weight.detach(), "history": torch.tensor(state.history)}, folder / "w.safetensors")
    return run.publish(folder, {"loss": state.history[-1]})


def load_stub(_stage: Stage) -> object:
    return recipe


def main() -> int:
    if sys.argv[1] == "work":
        if MODE == "die-early" and os.environ["RANK"] == ARGUMENTS[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        worker.load_recipe = load_stub  # type: ignore[assignment]
        return worker.run_worker()
    worker.setup_logging("[launcher]")
    pod = read_environment(os.environ)
    if MODE == "alone":
        worker.load_recipe = load_stub  # type: ignore[assignment]
        return worker.run_worker(pod)
    try:
        return launch.run_workers(pod, os.environ, (sys.executable, __file__, "work"))
    except TransientError as error:
        print(error, flush=True)
        return 75


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
