"""From exceptions to exit codes: the one place where it is decided whether a failure is worth another try."""

from __future__ import annotations

import errno
import re
import traceback

import torch
import torch.distributed as dist

from instructbooth.artifacts.errors import ArtifactError
from instructbooth.contract import PEER_LOST, ExitCode, Outcome
from instructbooth_trainer.runtime.errors import Checkpointed, RunError, TransientError, UserError

FAILURE = 1  # a defect or a fault nobody foresaw; charged to backoffLimit

# What gloo, NCCL and the rendezvous say through plain RuntimeErrors when another process is gone.
_PEER_LOST = re.compile(
    r"gloo/|connection (was )?(closed|reset|refused)|NCCL (error|communicator)|ncclRemoteError|timed out waiting|"
    r"Broken pipe|store->get|wait timeout|failed to recv|Socket Timeout",
    re.IGNORECASE,
)
_TRACEBACK_LINES = 12


def classify(error: BaseException) -> tuple[int, Outcome]:
    """(exit code, outcome) of a process that `error` ended."""
    if isinstance(error, Checkpointed):
        return ExitCode.CHECKPOINTED, Outcome(error.reason, error.message)
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR, Outcome(error.reason, error.message)
    if isinstance(error, TransientError):
        return ExitCode.TRANSIENT, Outcome(error.reason, error.message)
    if isinstance(error, RunError):
        return FAILURE, Outcome(error.reason, error.message)
    if isinstance(error, ArtifactError):
        code = ExitCode.TRANSIENT if error.retryable else ExitCode.USER_ERROR
        return code, Outcome(error.reason, error.message)
    if is_peer_lost(error):
        return ExitCode.TRANSIENT, Outcome(PEER_LOST, f"another process of the gang is gone: {_one_line(error)}")
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FAILURE, Outcome(
            "OutOfMemory",
            f"{_one_line(error)}; lower the stage's batch size or the model's resolution, use dtype bf16, or ask for "
            "more memory in the stage's resources",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return FAILURE, Outcome("DiskFull", f"{error}; the pods' scratch volume is too small for model and checkpoints")
    lines = "".join(traceback.format_exception(error)).strip().splitlines()[-_TRACEBACK_LINES:]
    return FAILURE, Outcome("InternalError", f"{_one_line(error)}\n" + "\n".join(lines))


def is_peer_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone (or too slow to tell the difference)."""
    if isinstance(error, dist.DistError):
        return True
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and bool(_PEER_LOST.search(str(error)))
    )


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
