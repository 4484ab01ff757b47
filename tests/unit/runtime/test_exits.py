"""Every way to end has its exit code."""

from __future__ import annotations

import errno

import pytest
import torch
import torch.distributed as dist

from instructbooth.artifacts import errors as storage
from instructbooth.contract import ExitCode
from instructbooth_trainer.runtime.errors import Checkpointed, RunError, TransientError, UserError
from instructbooth_trainer.runtime.exits import FAILURE, classify

GLOO_CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3851: "
    "Success. This may indicate a remote rank failed."
)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (UserError("ModelInvalid", "m"), ExitCode.USER_ERROR, "ModelInvalid"),
        (TransientError("HubUnreachable", "m"), ExitCode.TRANSIENT, "HubUnreachable"),
        (Checkpointed("m"), ExitCode.CHECKPOINTED, "Checkpointed"),
        (RunError("RewardFailed", "connection closed"), FAILURE, "RewardFailed"),
        (storage.EndpointUnreachable("m"), ExitCode.TRANSIENT, "EndpointUnreachable"),
        (storage.StorageUnavailable("m"), ExitCode.TRANSIENT, "StorageUnavailable"),
        (storage.BucketNotFound("m"), ExitCode.USER_ERROR, "BucketNotFound"),
        (storage.AccessDenied("m"), ExitCode.USER_ERROR, "AccessDenied"),
        (storage.Corrupt("m"), ExitCode.USER_ERROR, "ArtifactCorrupt"),
        (RuntimeError(GLOO_CLOSED), ExitCode.TRANSIENT, "PeerLost"),
        (RuntimeError("Timed out waiting 300000ms for recv operation to complete"), ExitCode.TRANSIENT, "PeerLost"),
        (dist.DistNetworkError("connection reset"), ExitCode.TRANSIENT, "PeerLost"),
        (dist.DistBackendError("NCCL error: remote process exited"), ExitCode.TRANSIENT, "PeerLost"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FAILURE, "OutOfMemory"),
        (OSError(errno.ENOSPC, "No space left on device"), FAILURE, "DiskFull"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FAILURE, "InternalError"),
        (KeyError("x"), FAILURE, "InternalError"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else None,
)
def test_exit_codes(error: BaseException, code: int, reason: str) -> None:
    got, outcome = classify(error)
    assert (got, outcome.reason) == (code, reason)


def test_a_defect_shows_where_it_happened() -> None:
    try:
        torch.zeros(2) @ torch.zeros(3)
    except RuntimeError as error:
        code, outcome = classify(error)
    assert code == FAILURE
    assert outcome.message.startswith("RuntimeError: ")
    assert "torch.zeros(2) @ torch.zeros(3)" in outcome.message
