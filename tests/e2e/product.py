"""Installing the product and feeding it, as README says a user does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.e2e import lab

VALUES = "tests/e2e/values.yaml"
RELEASE = "instructbooth"
DEFINITION = "instructboothjobs.instructbooth.io"
TAG = "dev"  # of the images, in VALUES
WEIGHTS = "miniature/weights"
MODELS = "models/miniature"


def install() -> None:
    """Helm-install (or upgrade) operator and MinIO into their namespace, and wait until they are ready.

    Raises LabError where somebody else's installation is: with CLUSTER=current it may be one that people work with.
    """
    found = lab.run("kubectl", "get", "crd", DEFINITION, "--ignore-not-found", "--output", "json", check=False)
    notes = json.loads(found)["metadata"].get("annotations", {}) if found else {}
    release = [notes.get(f"meta.helm.sh/release-{part}") for part in ("namespace", "name")]
    if any(release) and release != [lab.SYSTEM, RELEASE]:
        raise lab.LabError(f"the cluster's InstructBoothJobs are those of the release {'/'.join(map(str, release))}")
    said = lab.run("helm", "get", "values", RELEASE, "--namespace", lab.SYSTEM, "--output", "json", check=False)
    image = ((json.loads(said or "{}") or {}).get("operator") or {}).get("image") or {}
    if said and image.get("tag") != TAG:
        raise lab.LabError(
            f"the cluster has a release {RELEASE} in {lab.SYSTEM} that is not of this checkout (its operator's tag is "
            f"{image.get('tag')!r}); `helm uninstall -n {lab.SYSTEM} {RELEASE}` first, or choose another cluster"
        )
    lab.run(
        "helm",
        "upgrade",
        "--install",
        RELEASE,
        "charts/instructbooth",
        "--namespace",
        lab.SYSTEM,
        "--create-namespace",
        "--take-ownership",  # the definition outlives releases, and other tests apply it by themselves
        "--values",
        VALUES,
        # The tag stays the same when the image is built anew: without this the operator of before would go on.
        "--set-string",
        f"operator.podAnnotations.source={_source_hash('operator')}",
        "--wait",
        "--timeout",
        "5m",
    )


def _source_hash(image: str) -> str:
    """A name for everything that one of our images is made of in this checkout."""
    code = f"from raising.images import content_hash; print(content_hash({image!r}))"
    return lab.run("env", "PYTHONPATH=tests/cluster", "python3", "-c", code).strip()


def install_prometheus() -> None:
    """The demo's Prometheus, which scrapes operator and trainers."""
    lab.kubectl("apply", "-k", "tests/cluster/prometheus/")
    lab.kubectl("rollout", "status", "-n", lab.MONITORING, "deployment/prometheus", "--timeout=120s")


def upload_models(namespace: str, manifest: str) -> None:
    """Put the miniature world's models where the manifest looks for them."""
    for folder in ("pipeline", "clip", "fidelity"):
        lab.instructbooth(
            "artifacts", "put", f"{WEIGHTS}/{folder}", f"{MODELS}/{folder}", "-f", manifest, "-n", namespace
        )


def redraw(out: Path) -> str:
    """Redraw the reinforced model's first picture from the fetched LoRA in a fresh process; raises unless equal."""
    pictures = json.loads((out / "evaluate" / "evaluation.json").read_text())["pictures"]
    number = next(index for index, picture in enumerate(pictures) if picture["model"] == "reinforced")
    return lab.run(
        sys.executable,
        "-m",
        "instructbooth_trainer.redraw",
        "--model",
        f"{WEIGHTS}/pipeline",
        "--lora",
        str(out / "reinforce" / "pytorch_lora_weights.safetensors"),
        "--evaluation",
        str(out / "evaluate" / "evaluation.json"),
        "--picture",
        str(number),
    )
