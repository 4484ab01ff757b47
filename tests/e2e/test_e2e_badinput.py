"""What only the cluster can know is wrong: each becomes a condition with reason and remedy, and no restart storm."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.e2e import jobs, lab

BUCKET = "instructbooth"


@pytest.fixture(scope="module")
def broken(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, lab.Object]:
    """All the bad jobs, running side by side."""
    folder: Path = tmp_path_factory.mktemp("broken")
    (folder / "picture.png").write_text("this is not a picture")
    (folder / "prompts.txt").write_text("a mascot on a beach\na mascot in the snow\n")
    lab.apply(_config_map("text-picture", {"picture.png": (folder / "picture.png").read_bytes()}), namespace=namespace)
    lab.apply(_config_map("no-subject", {"prompts.txt": (folder / "prompts.txt").read_bytes()}), namespace=namespace)
    lab.apply(_secret("wrong-credentials", "nobody", "not-the-password"), namespace=namespace)
    model = folder / "model"
    lab.run("cp", "-r", "miniature/weights/pipeline", str(model))
    torn = model / "unet" / "diffusion_pytorch_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    lab.instructbooth("artifacts", "put", str(model), "models/torn", "-f", "examples/demo/job.yaml", "-n", namespace)
    manifests = {
        "missing-secret": jobs.small("missing-secret", artifacts__credentialsSecretRef={"name": "not-there"}),
        "wrong-key": jobs.small("wrong-key", artifacts__credentialsSecretRef={"name": "wrong-credentials"}),
        "unreachable": jobs.small("unreachable", artifacts__endpoint="http://nobody.nowhere.svc:9000"),
        "no-bucket": jobs.small("no-bucket", artifacts__bucket="not-there", artifacts__createBucket=False),
        "text-picture": jobs.small("text-picture", subject__images={"configMap": {"name": "text-picture"}}),
        "torn-model": jobs.small("torn-model", model__source={"s3": {"prefix": "models/torn"}}),
        "no-subject": jobs.small("no-subject", reinforcement__prompts={"configMap": {"name": "no-subject"}}),
    }
    manifests["unreachable"]["spec"]["runPolicy"] = {"backoffLimit": 0}
    for manifest in manifests.values():
        jobs.submit(manifest, namespace=namespace)
    return manifests


def _config_map(name: str, files: dict[str, bytes]) -> lab.Object:
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": data}


def _secret(name: str, access: str, secret: str) -> lab.Object:
    data = {"accessKey": access, "secretKey": secret}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("wrong-key", "AccessDenied", ("wrong-credentials",)),
        ("no-bucket", "BucketNotFound", ("not-there", "createBucket")),
        ("unreachable", "BackoffLimitExceeded", ("EndpointUnreachable", "nobody.nowhere.svc")),
        ("text-picture", "SubjectImagesInvalid", ("picture.png",)),
        ("torn-model", "ModelInvalid", ("diffusion_pytorch_model.safetensors",)),
        ("no-subject", "PromptsWithoutSubject", ("{subject}",)),
    ],
)
def test_user_error_fails_once_with_reason_and_remedy(namespace, broken, name, reason, words):
    job = lab.wait_finished(name, namespace=namespace, seconds=400)
    failed = lab.condition(job, "Failed")
    assert (job["status"]["phase"], failed["status"], failed["reason"]) == ("Failed", "True", reason), job["status"]
    for word in words:
        assert word in failed["message"]
    assert all(stage["restarts"]["failures"] == 0 for stage in job["status"]["stages"])


def test_artifacts_of_earlier_stages_are_kept(namespace, broken):
    job = lab.wait_finished("no-subject", namespace=namespace, seconds=400)
    assert lab.stage(job, "personalize")["state"] == "Succeeded"
    assert lab.stage(job, "reinforce")["state"] == "Failed"
    listed = lab.instructbooth("artifacts", "ls", "no-subject", "-n", namespace)
    assert "pytorch_lora_weights.safetensors" in listed


def test_missing_secret_blocks_until_it_is_made(namespace, broken):
    def blocked() -> bool:
        return bool(lab.condition(lab.job("missing-secret", namespace=namespace), "Blocked")["status"] == "True")

    lab.wait("the job to be blocked", blocked, seconds=90)
    condition = lab.condition(lab.job("missing-secret", namespace=namespace), "Blocked")
    assert "not-there" in condition["message"]
    lab.apply(_secret("not-there", *lab.credentials()), namespace=namespace)
    lab.wait("the job to go on", lambda: not blocked(), seconds=120)
    assert lab.stage(lab.job("missing-secret", namespace=namespace), "personalize")["attempt"] == 1
