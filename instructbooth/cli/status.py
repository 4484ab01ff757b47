"""`instructbooth status`: where a job stands."""

from __future__ import annotations

import json

import click

from instructbooth.cli.cluster import Cluster, KubeOptions, kube_options
from instructbooth.cli.watch import print_job, watch_job


@click.command()
@click.argument("name")
@click.option("--watch", is_flag=True, help="Stay until the job is finished; exit 1 if it fails.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="`json` is status as it is."
)
@kube_options
def status(name: str, watch: bool, output: str, kube: KubeOptions) -> None:
    """Show phase, stages, conditions with their remedies, and the evaluation of a job."""
    if watch and output == "json":
        raise click.UsageError("--watch shows a table; leave it out for -o json")
    cluster = Cluster(kube)
    if watch:
        watch_job(cluster, name)
    elif output == "json":
        click.echo(json.dumps(cluster.job(name).get("status") or {}, indent=2))
    else:
        print_job(cluster, cluster.job(name))
