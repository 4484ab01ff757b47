"""What can happen to a request, and scripts that say to which. No I/O: a script is a function of what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

from tests.chaos.call import Call


class Kind(Enum):
    """Where the fault strikes."""

    CRASH_BEFORE = "the operator dies before the request reaches the API server"
    CRASH_AFTER = "the API server has carried it out, and the operator dies before it hears so"
    FREEZE = "the operator is stopped, and the request is carried out and answered while it is"
    LATE = "the operator dies, and the API server carries the request out when the next one is already at work"
    REFUSE = "an error is answered, the API server never hears of it"
    LOSE = "the API server has carried it out, and an error is answered"
    RESET = "the connection is reset, the API server never hears of it"
    RESET_AFTER = "the API server has carried it out, and the connection is reset"
    DELAY = "the request is held up"
    STALE = "a list is answered as it was the first time"
    DROP = "a watch event is lost, and nothing tells so"
    HOLD = "a watch event, and all after it, come late"
    EXPIRE = "the watch says 410 Gone in its stream, and ends"
    BREAK = "the watch says another error in its stream, and ends"
    CUT = "the watch ends"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: what happens.
        code: HTTP status, where one is answered.
        seconds: of a delay, or of Retry-After.
    """

    kind: Kind
    code: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        told = [self.kind.name.lower().replace("_", " "), str(self.code or ""), f"{self.seconds:g} s"]
        return " ".join(filter(None, told if self.seconds else told[:2]))


class Script:
    """Which fault meets which request; this one: none. Both methods are asked once for each."""

    def on_call(self, call: Call, number: int) -> Fault | None:
        """The fault of the `number`-th such call, from 0."""
        return None

    def on_event(self, call: Call, number: int) -> Fault | None:
        """The fault of the `number`-th event of all watches of that resource, from 0."""
        return None


@dataclass
class Once(Script):
    """One fault at one call, or at a few in a row; `fired` tells how often it happened."""

    call: Call
    number: int
    fault: Fault
    times: int = 1
    fired: int = 0

    def on_call(self, call: Call, number: int) -> Fault | None:
        """The fault, when its time has come."""
        return self._at(call, number) if self.fault.kind not in EVENTS else None

    def on_event(self, call: Call, number: int) -> Fault | None:
        """The fault, when its time has come."""
        return self._at(call, number) if self.fault.kind in EVENTS else None

    def _at(self, call: Call, number: int) -> Fault | None:
        if call != self.call or not self.number <= number < self.number + self.times:
            return None
        self.fired += 1
        return self.fault


EVENTS = (Kind.DROP, Kind.HOLD, Kind.EXPIRE, Kind.BREAK, Kind.CUT)

_ANSWERS = (
    Fault(Kind.REFUSE, 409),
    Fault(Kind.REFUSE, 429, 1.0),
    Fault(Kind.REFUSE, 500),
    Fault(Kind.REFUSE, 503),
    Fault(Kind.RESET),
    Fault(Kind.DELAY, seconds=0.5),
)
ON_WRITES = (
    *_ANSWERS,
    Fault(Kind.CRASH_BEFORE),
    Fault(Kind.CRASH_AFTER),
    Fault(Kind.CRASH_AFTER),
    Fault(Kind.LATE, seconds=1.0),
    Fault(Kind.LOSE, 500),
    Fault(Kind.LOSE, 504),
    Fault(Kind.RESET_AFTER),
)
ON_READS = (*_ANSWERS[1:], Fault(Kind.CRASH_BEFORE), Fault(Kind.REFUSE, 502))
ON_LISTS = (*ON_READS, Fault(Kind.STALE), Fault(Kind.STALE))
ON_WATCHES = (*_ANSWERS[1:], Fault(Kind.REFUSE, 410), Fault(Kind.REFUSE, 410))
ON_EVENTS = (
    Fault(Kind.DROP),
    Fault(Kind.DROP),
    Fault(Kind.HOLD, seconds=1.0),
    Fault(Kind.HOLD, seconds=3.0),
    Fault(Kind.EXPIRE, 410),
    Fault(Kind.BREAK, 500),
    Fault(Kind.CUT),
)


@dataclass(frozen=True)
class Seeded(Script):
    """A schedule of faults that is a pure function of the seed: the same call for the same time meets the same fault.

    Only the first few of each call can meet one, so that every schedule comes to an end.
    """

    seed: int
    rate: float = 0.25
    first: int = 5
    first_events: int = 40

    def on_call(self, call: Call, number: int) -> Fault | None:
        """The fault of a call."""
        choices = ON_WRITES if call.writes else {"list": ON_LISTS, "watch": ON_WATCHES}.get(call.verb, ON_READS)
        return self._draw(f"{call}/{number}", choices) if number < self.first else None

    def on_event(self, call: Call, number: int) -> Fault | None:
        """The fault of a watch event."""
        return self._draw(f"{call} event/{number}", ON_EVENTS) if number < self.first_events else None

    def _draw(self, what: str, choices: Sequence[Fault]) -> Fault | None:
        random = Random(f"{self.seed}/{what}")
        return random.choice(choices) if random.random() < self.rate else None


@dataclass(frozen=True)
class Several(Script):
    """Scripts one after the other: the first that has a fault for a call decides."""

    scripts: tuple[Script, ...]

    def on_call(self, call: Call, number: int) -> Fault | None:
        """The first fault."""
        return next(filter(None, (script.on_call(call, number) for script in self.scripts)), None)

    def on_event(self, call: Call, number: int) -> Fault | None:
        """The first fault."""
        return next(filter(None, (script.on_event(call, number) for script in self.scripts)), None)
