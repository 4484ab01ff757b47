"""`instructbooth crd` and `instructbooth validate`: what needs no cluster."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from instructbooth.cli.manifests import find_manifest_problems, job_name, read_manifests
from instructbooth.cli.output import CliError, err, note, out
from instructbooth.contract import KIND
from instructbooth.generate import crd_yaml

manifest_option = click.option(
    "-f", "--file", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Manifest with an InstructBoothJob.",
)  # fmt: skip


@click.command()
def crd() -> None:
    """Print the CustomResourceDefinition, ready for `kubectl apply --server-side -f -`."""
    click.echo(crd_yaml(), nl=False)


@click.command()
@manifest_option
def validate(path: Path) -> None:
    """Check the InstructBoothJobs in a file without a cluster."""
    found = read_manifests(path)
    for other in found.others:
        note(f"{path}: {other} is no {KIND} and was passed over")
    if not found.jobs:
        raise CliError(f"{path} holds no {KIND}")
    invalid = 0
    for job in found.jobs:
        problems = find_manifest_problems(job)
        name = job_name(job) or "(no name)"
        if not problems:
            out().print(f"[green]valid[/green] {KIND}/{escape(name)}")
            continue
        invalid += 1
        err().print(f"[bold red]invalid[/bold red] {KIND}/{escape(name)}")
        for problem in problems:
            err().print(f"  [bold]{escape(problem.field)}[/bold]: {escape(problem.message)}")
    if invalid:
        raise SystemExit(1)
