"""Names of children: deterministic, so that an operator that was killed does the same thing again.

Pods of an Indexed Job are named and have as host name `<job name>-<index>`, which must be a DNS label: 63 characters.
An InstructBoothJob may be called anything up to 253 characters, with dots; where its own name does not fit, it is cut
and told apart by a hash. Names begin with a letter, as a Service's must, which jobs once had: what began under an
earlier version must be found again.
"""

from __future__ import annotations

import hashlib
import re

from instructbooth.contract import STAGES, Stage

DNS_LABEL_LIMIT = 63
MAX_ATTEMPT = 9999
MAX_NODES = 256
_LONGEST_SUFFIX = f"-{max((stage.value for stage in STAGES), key=len)}-{MAX_ATTEMPT}-{MAX_NODES - 1}"
BASE_LIMIT = DNS_LABEL_LIMIT - len(_LONGEST_SUFFIX)
_HASH_LENGTH = 8
_FITS = re.compile(rf"^[a-z]([-a-z0-9]{{0,{BASE_LIMIT - 2}}}[a-z0-9])?$")


def base_name(job: str) -> str:
    """What every child's name begins with, and the value of the job label: the job's own name wherever it fits."""
    if _FITS.match(job):
        return job
    digest = hashlib.sha256(job.encode()).hexdigest()[:_HASH_LENGTH]
    words = re.sub(r"[^a-z0-9]+", "-", job).strip("-")
    head = words if words[:1].isalpha() else f"ibj-{words}"
    return f"{head[: BASE_LIMIT - _HASH_LENGTH - 1].rstrip('-')}-{digest}"


def child_name(job: str, stage: Stage, attempt: int) -> str:
    """Name of the child Job of one attempt of a stage."""
    return f"{base_name(job)}-{stage.value}-{attempt}"


def snapshot_name(job: str) -> str:
    """Name of the ConfigMap with the resolved job."""
    return f"{base_name(job)}-spec"


def gang_name(namespace: str, child: str) -> str:
    """What rank 0 of a child Job calls itself, and is asked for (contract.GANG_HEADER)."""
    return f"{namespace}/{child}"
