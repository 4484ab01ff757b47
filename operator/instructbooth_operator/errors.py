"""What can go wrong between the operator and the API server. Whether to try again lies in the type."""

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """The API server answered with an error, or did not answer (status 0).

    Attributes:
        status: the HTTP status.
        reason: Kubernetes' one word, such as AlreadyExists.
        message: Kubernetes' words.
        retry_after: seconds the server asked to wait.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        """The object is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        """Someone else was first: read again, decide again."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def exists(self) -> bool:
        """An object of that name is there. Not every conflict of a creation means that: quotas have conflicts too."""
        return self.conflict and self.reason == "AlreadyExists"

    @property
    def invalid(self) -> bool:
        """The manifest itself is wrong: sending it again cannot help."""
        return self.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)

    @property
    def refused(self) -> bool:
        """Admission, quota or RBAC forbids it, as things are."""
        return self.status == HTTPStatus.FORBIDDEN


class BeginAnew(Exception):
    """Whoever works must go on in a new event loop, with nothing of the old one, as a new process would."""


class NotLeading(Exception):
    """This replica may not write: the Lease is not its own any more, or was not renewed in time."""


class StillThere(Exception):
    """A child of an earlier job of the same name has not been collected yet: try again soon."""
