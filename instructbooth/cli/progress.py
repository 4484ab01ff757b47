"""The progress of a local run: the trainer's own lines, as a bar for a person and as they are for a log file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from instructbooth.cli.output import err
from instructbooth.contract import Stage

# What instructbooth_trainer.runtime.progress prints: `...: reinforce: 3/40 epochs, 2m05s left, reward 0.31`.
_LINE = re.compile(rf": (?:{'|'.join(Stage)}): (\d+)/(\d+) (\w+)(?:, (.*))?$")


@dataclass(frozen=True)
class Step:
    """A progress line: `step` of `total` `unit`, and the rest of it."""

    step: int
    total: int
    unit: str
    rest: str


def parse_line(line: str) -> Step | None:
    """The progress a line of the trainer speaks of, if it does."""
    found = _LINE.search(line)
    return Step(int(found[1]), int(found[2]), found[3], found[4] or "") if found else None


class StageProgress:
    """What is shown of a stage that runs. `on_line` may be called by several threads."""

    def __init__(self, bar: Progress | None, task: TaskID | None, stage: Stage, verbose: bool) -> None:
        self._bar = bar
        self._task = task
        self._stage = stage
        self._verbose = verbose

    def on_line(self, node: int, line: str) -> None:
        """Show a line of a trainer, as far as it is wanted."""
        step = parse_line(line) if node == 0 else None
        if self._bar is not None and self._task is not None:
            if step:
                self._bar.update(
                    self._task,
                    completed=step.step,
                    total=step.total,
                    text=escape(f"{step.step}/{step.total} {step.unit}  {step.rest}"),
                )
            if self._verbose:
                self._bar.console.print(escape(f"{node} | {line}"))
        elif self._verbose:
            print(f"{node} | {line}", flush=True)
        elif step:
            print(f"{self._stage.value}  {step.step}/{step.total} {step.unit}  {step.rest}", flush=True)


@contextmanager
def stage_progress(stage: Stage, attempt: int, *, verbose: bool) -> Iterator[StageProgress]:
    """Show a stage while the block runs: a live bar on a terminal, lines elsewhere."""
    console = err()
    if not console.is_terminal:
        print(f"{stage.value}, attempt {attempt}", flush=True)
        yield StageProgress(None, None, stage, verbose)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        label = stage.value + (f" (attempt {attempt})" if attempt > 1 else "")
        task = bar.add_task(f"{label:<24}", total=None, text="starting")
        yield StageProgress(bar, task, stage, verbose)
