"""The guards of stage 2: what they measured at the start, whether later values are within bounds, and what stays.

A value belongs to an adapter: `after` epochs of training. Those of the personalized model (after 0) are the start, and
are kept in the state's record; the others stand in the curve beside the numbers of the epoch that made the adapter.
Of the state's kept adapters `best` is the one to be published, and `sound` the last one that was within bounds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from instructbooth.spec.scores import Guards
from instructbooth_trainer.algorithms.stopping import below_floor, exceeds_ceiling
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.recipes.judges import DIVERSITY, IDENTITY
from instructbooth_trainer.recipes.training import AdapterState
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.progress import ProgressReporter

log = logging.getLogger(__name__)

START = "guards_start"  # in the state's record: the personalized model's values
BEST_AFTER, SOUND_AFTER = "best_after", "sound_after"  # and: epochs of training of the adapters kept as best and sound
STOPPED = "stopped"  # in the state's record: why the stage ended early


class Watch:
    """Compares what was measured with the bounds of spec.reinforcement.guards, and stops the stage."""

    def __init__(self, spec: Guards, state: AdapterState, adapter: Adapter, progress: ProgressReporter) -> None:
        self._spec, self._state, self._adapter, self._progress = spec, state, adapter, progress

    @property
    def looks(self) -> bool:
        """Whether any guard looks at pictures."""
        return self._spec.identity is not None or self._spec.diversity_floor is not None

    @property
    def wants_kl(self) -> bool:
        """Whether the KL is bounded."""
        return self._spec.kl_ceiling is not None

    @property
    def stopped(self) -> str:
        """Why the stage ends early; empty while it does not."""
        return str(self._state.record.get(STOPPED, ""))

    def stop(self, words: str) -> None:
        """End the stage after this epoch. The words (field, value, bound) go to the log, the report and the outcome."""
        self._state.record[STOPPED] = words
        log.warning("reinforce: stopping early: %s", words)

    def within(self, measured: Mapping[str, float], after: int) -> bool:
        """Whether the adapter in place, which has had `after` epochs of training, is within bounds; else stops.

        Raises:
            UserError: `GuardInvalid` when the personalized model itself is out of bounds, or gives a share no meaning.
        """
        self._progress.update(after, **measured)
        if after == 0:
            self._begin(measured)
            return True
        self._state.curve[-1] |= measured
        for name, value in measured.items():
            floor, words = self._floor(name)
            if below_floor(value, floor):
                said = name.partition("/")[2]
                self.stop(f"guards.{words}: {said} {value:.4g} is below {floor:.4g} after {after} epochs")
                return False
        return True

    def within_rollouts(self, measured: Mapping[str, float], after: int) -> bool:
        """As `within` where there are no validations, and so no best adapter: the last sound one becomes it."""
        if not self.within(measured, after):
            self._state.kept["best"] = self._state.kept["sound"]
            self._state.record[BEST_AFTER] = self._state.record.get(SOUND_AFTER, after - 1)
            return False
        if self._spec.identity is None or IDENTITY in measured:
            self._state.kept["sound"] = self._adapter.tensors()
            self._state.record[SOUND_AFTER] = after
        return True

    def within_kl(self, numbers: Mapping[str, float], before: dict[str, Tensor]) -> bool:
        """Whether an epoch's mean KL (`kl`) and that of its end (`kl_end`) are below the ceiling; else stops.

        `before` is the adapter before the epoch: it is kept unless a validation has found a better one.
        """
        ceiling = self._spec.kl_ceiling
        for name, words in (("kl", "mean KL of an epoch"), ("kl_end", "KL after an epoch's last update")):
            if name in numbers and exceeds_ceiling(numbers[name], ceiling):
                after = len(self._state.curve)
                if "best" not in self._state.kept:
                    self._state.kept["best"] = before
                    self._state.record[BEST_AFTER] = after - 1
                self.stop(f"guards.klCeiling: {words} {numbers[name]:.4g} is above {ceiling:.4g} after {after} epochs")
                return False
        return True

    def _begin(self, measured: Mapping[str, float]) -> None:
        self._state.record[START] = dict(measured)
        guard = self._spec.identity
        if guard is None:
            return
        if IDENTITY not in measured:
            raise UserError(
                "GuardInvalid",
                "spec.reinforcement.guards.identity is measured on pictures with identifier, and the first epoch draws "
                "none: raise promptsPerEpoch, write {subject} into all prompts, or set earlyStopping",
            )
        value = measured[IDENTITY]
        if guard.floor is not None and below_floor(value, guard.floor):
            raise UserError(
                "GuardInvalid",
                f"spec.reinforcement.guards.identity.floor {guard.floor:g} is above {value:.4g}, which is what the "
                "personalized model reaches: lower it, or use floorShare",
            )
        if guard.floor_share is not None and not value > 0:
            raise UserError(
                "GuardInvalid",
                f"spec.reinforcement.guards.identity.floorShare: the personalized model reaches {value:.4g}, and a "
                "share of that is no floor: use floor",
            )

    def _floor(self, name: str) -> tuple[float, str]:
        """The floor of a value, and the words for where it comes from."""
        start = self._state.record[START]
        assert isinstance(start, dict)
        if name == IDENTITY:
            assert self._spec.identity is not None
            if self._spec.identity.floor is not None:
                return self._spec.identity.floor, "identity.floor"
            share, words = self._spec.identity.floor_share, "identity.floorShare"
        else:
            assert name == DIVERSITY
            share, words = self._spec.diversity_floor, "diversityFloor"
        assert share is not None
        began = float(str(start[name]))
        return share * began, f"{words} {share:g} of {began:.4g} at the start"
