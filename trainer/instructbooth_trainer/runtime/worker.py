"""One training process: from environment variables to a RunContext, through the recipe, to an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from instructbooth import contract
from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.layout import RunLayout
from instructbooth.contract import ExitCode, Outcome, Stage
from instructbooth_trainer.runtime import outcome as outcomes
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import PodEnvironment, read_environment
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.exits import classify
from instructbooth_trainer.runtime.foresight import foresee
from instructbooth_trainer.runtime.gang import Gang
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels
from instructbooth_trainer.runtime.sources import Sources
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.tail import LogTail, log_to_stdout
from instructbooth_trainer.runtime.threads import choose_threads
from instructbooth_trainer.runtime.watchdog import Watchdog, listen_for_stacks

log = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT = timedelta(seconds=300)


def setup_logging(rank: str) -> LogTail:
    """Everything to stdout, one line each, with the rank; returns what remembers the last ones."""
    log_to_stdout(rank)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    root, tail = logging.getLogger(), LogTail(os.environ)
    tail.setFormatter(root.handlers[0].formatter)
    root.addHandler(tail)
    return tail


def load_recipe(stage: Stage) -> Callable[[RunContext], Outcome]:
    """The `run` function of a stage's recipe."""
    run: Callable[[RunContext], Outcome] = importlib.import_module(f"instructbooth_trainer.recipes.{stage.value}").run
    return run


def make_accelerator(world_size: int, *, gpu: bool) -> Accelerator:
    """The Accelerator of this process. Raises UserError WorldSizeMismatch, GpuMissing: never train smaller than asked.

    Without this check a gang whose processes did not find each other trains as several silent copies.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError(
            "GpuMissing", "gpusPerNode is set, but this process sees no CUDA device; check image and driver"
        )
    accelerator = Accelerator(cpu=not gpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)])
    if accelerator.num_processes != world_size:
        raise UserError(
            "WorldSizeMismatch",
            f"this attempt is to have {world_size} processes (its nodes x max(1, gpusPerNode)), this gang has "
            f"{accelerator.num_processes}",
        )
    return accelerator


def make_watchdog(pod: PodEnvironment, tail: LogTail) -> Watchdog | None:
    """A watchdog, unless the job wants none. It ends the process as the contract has it."""
    if not pod.stall_timeout:
        return None

    def end(outcome: Outcome) -> None:
        log.error("%s: %s", outcome.reason, outcome.message)
        outcomes.write(replace(outcome, log=tail.lines), os.environ)
        sys.stdout.flush()
        os._exit(ExitCode.STALLED)

    return Watchdog(pod.stall_timeout, int(os.environ.get("RANK", "0")), end)


def make_context(pod: PodEnvironment, stop: StopFlag, watchdog: Watchdog | None = None) -> RunContext:
    """Everything a recipe needs, checked; rank 0's progress is served from here on.

    The watchdog watches from then on: until then waits have bounds of their own, or the operator's (decision 0031).
    """
    shape = pod.job.spec.stage(pod.stage)
    progress = ProgressReporter(
        RunLabels(pod.job.namespace, pod.job.name, pod.stage, pod.attempt),
        speak=os.environ.get("RANK", "0") == "0",
        on_beat=watchdog.beat if watchdog else lambda where: None,
    )
    if os.environ.get("RANK", "0") == "0" and not pod.local:
        progress.serve(contract.Port.METRICS)
    accelerator = make_accelerator(pod.world_size, gpu=shape.gpus_per_node > 0)
    gang = Gang(accelerator.process_index, accelerator.local_process_index, accelerator.num_processes)
    torch.use_deterministic_algorithms(shape.gpus_per_node == 0)
    # The mode also fills every fresh tensor, for programs that read what nobody has written: 4 to 7 % of a pass.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    store = open_store(pod.job.spec.artifacts, os.environ)
    gang.once(lambda: store.ensure_bucket(create=pod.local or pod.job.spec.artifacts.create_bucket))
    cache = Path(contract.Path.CACHE) if pod.job.spec.model.cache_claim_name else None
    log.info(
        "%s/%s: %s, attempt %d, process %d of %d on %s, %d CPU threads",
        pod.job.namespace,
        pod.job.name,
        pod.stage.value,
        pod.attempt,
        gang.rank + 1,
        gang.world_size,
        accelerator.device,
        torch.get_num_threads(),
    )
    if watchdog is not None:
        watchdog.start()
    return RunContext(
        job=pod.job,
        stage=pod.stage,
        attempt=pod.attempt,
        accelerator=accelerator,
        gang=gang,
        store=store,
        layout=RunLayout.of(pod.job),
        workdir=pod.workdir,
        progress=progress,
        inputs=pod.inputs,
        stop=stop,
        sources=Sources(store, pod.workdir, cache, beat=progress.beat),
    )


def run_worker(pod: PodEnvironment | None = None) -> int:
    """Run this process's share of the stage; returns its exit code, the outcome is written.

    Args:
        pod: what the environment says, where it has been read already.
    """
    tail = setup_logging(f"[{os.environ.get('RANK', '0')}]")
    listen_for_stacks()  # before SIGTERM is listened to: who survives that signal can be asked for its stacks
    stop, watchdog = StopFlag(), None
    stop.install()
    try:
        pod = pod or read_environment(os.environ)
        torch.set_num_threads(choose_threads(pod.processes, os.environ))
        watchdog = make_watchdog(pod, tail)
        context = make_context(pod, stop, watchdog)
        recipe = load_recipe(pod.stage)
        if pod.stage is contract.Stage.PERSONALIZE:
            context.gang.once(lambda: foresee(context.job.spec, context.sources))
        context.progress.beat()
        outcome = recipe(context)
        code: int = ExitCode.OK
        context.gang.barrier()
        context.progress.close()
    except BaseException as error:  # the border of the process: everything becomes a code and a word
        code, outcome = classify(error)
        log.error("%s: %s", outcome.reason, outcome.message, exc_info=error if code == 1 else None)
        outcome = replace(outcome, log=tail.lines)
    if watchdog is not None:
        watchdog.stop()
    outcomes.write(outcome, os.environ)
    if code == ExitCode.OK:
        if dist.is_initialized():
            dist.destroy_process_group()
        log.info("done: %s", outcome.artifact)
    return code


if __name__ == "__main__":
    exit_code = run_worker()
    sys.stdout.flush()
    sys.stderr.flush()
    # Neither a broken process group nor a thread of a library that outlives the interpreter (seen: std::terminate after
    # the outcome was written) may keep the process from ending, or change its code.
    os._exit(exit_code)
