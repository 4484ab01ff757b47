"""What the processes of a gang say to each other beside training: stop flags, errors, who downloads, RNG states.

All of it goes over a gloo group of its own with a long timeout, so that a download of minutes is not taken for a lost
peer, and needs no GPU memory. A peer that dies closes its connections: the others notice at once all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from instructbooth.artifacts.errors import ArtifactError
from instructbooth_trainer.runtime.errors import RunError, TransientError, UserError

T = TypeVar("T")

CONTROL_TIMEOUT = timedelta(hours=1)


class Gang:
    """The processes of one attempt; one of them alone needs no process group."""

    def __init__(self, rank: int, local_rank: int, world_size: int) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self.world_size = world_size
        self._group: Any = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT) if world_size > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    def gather(self, value: T, question: str = "gather") -> list[T]:
        """Everybody's value, by rank, on every rank.

        Raises RunError GangDiverged when ranks ask different questions: their recipes took different ways, and one
        would be given the answer to another's question.
        """
        if self._group is None:
            return [value]
        out: list[Any] = [None] * self.world_size
        dist.all_gather_object(out, (question, value), group=self._group)
        if len({asked for asked, _ in out}) > 1:
            raise RunError("GangDiverged", f"the ranks are at different places: {[asked for asked, _ in out]}")
        return [answer for _, answer in out]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return any(self.gather(flag, "any"))

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None, "barrier")

    def together(self, call: Callable[[], T]) -> T:
        """Run `call` on every rank; if it fails on one, all raise that error, so that all pods say the same."""
        return self._share(call, leader=self.rank)

    def once(self, call: Callable[[], T]) -> T:
        """Run `call` on rank 0 and return its value everywhere; errors as in `together`."""
        return self._share(call, leader=0)

    def once_per_node(self, call: Callable[[], T]) -> T:
        """Run `call` on the first process of each node and return its value on that node; errors as in `together`."""
        return self._share(call, leader=self.rank - self.local_rank)

    def _share(self, call: Callable[[], T], leader: int) -> T:
        value: T | None = None
        error: RunError | ArtifactError | None = None
        if leader == self.rank:
            try:
                value = call()
            except (RunError, ArtifactError) as caught:
                error = caught
        said = self.gather((value, _describe(error)), "share")
        if error is not None:
            raise error
        for rank, (_, problem) in enumerate(said):
            if problem is not None:
                kind, reason, message = problem
                raise kind(reason, f"{message} (rank {rank})")
        result: Any = said[leader][0]
        return result  # type: ignore[no-any-return]


def _describe(error: RunError | ArtifactError | None) -> tuple[type[RunError], str, str] | None:
    if error is None:
        return None
    if isinstance(error, ArtifactError):
        return (TransientError if error.retryable else UserError), error.reason, error.message
    return type(error), error.reason, error.message
