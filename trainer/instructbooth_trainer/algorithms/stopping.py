"""When to stop: no gain on held-out prompts for `patience` validations, a KL above its ceiling, a score too low.

Validation k brings a gain when s_k > s_b + min_delta, b being the last one that did (the first does); the stage ends
after `patience` without one in a row. KL > ceiling and score < floor end it at once, and so does a value that is not a
number.

Source: early stopping with patience (Prechelt, "Early Stopping - But When?", 1998), measured against the last gain.
Deliberately more than the paper, and off by default: reward over-optimisation is what ends RL on diffusion models
(DDPO, arXiv 2305.13301, section 6.3). All rules keep an adapter that was seen to be good rather than the last one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoppingState:
    """Memory of the early-stopping rule: best validation score, validations since, and whether the last was best."""

    best: float | None = None
    waited: int = 0
    improved: bool = False

    def observe(self, score: float, min_delta: float) -> StoppingState:
        """The state after one more validation: better means above the best by more than `min_delta`."""
        if self.best is None or score > self.best + min_delta:
            return StoppingState(best=score, waited=0, improved=True)
        return StoppingState(best=self.best, waited=self.waited + 1, improved=False)

    def exhausted(self, patience: int) -> bool:
        """Whether `patience` validations in a row brought no gain."""
        return self.waited >= patience


def exceeds_ceiling(kl: float, ceiling: float | None) -> bool:
    """Whether the mean KL per denoising step is past its ceiling. Not-a-number is: such a policy is lost."""
    return ceiling is not None and not kl <= ceiling


def below_floor(value: float, floor: float) -> bool:
    """Whether a guarded score is below its floor. Not-a-number is."""
    return not value >= floor
