"""A job's status as a person wants to see it. Pure: an object in, something rich can print out."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from instructbooth.cli.output import human_time
from instructbooth.spec.status import InstructBoothJobStatus, Phase, StageState, StageStatus

_COLOURS = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.SUSPENDED: "yellow",
    Phase.QUEUED: "yellow",
    StageState.SUCCEEDED: "green",
    StageState.FAILED: "red",
    StageState.RESTARTING: "yellow",
    StageState.RUNNING: "cyan",
}
# Conditions worth a line; the others say nothing that phase and stages do not say (Blocked=False, Accepted=True, ...).
_MARKS = {
    ("Accepted", "False"): "[red]✗[/red]",
    ("Blocked", "True"): "[red]✗[/red]",
    ("Queued", "True"): "·",
    ("Failed", "True"): "[red]✗[/red]",
    ("Succeeded", "True"): "[green]✓[/green]",
    ("Progressing", "True"): "·",
}
MODELS = ("base", "personalized", "reinforced")


def coloured(word: str) -> str:
    """A phase or state in its colour, as rich markup."""
    colour = _COLOURS.get(word)  # type: ignore[call-overload]
    return f"[{colour}]{word}[/{colour}]" if colour else word


def render_job(title: str, status: InstructBoothJobStatus, now: datetime) -> RenderableType:
    """Everything worth knowing about a job.

    Args:
        title: `namespace/name`.
        status: as the API server returns it.
        now: in UTC.
    """
    parts: list[RenderableType] = [Text.from_markup(_headline(title, status, now))]
    if status.stages:
        parts.append(_stages(status.stages, now))
    parts += [Text.from_markup(line) for stage in status.stages for line in _failure(stage)]
    parts += [Text.from_markup(line) for line in _conditions(status)]
    if status.evaluation:
        parts.append(evaluation_table(status.evaluation))
    return Group(*parts)


def _headline(title: str, status: InstructBoothJobStatus, now: datetime) -> str:
    words = [f"[bold]{escape(title)}[/bold]", coloured(status.phase)]
    if took := _span(status.start_time, status.completion_time, now):
        words.append(f"{'took' if status.completion_time else 'for'} {took}")
    if status.reward:
        words.append(f"reward {escape(status.reward)}")
    return "  ".join(words)


def _stages(stages: list[StageStatus], now: datetime) -> Table:
    table = _table("STAGE", "STATE", "ATTEMPT", "PROGRESS", "ETA", "RESTARTS", "TIME", "LATEST")
    for stage in stages:
        progress, restarts = stage.progress, stage.restarts
        moved = f"{progress.step}/{progress.total} {progress.unit}" if progress and progress.total else ""
        running = stage.state is StageState.RUNNING
        eta = human_time(progress.eta_seconds) if running and progress and progress.eta_seconds is not None else ""
        counted = [(restarts.failures, "failed"), (restarts.disruptions, "disrupted")]
        latest = (progress.metrics if running and progress else stage.metrics) if stage.name != "evaluate" else {}
        table.add_row(
            stage.name,
            coloured(stage.state),
            str(stage.attempt or ""),
            moved,
            eta,
            ", ".join(f"{number} {word}" for number, word in counted if number) or "0",
            _span(stage.start_time, stage.completion_time, now),
            escape(" ".join(f"{name}={value:.3g}" for name, value in latest.items())),
        )
    return table


def _failure(stage: StageStatus) -> list[str]:
    failure = stage.failure
    if failure is None:
        return []
    where = f"{stage.name} attempt {failure.attempt}" + (f" rank {failure.rank}" if failure.rank is not None else "")
    code = f", exit code {failure.exit_code}" if failure.exit_code is not None else ""
    colour = "red" if stage.state is StageState.FAILED else "yellow"
    said = [f"[{colour}]{where}: {escape(failure.reason)}{code}[/{colour}]", *_indented(failure.message)]
    return said + [f"    [dim]| {escape(line)}[/dim]" for line in failure.log]


def _conditions(status: InstructBoothJobStatus) -> list[str]:
    lines = []
    for condition in status.conditions:
        mark = _MARKS.get((condition.type, condition.status))
        if mark is not None:
            lines.append(f"{mark} {condition.type}: {escape(condition.reason)}")
            lines += _indented(condition.message)
    return lines


def _indented(message: str) -> list[str]:
    return [f"    {escape(line)}" for line in message.splitlines()]


def evaluation_table(evaluation: dict[str, dict[str, float]]) -> Table:
    """One row per model, one column per metric; the best number of a column is bold."""
    metrics = list(dict.fromkeys(name for values in evaluation.values() for name in values))
    best = {name: max(values[name] for values in evaluation.values() if name in values) for name in metrics}
    table = _table("MODEL", *metrics)
    for column in table.columns[1:]:
        column.justify = "right"
    for model in [*MODELS, *(set(evaluation) - set(MODELS))]:
        values = evaluation.get(model)
        if values is None:
            continue
        cells = [f"{values[name]:.3f}" if name in values else "" for name in metrics]
        marked = [
            f"[bold]{cell}[/bold]" if values.get(name) == best[name] else cell
            for name, cell in zip(metrics, cells, strict=True)
        ]
        table.add_row(model, *marked)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _span(start: str | None, end: str | None, now: datetime) -> str:
    if start is None:
        return ""
    last = parse_time(end) if end else now
    return human_time(max(0.0, (last - parse_time(start)).total_seconds()))


def parse_time(text: str) -> datetime:
    """A Kubernetes timestamp (RFC 3339, UTC)."""
    return datetime.fromisoformat(text).astimezone(UTC)


def one_line(status: InstructBoothJobStatus) -> str:
    """The job in a line of plain text, for logs."""
    words = [f"{status.phase:<13}", f"{status.stage or '':<11}", f"{status.progress or '':<12}"]
    words += [f"reward {status.reward}"] if status.reward else []
    blocked = [f"! {c.reason}: {c.message}" for c in status.conditions if c.type == "Blocked" and c.status == "True"]
    return "  ".join(words + blocked).rstrip()
