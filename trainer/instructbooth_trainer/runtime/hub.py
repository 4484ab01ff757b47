"""The Hugging Face hub: one pinned commit, and of it only what cannot run code."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from instructbooth.spec.sources import HubSource
from instructbooth_trainer.runtime.errors import TransientError, UserError

log = logging.getLogger(__name__)

# Published as pickles only. Only the rewards of their names open them, with torch.load(weights_only=True), which makes
# tensors and runs nothing.
PUBLISHED_PICKLES = frozenset({"HPS_v2.1_compressed.pt", "ImageReward.pt"})

# Root-level checkpoints of the original repositories (several GB each, for other programs) are not asked for, nor the
# text encoders that Stable Diffusion 3 keeps for them.
ALLOWED = [
    "*.json",
    "*.txt",
    "*/*.safetensors",
    "model*.safetensors",
    "pytorch_lora_weights.safetensors",
    *sorted(PUBLISHED_PICKLES),
]
IGNORED = ["*.fp16.safetensors", "*.fp16-*.safetensors", "*non_ema*", "safety_checker/*", "text_encoders/*"]


# Of a LoRA's repository: what lies at its root, whatever it is called, and no training checkpoints below it.
ADAPTER = ["*.safetensors", "*.json"]
BELOW = ["*/*"]


def download_snapshot(source: HubSource, folder: Path, token: str | None, *, adapter: bool = False) -> None:
    """Download a pinned model repository into `folder`, or that of an adapter.

    Raises UserError ModelNotFound or ModelForbidden, TransientError HubUnreachable.
    """
    name = f"{source.repo}@{source.revision}"
    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=folder,
            allow_patterns=ADAPTER if adapter else ALLOWED,
            ignore_patterns=BELOW if adapter else IGNORED,
            token=token or False,
            etag_timeout=20,
        )
    except GatedRepoError as error:
        raise UserError(
            "ModelForbidden", f"{name} is gated: accept its terms and give a token in hub.tokenSecretRef ({error})"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            "ModelNotFound", f"the hub has no {name}, or not for this token; check hub.repo and hub.revision ({error})"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise TransientError(
            "HubUnreachable",
            f"cannot download {name}: {type(error).__name__}: {error}; where pods have no way to the hub, put the "
            "model in S3 or on a volume",
        ) from error


def repository_files(source: HubSource, token: str | None) -> list[str] | None:
    """Names of the files of a pinned repository, without the weights that `download_snapshot` would leave out.

    None if they cannot be known here: no way to the hub, or a repository that it does not show for this token.
    Raises UserError ModelNotFound if the repository has no such revision.
    """
    name = f"{source.repo}@{source.revision}"
    try:
        found = HfApi().model_info(source.repo, revision=source.revision, token=token or False, timeout=20)
    except RevisionNotFoundError as error:
        raise UserError("ModelNotFound", f"the hub has no {name}; check hub.revision ({error})") from error
    except Exception as error:  # noqa: BLE001 - whatever it is, the stage that needs the model will say so
        log.warning("cannot look into %s before it is needed: %s: %s", name, type(error).__name__, error)
        return None
    if not found.siblings:  # as a mirror may answer
        return None
    files = [sibling.rfilename for sibling in found.siblings]
    wanted = set(filter_repo_objects(files, allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    return [name for name in files if name in wanted or not name.endswith(".safetensors")]
