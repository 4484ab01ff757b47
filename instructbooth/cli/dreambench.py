"""`instructbooth dreambench`: the DreamBench protocol over a fleet of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import yaml

from instructbooth.artifacts.local import LocalStore
from instructbooth.artifacts.store import ObjectStore
from instructbooth.cli.cluster import Cluster, KubeOptions, kube_options
from instructbooth.cli.manifests import Manifest, read_manifests, require_valid
from instructbooth.cli.output import CliError, note, out
from instructbooth.cli.storage import opened, storage_errors
from instructbooth.dreambench.collect import Job, collect
from instructbooth.dreambench.dataset import BenchSubject, DataSet, DataSetError, read_data_set
from instructbooth.dreambench.manifests import check_descriptions, subject_manifest, trained_prompts
from instructbooth.dreambench.table import as_json, comma_separated, markdown

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_TARGET = click.Path(file_okay=False, path_type=Path)

_dataset = click.option("--dataset", "folder", required=True, type=_FOLDER,
                        help="Checkout of github.com/google/dreambooth, or its folder dataset/.")  # fmt: skip
_subjects = click.option("--subject", "names", multiple=True, help="Only this subject. Repeatable; all by default.")


@click.group()
def dreambench() -> None:
    """Evaluate by the DreamBench protocol: a job per subject, one table of all.

    The data set is read as it is; photos go to object storage by `instructbooth artifacts put`.
    """


@dreambench.command()
@_dataset
@_subjects
@click.option("--out", "target", required=True, type=_TARGET, help="Folder for <subject>.txt, a prompt a line.")
def prompts(folder: Path, names: tuple[str, ...], target: Path) -> None:
    """Write the prompts of each subject's kind as prompt files, for a ConfigMap or S3."""
    with _told():
        data = read_data_set(folder)
        chosen = _chosen(data, names)
    target.mkdir(parents=True, exist_ok=True)
    for subject in chosen:
        (target / f"{subject.name}.txt").write_text("".join(f"{prompt}\n" for prompt in data.prompts(subject)))
        out().print(f"{subject.name}: {len(data.prompts(subject))} prompts, {_kind(subject)}", markup=False)


@dreambench.command()
@_dataset
@_subjects
@click.option("--base", required=True, type=_FILE, help="Manifest that every job starts from.")
@click.option("--descriptions", type=_FILE, help="YAML file: a line `subject: detailed description` for each.")
@click.option("--class-nouns-only", is_flag=True, help="Without descriptions: the class noun alone.")
@click.option("--out", "target", required=True, type=_TARGET, help="Folder for <job>.yaml, one per subject.")
def manifests(
    folder: Path, names: tuple[str, ...], base: Path, descriptions: Path | None, class_nouns_only: bool, target: Path
) -> None:
    """Write an InstructBoothJob per subject from a base manifest.

    Pictures are below what spec.subject.images of the base names, in a folder per subject. Held-out prompts are the
    protocol's; prompts to train on stay those of the base.
    """
    if class_nouns_only == (descriptions is not None):
        raise CliError(
            "InstructBooth is trained with a detailed description of each subject, and the data set has none: write a "
            "YAML file with a line `backpack: red backpack with ...` for each and give it as --descriptions, or take "
            "the class noun alone by --class-nouns-only"
        )
    job = read_manifests(base).one_job()
    require_valid(job, base)
    with _told():
        data = read_data_set(folder)
        chosen = _chosen(data, names)
        texts = check_descriptions(_read_yaml(descriptions), chosen) if descriptions else {}
        made = {}
        for subject in chosen:
            pictures = data.pictures(subject)
            made[subject.name] = (subject_manifest(job, data, subject, texts.get(subject.name)), len(pictures))
    for manifest, _ in made.values():
        require_valid(manifest, base)  # before the first one is written
    target.mkdir(parents=True, exist_ok=True)
    for name, (manifest, count) in made.items():
        path = target / f"{manifest['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False, width=120, allow_unicode=True))
        out().print(f"{path}: {name}, {count} pictures, {_kind(data.subject(name))}", markup=False)
        if seen := trained_prompts(manifest):
            note(f"{name}: {len(seen)} prompts are both trained on and held out, such as {seen[0]!r}")


@dreambench.command("collect")
@click.option("--manifests", "folder", required=True, type=_FOLDER, help="The jobs' manifests: these are expected.")
@click.option("--store", "roots", multiple=True, type=_FOLDER,
              help="Look here instead of S3: a folder store/ of `instructbooth run`. Repeatable.")  # fmt: skip
@click.option("--run", "runs", multiple=True, metavar="JOB=UID", help="Which run of a job with several counts.")
@click.option("--out", "target", type=_TARGET, help="Folder for dreambench.json, .csv and .md.")
@kube_options
def collect_command(
    folder: Path, roots: tuple[Path, ...], runs: tuple[str, ...], target: Path | None, kube: KubeOptions
) -> None:
    """Print the table over all subjects; exit with 1 while jobs are missing or unfinished.

    Credentials are found as by `instructbooth artifacts`.
    """
    chosen = dict(_pair(run) for run in runs)
    # Jobs without a namespace of their own went where kubectl put them: into the context's.
    jobs = _jobs(folder, kube.namespace or ("local" if roots else Cluster(kube).namespace))
    with _told(), ExitStack() as stack:
        stack.enter_context(storage_errors())
        found = collect(jobs, _stores(jobs, roots, kube, stack), chosen)
    text = markdown(found)
    click.echo(text, nl=False)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        files = {"md": text, "csv": comma_separated(found), "json": as_json(found)}
        for suffix, content in files.items():
            (target / f"dreambench.{suffix}").write_text(content, encoding="utf-8")
    if found.absent:
        raise CliError(f"{len(found.absent)} of {len(jobs)} jobs are not in the table; the list is at its end")


def _jobs(folder: Path, namespace: str) -> list[Job]:
    jobs = []
    for path in sorted(folder.glob("*.y*ml")):
        for manifest in read_manifests(path).jobs:
            spec = require_valid(manifest, path)
            metadata: Manifest = manifest["metadata"]
            jobs.append(Job(metadata.get("namespace", namespace), metadata["name"], spec.artifacts))
    if not jobs:
        raise CliError(f"{folder} holds no InstructBoothJob; make them by `instructbooth dreambench manifests`")
    if len({(job.artifacts.endpoint, job.artifacts.bucket) for job in jobs}) > 1:
        raise CliError(f"the jobs in {folder} keep their artifacts in several buckets; collect them apart")
    return jobs


def _stores(jobs: list[Job], roots: tuple[Path, ...], kube: KubeOptions, stack: ExitStack) -> list[ObjectStore]:
    artifacts = jobs[0].artifacts
    if roots:
        return [LocalStore(root, artifacts.bucket) for root in roots]
    cluster = Cluster(KubeOptions(kube.context, kube.namespace or jobs[0].namespace))
    return [stack.enter_context(opened(artifacts, cluster))]


def _chosen(data: DataSet, names: tuple[str, ...]) -> list[BenchSubject]:
    return [data.subject(name) for name in names] if names else list(data.subjects)


def _kind(subject: BenchSubject) -> str:
    return f"live subject, {subject.class_name}" if subject.is_live else f"object, {subject.class_name}"


def _pair(text: str) -> tuple[str, str]:
    name, equals, uid = text.partition("=")
    if not (name and equals and uid):
        raise click.UsageError(f"--run {text}: JOB=UID is expected")
    return name, uid


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataSetError(f"cannot read {path}: {error}") from error


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except DataSetError as error:
        raise CliError(str(error)) from error
