"""What is asked of the hub, and how its refusals are told. (The hub itself cannot be reached from where tests run.)"""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from instructbooth.spec.sources import HubSource
from instructbooth_trainer.runtime import hub
from instructbooth_trainer.runtime.errors import RunError, TransientError, UserError

SOURCE = HubSource(repo="owner/model", revision="0" * 40)
# What repositories of Stable Diffusion 1.5 and of a CLIP hold, in part.
FILES = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "tokenizer/merges.txt",
    "safety_checker/model.safetensors",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "HPS_v2.1_compressed.pt",
    "HPS_v2_compressed.pt",
    "handler.py",
]


def test_only_what_is_needed_and_cannot_run_code_is_asked_for() -> None:
    assert list(filter_repo_objects(FILES, allow_patterns=hub.ALLOWED, ignore_patterns=hub.IGNORED)) == [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "HPS_v2.1_compressed.pt",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (GatedRepoError, UserError, "ModelForbidden"),
        (RevisionNotFoundError, UserError, "ModelNotFound"),
        (LocalEntryNotFoundError, TransientError, "HubUnreachable"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception], kind: type[RunError], reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        if error is LocalEntryNotFoundError:
            raise LocalEntryNotFoundError("no connection")
        raise error("refused", response=httpx2.Response(403, request=httpx2.Request("GET", "https://hub.test")))  # type: ignore[call-arg]

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(kind, match="owner/model@0000") as caught:
        hub.download_snapshot(SOURCE, tmp_path, None)
    assert caught.value.reason == reason
