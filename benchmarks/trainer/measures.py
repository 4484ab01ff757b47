"""The trainer's measures: each starts ours, the peer and the floor in turn, round by round, and compares medians."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.measure import Measure
from benchmarks.trainer.gradients import PREFIX, relative_difference
from benchmarks.trainer.job import ADAPTER, Bench
from benchmarks.trainer.sides import Peers, Spent, measured, run, timed
from benchmarks.trainer.workload import Result, Workload, typical
from instructbooth.cli.ports import free_port
from instructbooth.contract import Stage

OURS, FLOOR, STAGE = "benchmarks.trainer.ours", "benchmarks.trainer.floor", "instructbooth_trainer.main"
TRL, SCRIPT = "benchmarks.trainer.peers.trl_ddpo", "benchmarks.trainer.peers.dreambooth_script"
NO_GANG = "TRL is not measured in two processes"


def compare(
    name: str, unit: str, count: float, results: Sequence[list[Result]], reason: str | None
) -> Iterator[Measure]:
    """A rate, `count` per median seconds, and the peak memory of the same processes.

    Results are ours, the peer's and the floor's; an empty list is a side that was not measured.

    The rate's further numbers have the processors' seconds for each, which other work on the machine disturbs less, and
    on a GPU each one's utilization.
    """
    sides = dict(zip(("ours", "peer", "floor"), results, strict=True))
    ours, peer, floor = (count / typical(kept) if kept else None for kept in results)
    cpu = {
        f"{side}_cpu_s": round(median(s for r in kept for s in r.cpu_seconds), 4)
        for side, kept in sides.items()
        if kept
    }
    told = versions(*results[:2])
    cpu |= utilization(sides)
    rate = f"{name}_{unit.replace('/', '_per_')}"
    yield Measure(rate, unit, ours, peer, floor, reason=reason, more=cpu, versions=told)
    ours, peer, floor = (max(result.peak_mib for result in kept) if kept else None for kept in results)
    peak = f"{name}_peak_mib"
    yield Measure(peak, "MiB", ours, peer, floor, higher_is_better=False, reason=reason, versions=told)


def utilization(sides: Mapping[str, list[Result]]) -> dict[str, float]:
    """Each side's share of the operations that the device could do (MFU); the passes alone count, not the decoding.

    Empty where the floor did not count them. `tflops` is what a large matrix product was found to reach.
    """
    counted = next((r.numbers for r in sides["floor"] if "operations" in r.numbers), None)
    if counted is None:
        return {}
    most = counted["operations_per_s"]
    shares = {f"{side}_mfu": counted["operations"] / typical(kept) / most for side, kept in sides.items() if kept}
    return {name: round(share, 4) for name, share in shares.items()} | {"tflops": round(most / 1e12, 1)}


def versions(ours: Sequence[Result], peer: Sequence[Result]) -> dict[str, str]:
    """Of both sides; the peer's packages only where they differ from ours."""
    own = ours[0].versions if ours else {}
    others = peer[0].versions if peer else {}
    return own | {(f"peer-{n}" if n in own else n): v for n, v in others.items() if own.get(n) != v}


class Trainer:
    """Measures of one workload on one model."""

    def __init__(self, bench: Bench, work: Workload, peers: Peers, rounds: int) -> None:
        """Nothing is run yet."""
        self._bench, self._work, self._peers, self._rounds = bench, work, peers, rounds
        self._jobs, self._adapted = 0, False

    def _uid(self) -> str:
        self._jobs += 1
        return f"run-{self._jobs}"

    def _ours(self, kind: str, work: Workload, stage: Stage, uid: str, *more: Path, **options: Any) -> Result:
        if stage is Stage.REINFORCE and not self._adapted:
            self._personalized(ADAPTER)
        job = self._bench.job(work, uid, **options)
        path = work.save(self._bench.lab.folder / f"{uid}.json")
        return measured([OURS, kind, path, *more], work.threads, self._bench.environment(work, job, stage))[0]

    def _personalized(self, uid: str) -> Result:
        """Our personalization; the first one's adapter is what every reinforcement starts from."""
        self._adapted = True
        return self._ours("personalize", self._work, Stage.PERSONALIZE, uid)

    def _elsewhere(self, module: str, kind: str | Path, work: Workload, *more: Path) -> tuple[Result, Spent]:
        path = work.save(self._bench.lab.folder / "elsewhere.json")
        interpreter = None if module == FLOOR else self._peers.python
        return measured([module, kind, path, *more], work.threads, None, interpreter)

    def _rounds_of(self, *sides: Callable[[int], Result] | None) -> list[list[Result]]:
        results: list[list[Result]] = [[] for _ in sides]
        for number in range(self._rounds):
            for side, kept in zip(sides, results, strict=True):
                if side is not None:
                    kept.append(side(number))
        return results

    def passes(self) -> Iterator[Measure]:
        """Milliseconds of single passes of the denoiser, without any loop around them."""
        path = self._work.save(self._bench.lab.folder / "passes.json")
        ours, floor = self._rounds_of(
            lambda _: measured([OURS, "passes", path], self._work.threads)[0],
            lambda _: self._elsewhere(FLOOR, "passes", self._work)[0],
        )
        for name in ("forward", "training"):
            mine, theirs = (median(1e3 * r.numbers[f"{name}_s"] for r in kept) for kept in (ours, floor))
            yield Measure(
                f"{name}_pass_ms", "ms", mine, floor=theirs, higher_is_better=False,
                reason="a peer's pass is the floor's", versions=versions(ours, []),
            )  # fmt: skip

    def personalize(self) -> Iterator[Measure]:
        """Steps a second, memory, and the seconds of a whole stage, from nothing to a saved LoRA."""
        work, folder = self._work, self._bench.lab.folder
        scripts: list[Spent] = []

        def script(number: int) -> Result:
            assert self._peers.script is not None
            result, spent = self._elsewhere(SCRIPT, self._peers.script, work, folder / f"script-{number}")
            scripts.append(spent)
            return result

        reason = self._peers.no_script
        results = self._rounds_of(
            lambda _: self._personalized(self._uid() if self._adapted else ADAPTER),
            None if reason else script,
            lambda _: self._elsewhere(FLOOR, "personalize", work)[0],
        )
        yield from compare("personalize", "steps/s", 1, results, reason)
        stages = [self._whole_stage() for _ in range(self._rounds)]
        cpu = {"ours_cpu_s": median(spent.cpu_seconds for spent in stages)}
        if scripts:
            cpu["peer_cpu_s"] = median(spent.cpu_seconds for spent in scripts)
        yield Measure(
            "personalize_stage_s",
            "s",
            median(spent.seconds for spent in stages),
            median(spent.seconds for spent in scripts) if scripts else None,
            typical(results[2]) * work.steps,
            higher_is_better=False,
            reason=reason,
            more={name: round(seconds, 2) for name, seconds in cpu.items()},
            versions=versions(*results[:2]),
        )

    def _whole_stage(self) -> Spent:
        work, uid = self._work, self._uid()
        env = self._bench.environment(work, self._bench.job(work, uid), Stage.PERSONALIZE)
        return timed([STAGE], work.threads, env)[1]

    def reinforce(
        self, name: str, guidance: float = 1.0, updates: int = 1, compiled: bool = False
    ) -> Iterator[Measure]:
        """Pictures a second, drawn, scored and trained on, and memory."""
        work = dataclasses.replace(self._work, guidance=guidance)
        reason = self._peers.no_trl if updates == 1 else "TRL's loop is measured with one update an epoch"
        results = self._rounds_of(
            lambda _: self._ours("reinforce", work, Stage.REINFORCE, self._uid(), updates=updates, compiled=compiled),
            None if reason else lambda _: self._elsewhere(TRL, "reinforce", work)[0],
            lambda _: self._elsewhere(FLOOR, "reinforce", work)[0],
        )
        yield from compare(name, "images/s", work.pictures, results, reason)
        if name == "reinforce":
            yield self._checkpoints(results[0])

    def _checkpoints(self, ours: list[Result]) -> Measure:
        saving = median(result.numbers["checkpoint_s"] for result in ours)
        interval = ours[0].numbers["checkpoint_interval_epochs"]
        return Measure(
            "checkpoint_share_of_time",
            "share",
            saving / (saving + interval * typical(ours)),
            higher_is_better=False,
            reason="not measured of a peer",
            more={"checkpoint_s": round(saving, 4), "interval_epochs": interval},
            versions=versions(ours, []),
        )

    def parts(self) -> Measure:
        """Where our epoch's seconds go."""
        result = self._ours("parts", self._work, Stage.REINFORCE, self._uid())
        more = {name: round(seconds, 4) for name, seconds in result.numbers.items()}
        return Measure(
            "reinforce_epoch_s", "s", typical([result]), higher_is_better=False, reason="a profile of ours alone",
            more=more, versions=result.versions,
        )  # fmt: skip

    def update(self) -> Measure:
        """The largest change of a weight by one update from the same pairs, ours and TRL's, and how far they differ."""
        work = dataclasses.replace(self._work, epochs=1, warmup_epochs=0)
        ours, peer = (self._bench.lab.folder / f"update-{side}.safetensors" for side in ("ours", "peer"))
        result = self._ours("update", work, Stage.REINFORCE, self._uid(), ours)
        name, unit = "reinforce_update_largest_change", "weight"
        tensors = load_file(ours)
        before, after = (
            {n.removeprefix(side): t for n, t in tensors.items() if n.startswith(side)}
            for side in ("before.", "after.")
        )
        change = largest_difference(before, after)
        if self._peers.no_trl:
            return Measure(name, unit, change, reason=self._peers.no_trl, versions=result.versions)
        other = self._elsewhere(TRL, "update", work, ours, peer)[0]
        theirs = load_file(peer)
        updated = {name: tensor for name, tensor in theirs.items() if not name.startswith(PREFIX)}
        return Measure(
            name,
            unit,
            change,
            largest_difference(before, updated),
            more={
                "difference": largest_difference(after, updated),
                "gradients_relative_difference": relative_difference(tensors, theirs),
            },
            versions=versions([result], [other]),
        )

    def gang(self) -> Measure:
        """Two processes of one thread each against one of them."""
        work = dataclasses.replace(self._work, threads=1)
        folder = self._bench.lab.folder

        def one(_: int) -> Result:
            return self._ours("reinforce", work, Stage.REINFORCE, self._uid())

        def two(_: int) -> Result:
            uid, port = self._uid(), free_port()
            job, path = self._bench.job(work, uid, nodes=2), work.save(folder / f"{uid}.json")
            envs = [self._bench.environment(work, job, Stage.REINFORCE, rank, port) for rank in (0, 1)]
            return Result.heard(run([OURS, "reinforce", path], work.threads, envs)[0])

        single, double = self._rounds_of(one, two)
        more = {
            "one_images_per_s": work.pictures / typical(single),
            "two_images_per_s": work.pictures / typical(double),
        }
        speedup = more["two_images_per_s"] / more["one_images_per_s"]
        return Measure(
            "two_process_speedup", "x", speedup, reason=NO_GANG, more={n: round(v, 3) for n, v in more.items()},
            versions=versions(single, []),
        )  # fmt: skip


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of any weight. Raises ValueError unless both have the same ones."""
    if one.keys() != other.keys():
        raise ValueError(f"other weights: {sorted(one.keys() ^ other.keys())[:3]}")
    return max(float((one[name] - other[name]).abs().max()) for name in one)
