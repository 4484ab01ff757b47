"""What operator and trainer agreed on: names, paths, ports, exit codes. Nothing here does anything.

The operator writes it into pods, the trainer reads it there; both import it from here so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

GROUP = "instructbooth.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InstructBoothJob"
PLURAL = "instructboothjobs"
SHORT_NAME = "ibj"


class Stage(StrEnum):
    """The stages, in the order they run; the value names folders, labels and children."""

    PERSONALIZE = "personalize"
    REINFORCE = "reinforce"
    EVALUATE = "evaluate"


STAGES: tuple[Stage, ...] = tuple(Stage)


class ExitCode(IntEnum):
    """The trainer's exit codes. Whatever else (1, 137, ...) is a failure, charged to backoffLimit and tried again."""

    OK = 0
    USER_ERROR = 64  # the user's mistake: trying again cannot help
    TRANSIENT = 75  # the surroundings failed (storage, network, a peer): try again, charged to backoffLimit
    CHECKPOINTED = 76  # asked to stop by SIGTERM and saved: try again, charged to disruptionLimit
    STALLED = 77  # a rank has not moved for too long and ended itself: try again, charged to backoffLimit


class Label:
    """Labels of every child."""

    JOB = f"{GROUP}/job"
    STAGE = f"{GROUP}/stage"
    ATTEMPT = f"{GROUP}/attempt"
    SUSPENDED = f"{GROUP}/suspended"  # of a child Job: the operator stopped it, so the operator lets it go on
    MANAGED_BY = "app.kubernetes.io/managed-by"
    MANAGER = "instructbooth-operator"


class Env:
    """Environment of a trainer pod, set by the operator. Rank within the gang is JOB_COMPLETION_INDEX (Indexed Job)."""

    CONFIG = "INSTRUCTBOOTH_CONFIG"  # path of the resolved job (JSON of spec.job.ResolvedJob)
    STAGE = "INSTRUCTBOOTH_STAGE"
    ATTEMPT = "INSTRUCTBOOTH_ATTEMPT"  # 1, 2, ...
    INPUTS = "INSTRUCTBOOTH_INPUTS"  # JSON {stage: attempt that succeeded} of the earlier stages
    NODES = "INSTRUCTBOOTH_NODES"  # pods of this attempt: the stage's nodes, or fewer down to its minNodes
    POD_IP = "INSTRUCTBOOTH_POD_IP"  # of this pod; rank 0's tells the others where it is
    COORDINATOR = "INSTRUCTBOOTH_COORDINATOR"  # host of pod 0 where it is known beforehand: `instructbooth run`, tests
    STALL_TIMEOUT = "INSTRUCTBOOTH_STALL_TIMEOUT"  # runPolicy.stallTimeoutSeconds when the attempt began; 0: never
    NODE_RANK = "JOB_COMPLETION_INDEX"
    ACCESS_KEY = "INSTRUCTBOOTH_S3_ACCESS_KEY"
    SECRET_KEY = "INSTRUCTBOOTH_S3_SECRET_KEY"
    HUB_TOKEN = "HF_TOKEN"  # the Hugging Face hub's own name for it
    STORE = "INSTRUCTBOOTH_STORE"  # a local folder instead of S3: `instructbooth run` and tests
    LOG_TAIL = "INSTRUCTBOOTH_LOG_TAIL"  # where a process of a pod keeps its last lines for the launcher, which sets it
    TERMINATION_LOG = "INSTRUCTBOOTH_TERMINATION_LOG"  # where the Outcome is written; the kubelet's path by default


CONTAINER = "trainer"  # name of the one container of a trainer pod
COMMAND = ("instructbooth-trainer",)  # what it runs; an image with plug-ins of one's own must have it too


class Path:
    """Where things are mounted in a trainer pod."""

    CONFIG_DIR = "/etc/instructbooth"
    CONFIG_KEY = "job.json"
    CA_DIR = "/etc/instructbooth-ca"
    SUBJECT_IMAGES = "/mnt/subject"  # the ConfigMap with the subject's pictures
    PROMPTS = "/mnt/prompts"  # ConfigMaps with prompts: /mnt/prompts/<role>/<key>, role as in PromptRole
    VOLUMES = "/mnt/volumes"  # claims of pvc sources: /mnt/volumes/<claimName>
    CACHE = "/mnt/cache"  # spec.model.cacheClaimName
    WORK = "/work"  # scratch (emptyDir); HOME and working directory
    TERMINATION_LOG = "/dev/termination-log"


PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})  # of files taken as pictures, in lower case
CAPTION_TABLE = "metadata.jsonl"  # captions of all pictures in a folder; else each has a .txt of its own


class PromptRole(StrEnum):
    """Who uses a PromptSource; names its mount."""

    REINFORCEMENT = "reinforcement"
    VALIDATION = "validation"
    EVALUATION = "evaluation"


class Port:
    """Ports of a trainer pod."""

    COORDINATOR = 29500  # on pod 0: the gang gathers, then torch.distributed's rendezvous
    METRICS = 9400  # rank 0: /metrics (Prometheus), /progress (JSON of spec.status.Progress), /healthz


GANG_HEADER = "Instructbooth-Gang"  # in every answer of rank 0, as addresses are given out anew: namespace/child Job


PEER_LOST = "PeerLost"  # Outcome.reason of a process that fell because another one did: never the root cause
STALLED = "Stalled"  # Outcome.reason, and that of the operator's own watchdog

REWARD_METRIC = "reward_mean"  # in Progress.metrics: mean reward of the epoch, the REWARD column while reinforce runs

TERMINATION_MESSAGE_LIMIT = 4096  # bytes; the kubelet cuts the rest
LOG_LINES = 20  # of a log that failed, in the status


@dataclass(frozen=True)
class Outcome:
    """How a trainer process ended: JSON in the pod's termination message.

    Attributes:
        reason: one CamelCase word: `Completed`, or why not (`SubjectImagesInvalid`, `BucketNotFound`, ...).
        message: for a person: field, value, bound, way out.
        artifact: address of what the stage made, when it succeeded.
        metrics: final numbers. The evaluation's are keyed `<model>/<metric>`, model being base, personalized or
            reinforced.
        log: the last lines of the log of a process that failed, as many as fit.
    """

    reason: str
    message: str = ""
    artifact: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
