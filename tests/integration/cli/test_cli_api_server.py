"""`submit` and `status` against the real API server."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import pytest

from tests.unit.spec.examples import BAD, bad, demo

RUNNING: dict[str, Any] = {"phase": "Personalizing", "stage": "personalize", "progress": "10% 1m"}
DONE: dict[str, Any] = {"phase": "Succeeded", "evaluation": {"base": {"oracle": 0.25}, "reinforced": {"oracle": 0.75}}}


def test_submit_makes_pictures_and_job(bench, pictures):
    path = bench.write(demo())
    result = bench.run("submit", "-f", path, "--from-folder", str(pictures))
    assert result.exit_code == 0, result.output
    assert f"InstructBoothJob/demo submitted to namespace {bench.namespace}" in result.stdout
    data = bench.get("configmaps/demo-subject")["binaryData"]
    assert {name: base64.b64decode(text) for name, text in data.items()} == {
        path.name: path.read_bytes() for path in pictures.iterdir()
    }
    assert bench.job()["spec"]["subject"]["className"] == "mascot"


def test_submit_again_changes_nothing_and_pictures_follow_the_folder(bench, pictures):
    path = bench.write(demo())
    bench.run("submit", "-f", path, "--from-folder", str(pictures))
    generation = bench.job()["metadata"]["generation"]
    (pictures / "0.png").unlink()
    result = bench.run("submit", "-f", path, "--from-folder", str(pictures))
    assert result.exit_code == 0, result.output
    assert bench.job()["metadata"]["generation"] == generation
    assert sorted(bench.get("configmaps/demo-subject")["binaryData"]) == ["1.png", "2.png"]


def test_run_policy_may_change_and_nothing_else(bench):
    manifest = demo()
    bench.run("submit", "-f", bench.write(manifest))
    manifest["spec"]["runPolicy"] = {"suspend": True}
    assert bench.run("submit", "-f", bench.write(manifest)).exit_code == 0
    assert bench.job()["spec"]["runPolicy"]["suspend"] is True
    manifest["spec"]["personalization"]["steps"] = 7
    result = bench.run("submit", "-f", bench.write(manifest))
    assert result.exit_code == 1
    assert "spec.personalization cannot be changed after creation" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", BAD)
def test_the_servers_own_refusal_is_readable(bench, name):
    manifest, field = bad(name)
    result = bench.run("submit", "-f", bench.write(manifest), "--no-validate")
    assert result.exit_code == 1
    # The server gives an index where a value of a list is wrong, as we do; its rules are the list's own.
    assert field in result.stderr or field in result.stderr.replace("[0]", ""), result.stderr
    assert '{"kind"' not in result.stderr
    assert len(result.stderr) < 2000


def test_missing_namespace_is_named(bench):
    bench.namespace = "nowhere"
    result = bench.run("submit", "-f", bench.write(demo()))
    assert result.exit_code == 1
    assert "there is no namespace nowhere" in result.stderr


def test_missing_job_is_named(bench):
    result = bench.run("status", "absent")
    assert result.exit_code == 1
    assert f"InstructBoothJob {bench.namespace}/absent does not exist" in result.stderr


def test_lack_of_permission_keeps_the_servers_words(bench):
    result = bench.run("status", "demo", user="stranger")
    assert result.exit_code == 1
    assert 'User "stranger" cannot get resource "instructboothjobs"' in result.stderr


def test_api_server_that_is_not_there(bench, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(bench.plane.kubeconfig("admin").read_text().replace(str(bench.plane.port), "1"))
    result = bench.run("status", "demo", KUBECONFIG=str(kubeconfig))
    assert result.exit_code == 1
    assert "cannot reach the API server https://127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output


def test_unknown_context(bench):
    result = bench.run("status", "demo", "--context", "other")
    assert result.exit_code == 1
    assert "other" in result.stderr
    assert "--context" in result.stderr


def test_status_as_table_and_as_json(bench):
    bench.run("submit", "-f", bench.write(demo()))
    assert "Pending" in bench.run("status", "demo").stdout
    bench.set_status(RUNNING)
    assert "Personalizing" in bench.run("status", "demo").stdout
    shown = json.loads(bench.run("status", "demo", "-o", "json").stdout)
    assert shown.items() >= RUNNING.items()


def test_watch_follows_to_the_end(bench):
    path = bench.write(demo())

    def operator() -> None:
        bench.plane.wait("the job", bench.jobs)
        for status in (RUNNING, DONE):
            time.sleep(4)
            bench.set_status(status)

    acting = threading.Thread(target=operator)
    acting.start()
    result = bench.run("submit", "-f", path, "--watch")
    acting.join()
    assert result.exit_code == 0, result.output
    phases = [line.split()[1] for line in result.stdout.splitlines() if line[2:3] == ":"]
    assert phases == ["Pending", "Personalizing", "Succeeded"]
    assert ["reinforced", "0.750"] in [line.split() for line in result.stdout.splitlines()]


def test_watch_of_a_failed_job_exits_with_one(bench):
    bench.run("submit", "-f", bench.write(demo()))
    bench.set_status({"phase": "Failed"})
    result = bench.run("status", "demo", "--watch")
    assert result.exit_code == 1
    assert f"{bench.namespace}/demo failed; its log: instructbooth logs demo" in result.stderr


def test_logs_without_pods_say_why(bench):
    bench.run("submit", "-f", bench.write(demo()))
    failure = {"attempt": 1, "reason": "BucketNotFound", "message": "the bucket x does not exist"}
    bench.set_status({"phase": "Failed", "stages": [{"name": "personalize", "state": "Failed", "failure": failure}]})
    result = bench.run("logs", "demo")
    assert result.exit_code == 1
    assert "personalize attempt 1 ended with BucketNotFound: the bucket x does not exist" in result.stderr
