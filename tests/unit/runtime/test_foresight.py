"""The first stage looks for what the later ones will load, and says which field is wrong before anything is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RevisionNotFoundError

from instructbooth.artifacts.local import LocalStore
from instructbooth.spec.job import InstructBoothJobSpec
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.foresight import foresee
from instructbooth_trainer.runtime.sources import Sources
from tests.unit.reconcile.world import job_object

HUB = {"hub": {"repo": "openai/clip-vit-base-patch32", "revision": "3" * 40}}
CLIP, DINO = {"s3": {"prefix": "models/clip"}}, {"s3": {"prefix": "models/dino"}}


def spec(**changes: Any) -> InstructBoothJobSpec:
    given = job_object()["spec"]
    given["reinforcement"] = given["reinforcement"] | {"rewards": [{"name": "clip-score", "model": CLIP}]}
    given["evaluation"] = given["evaluation"] | {"metrics": [{"name": "clip-i", "model": CLIP}]}
    for stage, fields in changes.items():
        given[stage] = given[stage] | fields
    return InstructBoothJobSpec.model_validate(given)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "store", "runs")
    base = job_object()["spec"]["model"]["source"]["s3"]["prefix"]
    made.put_bytes(f"{base}/unet/diffusion_pytorch_model.safetensors", b"never read")
    for prefix in ("models/clip", "models/dino"):
        made.put_bytes(f"{prefix}/config.json", b"{}")
    made.put_bytes("models/clip/model.safetensors", b"never read")
    made.put_bytes("prompts/plain.txt", b"a mascot on a beach")
    made.put_bytes("models/dino/pytorch_model.bin", b"never read")
    return made


@pytest.fixture
def sources(store: LocalStore, tmp_path: Path) -> Sources:
    return Sources(store, tmp_path / "scratch", None, beat=lambda: None)


def test_what_is_there_is_found_and_nothing_is_downloaded(sources: Sources, tmp_path: Path) -> None:
    foresee(spec(), sources)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("changes", "field", "reason", "said"),
    [
        (
            {
                "evaluation": {
                    "metrics": [{"name": "clip-i", "model": CLIP}, {"name": "subject-identity", "model": DINO}]
                }
            },
            r"spec\.evaluation\.metrics\[1\]\.model, which evaluate loads: ",
            "ModelInvalid",
            "but pytorch_model.bin; pickle files can run code",
        ),
        (
            {"reinforcement": {"rewards": [{"name": "clip-score", "model": {"s3": {"prefix": "models/none"}}}]}},
            r"spec\.reinforcement\.rewards\[0\]\.model, which reinforce loads: there is no object below ",
            "ModelNotFound",
            "check the model's s3.prefix",
        ),
        (
            {"reinforcement": {"guards": {"identity": {"name": "subject-identity", "model": DINO, "floor": 0.5}}}},
            r"spec\.reinforcement\.guards\.identity\.model",
            "ModelInvalid",
            "safe_serialization=True",
        ),
        (
            {"model": {"source": {"s3": {"prefix": "models/none"}}}},
            r"spec\.model\.source, which personalize loads: there is no object below ",
            "ModelNotFound",
            "s3.prefix",
        ),
        (
            {"evaluation": {"prompts": {"s3": {"prefix": "prompts/none.txt"}}}},
            "evaluation prompts: there is no object",
            "PromptsNotFound",
            "correct the prefix",
        ),
        (
            {"reinforcement": {"prompts": {"s3": {"prefix": "prompts/plain.txt"}}}},
            "none of the 1 prompts names the subject",
            "PromptsWithoutSubject",
            "{subject}",
        ),
    ],
)
def test_what_a_later_stage_would_fail_for_is_said_now(
    sources: Sources, changes: dict[str, Any], field: str, reason: str, said: str
) -> None:
    with pytest.raises(UserError, match=field) as caught:
        foresee(spec(**changes), sources)
    assert caught.value.reason == reason
    assert said in caught.value.message


def shown(monkeypatch: pytest.MonkeyPatch, files: list[str] | Exception) -> None:
    def model_info(_: object, repo: str, *, revision: str, token: str | bool, timeout: float) -> SimpleNamespace:
        assert (repo, revision, token) == (HUB["hub"]["repo"], HUB["hub"]["revision"], False)
        if isinstance(files, Exception):
            raise files
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(HfApi, "model_info", model_info)


@pytest.mark.parametrize("files", [["config.json", "model.safetensors"], ["ImageReward.pt"], ["a/model.safetensors"]])
def test_a_repository_with_weights(sources: Sources, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    shown(monkeypatch, files)
    foresee(spec(evaluation={"metrics": [{"name": "clip-i", "model": HUB}]}), sources)


@pytest.mark.parametrize(
    "files", [["config.json", "pytorch_model.bin"], ["pytorch_model.bin", "open_clip.safetensors"]]
)
def test_a_repository_without(sources: Sources, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    """As the CLIP of DreamBench's protocol on its main branch: the second's checkpoint is for another program."""
    shown(monkeypatch, files)
    with pytest.raises(
        UserError, match=r"metrics\[0\]\.model, .* holds no \*\.safetensors file \(but pytorch_model\.bin"
    ):
        foresee(spec(evaluation={"metrics": [{"name": "clip-i", "model": HUB}]}), sources)


def test_a_lora_to_start_from_is_not_taken_for_a_model(sources: Sources) -> None:
    adapter = {"s3": {"prefix": "models/none"}}  # its stage reads it at once, and says so itself
    given = spec().to_wire()
    given["personalization"] = {"adapter": adapter}
    foresee(InstructBoothJobSpec.model_validate(given), sources)


def test_a_mirror_that_names_no_files_says_nothing(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, [])
    foresee(spec(evaluation={"metrics": [{"name": "clip-i", "model": HUB}]}), sources)


def test_each_repository_is_asked_for_once_and_none_that_is_in_the_cache(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []
    sources = Sources(store, tmp_path / "scratch", tmp_path / "cache", beat=lambda: beats.append(1))
    metrics = [{"name": "clip-i", "model": HUB}, {"name": "clip-score", "model": HUB}]
    asked: list[int] = []

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        asked.append(1)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors")])

    monkeypatch.setattr(HfApi, "model_info", model_info)
    foresee(spec(evaluation={"metrics": metrics}), sources)
    assert (len(asked), len(beats)) == (1, 3), "the base model, the reward's, and this one"
    folder = tmp_path / "cache/models/hub" / HUB["hub"]["repo"].replace("/", "--") / HUB["hub"]["revision"]
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"no \*\.safetensors file \(but pytorch_model\.bin"):
        foresee(spec(evaluation={"metrics": metrics}), sources)
    (folder / "model.safetensors").write_bytes(b"never read")
    foresee(spec(evaluation={"metrics": metrics}), sources)
    assert len(asked) == 1


def test_a_repository_without_that_revision(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = httpx2.Response(404, request=httpx2.Request("GET", "https://hub.test"))
    shown(monkeypatch, RevisionNotFoundError("no", response=answer))
    with pytest.raises(UserError, match=r"the hub has no openai/clip-vit-base-patch32@333") as caught:
        foresee(spec(evaluation={"metrics": [{"name": "clip-i", "model": HUB}]}), sources)
    assert caught.value.reason == "ModelNotFound"


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("odd"), TimeoutError()])
def test_what_cannot_be_told_now_is_left_to_its_stage(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shown(monkeypatch, error)
    unmounted = {"pvc": {"claimName": "models"}}
    metrics = [{"name": "clip-i", "model": HUB}, {"name": "subject-identity", "model": unmounted}]
    prompts = {"configMap": {"name": "prompts", "key": "held.txt"}}
    foresee(spec(evaluation={"metrics": metrics, "prompts": prompts}), sources)
