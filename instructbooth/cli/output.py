"""Where words go: results to stdout, notes and errors to stderr, colours only where a person looks."""

from __future__ import annotations

from typing import IO, Any

import click
from rich.console import Console
from rich.markup import escape


def out() -> Console:
    """Console for results. Made anew each time, so that it follows a redirected stdout."""
    return Console(soft_wrap=True, highlight=False)


def err() -> Console:
    """Console for notes, progress and errors."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """Something worth knowing that is not the result."""
    err().print(f"[dim]note:[/dim] {escape(text)}")


class CliError(click.ClickException):
    """The command cannot go on: the message names what is wrong and the way out.

    One sentence; further lines are shown below it.
    """

    def show(self, file: IO[Any] | None = None) -> None:
        """Print to stderr."""
        err().print(f"[bold red]error:[/bold red] {escape(self.message)}")


def human_size(size: float) -> str:
    """Bytes for people: `4.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_time(seconds: float) -> str:
    """Seconds for people: `3m10s`."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
