"""`validate` names the field, the value, the bound and the way out; `crd` prints what is committed."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from instructbooth.cli.main import cli
from instructbooth.cli.manifests import find_manifest_problems, read_manifests
from instructbooth.cli.output import CliError
from tests.unit.spec.examples import BAD, ROOT, bad, demo


def run(*args: str):
    return CliRunner().invoke(cli, list(args))


def write(folder: Path, *documents: object) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda p: p.name)
def test_examples_are_valid(path):
    result = run("validate", "-f", str(path))
    assert result.exit_code == 0, result.output
    assert "valid InstructBoothJob/" in result.stdout


@pytest.mark.parametrize("name", BAD)
def test_bad_manifest_is_refused_at_its_field(name, tmp_path):
    manifest, path = bad(name)
    result = run("validate", "-f", write(tmp_path, manifest))
    assert result.exit_code == 1
    assert re.search(rf"^  {re.escape(path)}[:.]", result.stderr, re.MULTILINE), result.stderr  # or a key within
    assert len([line for line in result.stderr.splitlines() if line.startswith("  ")]) == 1, result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown-field", "did you mean steps?"),
        ("negative-steps", "-1 must be greater than or equal to 1"),
        ("malformed-quantity", "'4 gigs' is not a quantity such as 500m"),
        ("identifier-in-class-noun", "'sks': the identifier must not be a word of className"),
        ("unpinned-revision", "'main' must match pattern"),
        ("images-missing", "required but absent"),
        ("text-for-a-number", "'many' must be a valid integer"),
    ],
)
def test_message_has_value_bound_and_way_out(name, words, tmp_path):
    manifest, _ = bad(name)
    assert words in run("validate", "-f", write(tmp_path, manifest)).stderr


def test_all_problems_are_listed_at_once(tmp_path):
    manifest = demo()
    manifest["spec"]["personalization"]["steps"] = 0
    manifest["spec"]["evaluation"]["metrics"][1]["nmae"] = "x"
    manifest["metadata"]["name"] = "Demo_1"
    stderr = run("validate", "-f", write(tmp_path, manifest)).stderr
    for field in ("spec.personalization.steps", "spec.evaluation.metrics[1].nmae", "metadata.name"):
        assert f"  {field}: " in stderr


def test_the_api_server_takes_no_text_for_a_number_and_neither_do_we(tmp_path):
    manifest = demo()
    manifest["spec"]["personalization"]["steps"] = "300"
    assert find_manifest_problems(manifest)[0].field == "spec.personalization.steps"


def test_numbers_are_read_as_kubectl_reads_them(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text((ROOT / "examples/demo/job.yaml").read_text().replace("3.0e-3", "3e-3"))
    job = read_manifests(path).one_job()
    assert job["spec"]["personalization"]["learningRate"] == 3e-3
    assert find_manifest_problems(job) == []


def test_key_given_twice_is_an_error(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("kind: InstructBoothJob\nspec: {}\nspec: {}\n")
    result = run("validate", "-f", str(path))
    assert result.exit_code == 1
    assert "'spec' is given twice" in result.stderr


def test_other_documents_are_passed_over_with_a_note(tmp_path):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}}
    result = run("validate", "-f", write(tmp_path, secret, demo()))
    assert result.exit_code == 0
    assert "Secret/s3" in result.stderr


def test_file_without_job_is_an_error(tmp_path):
    result = run("validate", "-f", write(tmp_path, {"kind": "Secret"}))
    assert result.exit_code == 1
    assert "no InstructBoothJob" in result.stderr


@pytest.mark.parametrize("name", ["x" * 64, "UPPER", "-a", ""])
def test_name_must_fit_a_label(name):
    manifest = demo()
    manifest["metadata"]["name"] = name
    assert [p.field for p in find_manifest_problems(manifest)] == ["metadata.name"]


def test_one_job_refuses_several(tmp_path):
    found = read_manifests(Path(write(tmp_path, demo(), copy.deepcopy(demo()))))
    with pytest.raises(CliError, match="2 InstructBoothJobs"):
        found.one_job()


def test_crd_is_what_is_committed():
    result = run("crd")
    assert result.stdout == (ROOT / "crds/instructboothjobs.instructbooth.io.yaml").read_text()
