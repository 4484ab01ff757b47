"""`instructbooth artifacts`: what jobs made, and what they need, between object storage and this machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from instructbooth.artifacts.commit import read_manifest
from instructbooth.cli.cluster import Cluster, KubeOptions, kube_options
from instructbooth.cli.manifests import read_manifests, require_valid
from instructbooth.cli.output import CliError, err, human_size, note, out
from instructbooth.cli.storage import opened
from instructbooth.cli.transfer import download, folder_files, parse_address, upload
from instructbooth.cli.watch import read_status
from instructbooth.contract import STAGES
from instructbooth.spec.base import RelativePath
from instructbooth.spec.job import Artifacts, CredentialsSecretRef

_PREFIX: TypeAdapter[str] = TypeAdapter(RelativePath)

Addresses = dict[str, str]


@click.group()
def artifacts() -> None:
    """List, fetch and upload what lies in object storage.

    Credentials come from INSTRUCTBOOTH_S3_ACCESS_KEY and INSTRUCTBOOTH_S3_SECRET_KEY, or, as far as you may read it,
    from the Secret that the job names. An endpoint inside of the cluster is reached by `kubectl port-forward`.
    """


@artifacts.command("ls")
@click.argument("name")
@kube_options
def list_artifacts(name: str, kube: KubeOptions) -> None:
    """List the files of a job's artifacts."""
    cluster = Cluster(kube)
    spec, addresses = _of_job(cluster, name)
    with opened(spec, cluster) as store:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("STAGE", "SIZE", "FILE"):
            table.add_column(heading, no_wrap=True, justify="right" if heading == "SIZE" else "left")
        for stage, address in _require(addresses, cluster, name).items():
            bucket, prefix = parse_address(address)
            for file, entry in read_manifest(store.in_bucket(bucket), prefix).files.items():
                table.add_row(stage, human_size(entry.size), escape(file))
        out().print(table)


@artifacts.command("get")
@click.argument("name")
@click.option("--stage", type=click.Choice([s.value for s in STAGES]), help="Only this stage's; else each in a folder.")
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Target folder.")
@kube_options
def get_artifacts(name: str, stage: str | None, folder: Path, kube: KubeOptions) -> None:
    """Fetch a job's artifacts; size and sha256 of every file are verified first."""
    cluster = Cluster(kube)
    spec, addresses = _of_job(cluster, name)
    wanted = _require(addresses, cluster, name, stage)
    with opened(spec, cluster) as store:
        for found, address in wanted.items():
            bucket, prefix = parse_address(address)
            target = folder if stage else folder / found
            with err().status(f"fetching {address}"):
                files = download(store.in_bucket(bucket), prefix, target).files
            size = human_size(sum(entry.size for entry in files.values()))
            out().print(f"{found}: {len(files)} files, {size}, verified, in {escape(str(target))}")


@artifacts.command("put")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("prefix")
@click.option("-f", "--file", "manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Into the storage of the job in this manifest.")  # fmt: skip
@click.option("--like", metavar="JOB", help="Into the storage of this job in the cluster.")
@click.option("--endpoint", help="Into this S3 endpoint, with --bucket.")
@click.option("--bucket", help="Bucket; the job's own by default.")
@click.option("--region", help="Region, with --endpoint.")
@click.option("--secret", help="Secret with accessKey and secretKey, with --endpoint; else the environment's.")
@kube_options
def put_artifacts(
    folder: Path,
    prefix: str,
    manifest: Path | None,
    like: str | None,
    endpoint: str | None,
    bucket: str | None,
    region: str | None,
    secret: str | None,
    kube: KubeOptions,
) -> None:
    """Upload FOLDER (a model, a subject's pictures) as PREFIX, for `s3: {prefix: PREFIX}` in a manifest.

    Files that are there already with the same content are not sent again.
    """
    if sum(choice is not None for choice in (manifest, like, endpoint)) != 1:
        raise click.UsageError("say where to: exactly one of -f MANIFEST, --like JOB and --endpoint URL")
    if endpoint is None and (region or secret):
        raise click.UsageError("--region and --secret belong to --endpoint; a job has its own")
    prefix = _checked_prefix(prefix)
    cluster: Cluster | None = None
    if manifest:
        job = read_manifests(manifest).one_job()
        spec = require_valid(job, manifest).artifacts
        cluster = Cluster(KubeOptions(kube.context, kube.namespace or job["metadata"].get("namespace")))
    elif like:
        cluster = Cluster(kube)
        spec = _of_job(cluster, like)[0]
    else:
        assert endpoint is not None
        spec = _endpoint(endpoint, bucket, region, secret)
        internal = "svc" in (urlsplit(endpoint).hostname or "").split(".")
        cluster = Cluster(kube) if secret or internal else None
    _put(folder, prefix, spec, bucket, cluster)


def _put(folder: Path, prefix: str, spec: Artifacts, bucket: str | None, cluster: Cluster | None) -> None:
    total = sum(path.stat().st_size for path in folder_files(folder))
    with opened(spec, cluster) as opened_store:
        store = opened_store.in_bucket(bucket) if bucket else opened_store
        store.ensure_bucket(create=spec.create_bucket)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=err(), transient=True) as progress:
            task = progress.add_task("uploading", total=total)
            done = upload(store, folder, prefix, lambda _, size: progress.advance(task, size))
        address = store.url(f"{prefix}/")
    out().print(f"{escape(address)}: {len(done.sent)} files sent, {len(done.unchanged)} unchanged, {human_size(total)}")
    if done.strangers:
        note(f"{len(done.strangers)} other objects lie below {address} too, such as {done.strangers[0]}")


def _checked_prefix(prefix: str) -> str:
    try:
        return _PREFIX.validate_python(prefix.rstrip("/"))
    except ValidationError as error:
        raise click.UsageError(
            f"PREFIX {prefix!r} must be a relative path such as models/sd15, without '.' and '..'"
        ) from error


def _endpoint(endpoint: str, bucket: str | None, region: str | None, secret: str | None) -> Artifacts:
    if bucket is None:
        raise click.UsageError("--endpoint needs --bucket")
    try:
        ref = CredentialsSecretRef(name=secret or "environment")
        return Artifacts(endpoint=endpoint, bucket=bucket, region=region, credentials_secret_ref=ref)
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"--{first['loc'][0]}: {first['input']!r}: {first['msg']}") from error


def _of_job(cluster: Cluster, name: str) -> tuple[Artifacts, Addresses]:
    """spec.artifacts of a job in the cluster, and the address of each stage that has made something."""
    job = cluster.job(name)
    spec = Artifacts.model_validate(job["spec"]["artifacts"], extra="ignore")
    stages = read_status(job).stages
    return spec, {stage.name.value: stage.artifact for stage in stages if stage.artifact}


def _require(addresses: Addresses, cluster: Cluster, name: str, stage: str | None = None) -> Addresses:
    wanted = {stage: addresses[stage]} if stage in addresses else {} if stage else addresses
    if not wanted:
        what = f"stage {stage} of {cluster.namespace}/{name}" if stage else f"{cluster.namespace}/{name}"
        raise CliError(f"{what} has made no artifact yet; see `instructbooth status {name} -n {cluster.namespace}`")
    return wanted
