"""Pictures that become a ConfigMap, and what the API server's refusals read like."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from click.testing import CliRunner

from instructbooth.cli.cluster import _explain
from instructbooth.cli.main import cli
from instructbooth.cli.output import CliError
from instructbooth.cli.pictures import CONFIG_MAP_LIMIT, config_map_data
from instructbooth.cli.submit import images_config_map
from tests.unit.spec.examples import demo

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    for name in ("1.png", "2 b.PNG", "3.jpg"):
        (path / name).write_bytes((PNG if "g" in name.lower()[-3:] and "j" not in name else b"\xff\xd8\xff") + b"x")
    return path


def test_keys_are_names_a_config_map_takes(folder):
    assert sorted(config_map_data(folder)) == ["1.png", "2-b.PNG", "3.jpg"]


def test_captions_go_with_their_pictures(folder, capsys):
    for name in ("1.txt", "2 b.txt", "metadata.jsonl", "other.txt"):
        (folder / name).write_text("a {subject}")
    data = config_map_data(folder)
    assert sorted(data) == ["1.png", "1.txt", "2-b.PNG", "2-b.txt", "3.jpg", "metadata.jsonl"]
    assert data["1.txt"] == b"a {subject}"
    assert "passed over: other.txt" in capsys.readouterr().err


def test_text_called_png_is_refused_by_name(folder):
    (folder / "4.png").write_text("I am no picture")
    with pytest.raises(CliError, match=r"4\.png is called \.png but holds no PNG"):
        config_map_data(folder)


def test_what_is_no_picture_is_passed_over_with_a_note(folder, capsys):
    (folder / "README.md").write_text("x")
    (folder / ".DS_Store").write_text("x")
    assert len(config_map_data(folder)) == 3
    assert "README.md" in capsys.readouterr().err


def test_too_large_for_a_config_map_names_the_bound_and_the_way_out(folder):
    (folder / "4.png").write_bytes(PNG + b"\0" * CONFIG_MAP_LIMIT)
    with pytest.raises(CliError) as caught:
        config_map_data(folder)
    for words in ("1.0 MiB", "instructbooth artifacts put", "spec.subject.images.s3"):
        assert words in caught.value.message


def test_exactly_what_fits_is_taken(folder):
    rest = CONFIG_MAP_LIMIT - sum(p.stat().st_size for p in folder.iterdir())
    (folder / "4.png").write_bytes(PNG + b"\0" * (rest - len(PNG)))
    assert sum(map(len, config_map_data(folder).values())) == CONFIG_MAP_LIMIT


def test_two_files_of_one_key_are_refused(folder):
    (folder / "2-b.PNG").write_bytes(PNG)
    with pytest.raises(CliError, match=r"2-b\.PNG"):
        config_map_data(folder)


def test_no_pictures_is_an_error(tmp_path):
    with pytest.raises(CliError, match="holds no picture"):
        config_map_data(tmp_path)


def test_few_pictures_are_noted(tmp_path, capsys):
    (tmp_path / "1.png").write_bytes(PNG)
    config_map_data(tmp_path)
    assert "1 pictures; 3 to 6" in capsys.readouterr().err


def test_name_of_the_config_map_is_the_jobs():
    assert images_config_map(demo()) == "demo-subject"
    job = demo()
    job["spec"]["subject"]["images"] = {"s3": {"prefix": "subjects/a"}}
    with pytest.raises(CliError, match="takes its pictures from s3"):
        images_config_map(job)


def test_submit_checks_before_it_speaks_to_a_cluster(tmp_path):
    job = demo()
    job["spec"]["personalization"]["steps"] = 0
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    result = CliRunner().invoke(cli, ["submit", "-f", str(path)], env={"KUBECONFIG": os.devnull})
    assert result.exit_code == 1
    assert "spec.personalization.steps: 0 must be greater than or equal to 1" in result.stderr


def test_without_a_cluster_the_way_out_is_named(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(demo()))
    result = CliRunner().invoke(cli, ["submit", "-f", str(path)], env={"KUBECONFIG": os.devnull})
    assert result.exit_code == 1
    assert "set KUBECONFIG or choose with --context" in result.stderr


def test_two_namespaces_are_refused(tmp_path):
    job = demo()
    job["metadata"]["namespace"] = "a"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    result = CliRunner().invoke(cli, ["submit", "-f", str(path), "-n", "b"], env={"KUBECONFIG": os.devnull})
    assert result.exit_code == 1
    assert "metadata.namespace is a but -n says b" in result.stderr


def status(code: int, message: str, **details: object) -> tuple[int, str, str]:
    return code, json.dumps({"kind": "Status", "message": message, "details": details}), "InstructBoothJob ns/demo"


def test_refusal_has_one_line_per_field():
    causes = [{"field": "spec.a", "message": "must be > 0"}, {"message": "other"}]
    assert _explain(*status(422, "x is invalid", name="demo", causes=causes)).splitlines() == [
        "the API server refuses InstructBoothJob ns/demo:",
        "  spec.a: must be > 0",
        "  other",
    ]


def test_missing_definition_is_told_from_a_missing_job():
    assert "does not exist; -n chooses" in _explain(*status(404, "not found", name="demo"))
    assert "there is no namespace ns; make it" in _explain(*status(404, "not found", name="ns", kind="namespaces"))
    assert "install the chart" in _explain(404, "404 page not found\n", "InstructBoothJob ns/demo")


@pytest.mark.parametrize(("code", "words"), [(401, "log in again"), (403, "cannot get"), (500, "boom")])
def test_other_answers_keep_the_servers_words(code, words):
    assert words in _explain(*status(code, "user cannot get: boom"))
