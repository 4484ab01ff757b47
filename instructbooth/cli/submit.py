"""`instructbooth submit`: hand a job to the cluster."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from instructbooth.cli.cluster import Cluster, KubeOptions, kube_options
from instructbooth.cli.manifests import Manifest, find_manifest_problems, job_name, read_manifests, require_valid
from instructbooth.cli.output import CliError, note, out
from instructbooth.cli.pictures import config_map_data
from instructbooth.cli.validate import manifest_option
from instructbooth.cli.watch import watch_job
from instructbooth.contract import KIND


@click.command()
@manifest_option
@click.option(
    "--from-folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures that becomes the ConfigMap spec.subject.images.configMap names.",
)
@click.option("--watch", is_flag=True, help="Stay and show the progress; exit 1 if the job fails.")
@click.option("--validate/--no-validate", "check", default=True, help="Check here first, or leave it to the server.")
@kube_options
def submit(path: Path, from_folder: Path | None, watch: bool, check: bool, kube: KubeOptions) -> None:
    """Create the InstructBoothJob in a file, or update what may change of it (spec.runPolicy)."""
    found = read_manifests(path)
    job = found.one_job()
    if check:
        require_valid(job, path)
    elif problems := find_manifest_problems(job):
        note(f"{len(problems)} problems found here; the API server is asked all the same")
    for other in found.others:
        note(f"{path}: {other} was passed over; `kubectl apply` it where it is needed")
    pictures = (images_config_map(job), config_map_data(from_folder)) if from_folder else None
    cluster = Cluster(KubeOptions(kube.context, _namespace(job, kube)))
    if pictures:
        cluster.apply_config_map(*pictures)
        out().print(f"ConfigMap/{pictures[0]} holds {len(pictures[1])} pictures")
    cluster.apply_job(job)
    name = job["metadata"]["name"]
    out().print(f"{KIND}/{escape(name)} submitted to namespace {cluster.namespace}")
    if watch:
        watch_job(cluster, name)
    else:
        note(f"watch it: instructbooth status {name} -n {cluster.namespace} --watch")


def images_config_map(job: Manifest) -> str:
    """Name of the ConfigMap the job takes its pictures from. Raises CliError if it takes them from elsewhere."""
    images = job.get("spec", {}).get("subject", {}).get("images", {})
    name = (images.get("configMap") or {}).get("name")
    if not isinstance(name, str):
        raise CliError(
            f"--from-folder makes a ConfigMap, but {job_name(job)} takes its pictures from "
            f"{', '.join(images) or 'nowhere'}; set spec.subject.images.configMap: {{name: {job_name(job)}-pictures}}"
        )
    return name


def _namespace(job: Manifest, kube: KubeOptions) -> str | None:
    written = job["metadata"].get("namespace")
    if written and kube.namespace and written != kube.namespace:
        raise CliError(f"metadata.namespace is {written} but -n says {kube.namespace}; drop one of them")
    return kube.namespace or written
