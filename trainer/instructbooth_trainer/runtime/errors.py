"""How a run may end otherwise than well. Whether it is tried again lives in the type; exits.py maps types to codes."""

from __future__ import annotations


class RunError(Exception):
    """Base: a reason (one CamelCase word, for conditions) and a message (for a person, with the way out)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class UserError(RunError):
    """The job asks for something that cannot work: trying again cannot help."""


class TransientError(RunError):
    """The surroundings failed (storage, network, a peer): trying again can help."""


class Checkpointed(RunError):
    """Asked to stop by SIGTERM; everything worth keeping is saved."""

    def __init__(self, message: str) -> None:
        super().__init__("Checkpointed", message)
