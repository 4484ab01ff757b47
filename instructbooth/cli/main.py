"""Entry point of the `instructbooth` command."""

from __future__ import annotations

from importlib.metadata import version

import click

from instructbooth.cli.artifacts import artifacts
from instructbooth.cli.dreambench import dreambench
from instructbooth.cli.identifiers import identifiers
from instructbooth.cli.logs import logs
from instructbooth.cli.run import run
from instructbooth.cli.status import status
from instructbooth.cli.submit import submit
from instructbooth.cli.validate import crd, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(version("instructbooth"), prog_name="instructbooth")
def cli() -> None:
    """Teach a text-to-image model a new subject and keep it obedient, on Kubernetes or on this machine."""


for command in (crd, validate, identifiers, submit, status, logs, artifacts, run, dreambench):
    cli.add_command(command)


if __name__ == "__main__":
    cli()
