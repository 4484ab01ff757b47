"""`instructbooth run`: the whole method on this machine, no cluster."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import click
from rich.markup import escape

from instructbooth.cli.local import Interrupted, LocalRun
from instructbooth.cli.localize import LocalInputs, Localized, lay, localize
from instructbooth.cli.manifests import Manifest, read_manifests, require_valid
from instructbooth.cli.output import CliError, note, out
from instructbooth.cli.pictures import picture_files
from instructbooth.cli.progress import stage_progress
from instructbooth.cli.render import evaluation_table
from instructbooth.cli.transfer import download
from instructbooth.cli.validate import manifest_option
from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@manifest_option
@click.option("--out", "folder", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder for results, checkpoints and logs. The same command again goes on from there.")  # fmt: skip
@click.option("--images", type=_FOLDER, help="The subject's pictures.")
@click.option("--prompts", type=_FOLDER, help="Folder with the prompt files that the manifest takes from elsewhere.")
@click.option("--model", "models", multiple=True, metavar="[PREFIX=]FOLDER",
              help="The base model, or the folder that stands for an S3 prefix. Repeatable.")  # fmt: skip
@click.option("--volume", "volumes", multiple=True, metavar="CLAIM=FOLDER", help="Folder that stands for a claim.")
@click.option("--cpu", is_flag=True, help="Train on the CPU, whatever gpusPerNode says.")
@click.option("--nodes", type=click.IntRange(min=1), help="At most so many nodes; each is a process here.")
@click.option("-v", "--verbose", is_flag=True, help="Show every line of the trainers.")
def run(
    path: Path,
    folder: Path,
    images: Path | None,
    prompts: Path | None,
    models: tuple[str, ...],
    volumes: tuple[str, ...],
    cpu: bool,
    nodes: int | None,
    verbose: bool,
) -> None:
    """Run a job's three stages on this machine, without a cluster.

    Nodes of a gang become processes. What the manifest takes from ConfigMaps, volumes and S3 comes from folders.
    """
    require_trainer()
    manifest = read_manifests(path).one_job()
    spec = require_valid(manifest, path)
    if images:
        picture_files(images)
    base, prefixes = _models(models)
    inputs = LocalInputs(images, prompts, base, prefixes, _pairs("--volume", volumes))
    store = folder.absolute() / "store"
    localized = localize(spec, inputs, store, cpu=cpu, max_nodes=nodes)
    _require_own_gpus(localized)
    lay(store, localized.mounts)
    job = _resolved(manifest, localized)
    logs = folder.absolute() / "logs" / job.uid
    local = LocalRun(job, store, logs, partial(stage_progress, verbose=verbose))
    again = f"the same command goes on from the last checkpoint; log: {logs}"
    try:
        with _sigterm_like_ctrl_c():
            attempts = local.run()
    except Interrupted:
        note(again)
        raise SystemExit(130) from None
    except BlockingIOError as error:
        raise CliError(f"{folder}: another run of this job still goes on, or a trainer that it left behind") from error
    for stage, attempt in attempts.items():
        files = download(local.bucket, local.layout.output(stage, attempt), folder / stage.value).files
        out().print(f"{stage.value}: {len(files)} files in {escape(str(folder / stage.value))}")
    _print_evaluation(logs, attempts)


def require_trainer() -> None:
    """Raises CliError if the trainer cannot be imported here."""
    absent = [name for name in ("instructbooth_trainer", "torch", "diffusers") if not importlib.util.find_spec(name)]
    if absent:
        raise CliError(f"run needs the trainer ({', '.join(absent)} absent): pip install 'instructbooth[trainer]'")


def _models(values: tuple[str, ...]) -> tuple[Path | None, dict[str, Path]]:
    bases = [value for value in values if "=" not in value]
    if len(bases) > 1:
        raise click.UsageError(f"--model: there is one base model, not {len(bases)}; PREFIX=FOLDER for others")
    pairs = _pairs("--model", tuple(value for value in values if "=" in value))
    return _folder("--model", bases[0]) if bases else None, {k.strip("/"): v for k, v in pairs.items()}


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, Path]:
    pairs = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise click.UsageError(f"{option} {value}: NAME=FOLDER is expected")
        pairs[name] = _folder(option, folder)
    return pairs


def _folder(option: str, text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise click.UsageError(f"{option}: {text} is not a folder")
    return path


def _require_own_gpus(localized: Localized) -> None:
    for stage in Stage:
        shape = localized.spec.stage(stage)
        if shape.nodes > 1 and shape.gpus_per_node > 0:
            raise CliError(
                f"{stage.value}: {shape.nodes} nodes of {shape.gpus_per_node} GPUs would share the GPUs of this one; "
                "--nodes 1 takes one node, --cpu none of its GPUs"
            )


def _resolved(manifest: Manifest, localized: Localized) -> ResolvedJob:
    metadata = manifest["metadata"]
    namespace = metadata.get("namespace", "local")
    return ResolvedJob(namespace=namespace, name=metadata["name"], uid=localized.uid, spec=localized.spec)


def _print_evaluation(logs: Path, attempts: dict[Stage, int]) -> None:
    """The table of the evaluation, from the word its attempt left; it is in evaluation.json in any case."""
    path = logs / f"{Stage.EVALUATE.value}-{attempts[Stage.EVALUATE]}-0.json"
    if not path.exists():
        return
    table: dict[str, dict[str, float]] = {}
    for key, value in json.loads(path.read_text()).get("metrics", {}).items():
        model, _, metric = key.partition("/")
        table.setdefault(model, {})[metric] = value
    if table:
        out().print(evaluation_table(table))


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
