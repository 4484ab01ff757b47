"""Wall time to equal alignment: our loop and TRL's from one personalized model, and our economies one by one.

    python -m benchmarks.trainer.equal --peers-python out/peers-venv/bin/python

Both sides draw the manifest's prompts, with and without identifier, and are paid by the same CLIP. Snapshots of the
trained weights are judged afterwards, by the oracle, on the experiment's unseen prompts. A line on stdout per measure,
as in `make bench-trainer`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from benchmarks.measure import Measure
from benchmarks.trainer.equal.crossing import Curve, level
from benchmarks.trainer.equal.judge import Judge
from benchmarks.trainer.equal.lesson import Lesson, snapshot
from benchmarks.trainer.job import MANIFEST
from benchmarks.trainer.sides import measured
from benchmarks.trainer.workload import Workload
from experiments.cells import WEIGHTS, Cell, Laboratory
from experiments.pods import pod_environment
from experiments.recipes import unseen_prompts
from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.adapter import WEIGHTS as ADAPTER_FILE
from instructbooth_trainer.diffusion.adapter import denoiser_targets
from instructbooth_trainer.diffusion.prompts import expand, identifier_free, reward_text

OURS, TRL = "benchmarks.trainer.ours", "benchmarks.trainer.peers.trl_ddpo"
TRL_RANK: Final = 4  # of its LoRA, on the attention's projections; it has no other
PICTURES: Final = 8  # judged of each unseen prompt
JUDGED_STEPS: Final = 10
SHARES: Final = (0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Side:
    """One loop with its settings.

    Attributes:
        says: what it does differently.
        changes: of the manifest's spec, ours; None is TRL.
        rate: learning rate of TRL.
        guidance: of rollouts, and of the pictures that are judged.
        adapted: TRL goes on from our adapter, not with a fresh LoRA of its own.
        grouped: TRL draws and compares groups of a prompt's pictures as we do, not one after the other.
    """

    says: str
    changes: Mapping[str, Any] | None = None
    rate: float = 0.0
    guidance: float = 1.0
    adapted: bool = False
    grouped: bool = False


_CLIP: Final = {"reinforcement.rewards": [{"name": "clip-score", "model": {"s3": {"prefix": "models/miniature/clip"}}}]}


def _guided(guidance: float) -> dict[str, Any]:
    return {"reinforcement.sampling": {"steps": 8, "guidanceScale": guidance}}


SIDES: Final = {
    "ours": Side("the demo's manifest, paid by the CLIP alone", {}),
    "all-steps": Side("noise in every step, and all of them trained on", {"reinforcement.timestepWindow": None}),
    "four-steps": Side(
        "noise in every step, and four random ones of each trajectory trained on",
        {"reinforcement.timestepWindow": None, "reinforcement.timestepsPerTrajectory": 4},
    ),
    "description": Side(
        "prompts without identifier say the description", {"reinforcement.identifierFreePhrase": "description"}
    ),
    "one-update": Side("one update an epoch", {"reinforcement.updatesPerEpoch": 1}),
    "guided": Side("guidance 2 in rollouts and in training", _guided(2), guidance=2),
    "guided-rollouts": Side(
        "guidance 2 in rollouts alone", {**_guided(2), "reinforcement.guidanceInTraining": False}, guidance=2
    ),
    "no-kl": Side("no KL, and so no passes of the reference", {"reinforcement.klWeight": 0}),
    "epoch-spread": Side("advantages by the epoch's spread", {"reinforcement.advantageStd": "epoch"}),
    "rate-2e-3": Side("twice the learning rate", {"reinforcement.learningRate": 2e-3}),
    "updates-8": Side("eight updates an epoch", {"reinforcement.updatesPerEpoch": 8}),
    "trl-adapted": Side("TRL with our learning rate, going on from our adapter", rate=1e-3, adapted=True),
    "trl-grouped": Side(
        "TRL with our learning rate, our adapter and our groups", rate=1e-3, adapted=True, grouped=True
    ),
    "trl": Side("TRL with our learning rate", rate=1e-3),
    "kl-10": Side("a thousand times the KL's weight", {"reinforcement.klWeight": 10}),
    "rate-3e-4": Side("a third of the learning rate", {"reinforcement.learningRate": 3e-4}),
    "trl-rate-3e-3": Side("TRL with ten times its own learning rate", rate=3e-3),
    "trl-own-rate": Side("TRL with its own learning rate", rate=3e-4),
    "trl-guided": Side("TRL, guidance 2 in rollouts and in training", rate=1e-3, guidance=2),
}


@dataclass
class Class:
    """Everybody's common start: one subject, one seed, one personalized model."""

    lab: Laboratory
    subject: str
    seed: int
    threads: int
    fused: Path = field(init=False)
    base: ResolvedJob = field(init=False)

    def __post_init__(self) -> None:
        """Personalize, and put the adapter into a copy of the base's weights, for the side that knows no other way."""
        self.base = self.lab.personalized(Cell(self.subject, self.seed, "equal", _CLIP))
        self.fused = self.lab.folder / f"fused-{self.base.uid}"
        pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS / "pipeline", safety_checker=None)
        pipeline.load_lora_weights(self.lab.output(self.base, Stage.PERSONALIZE), weight_name=ADAPTER_FILE)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        pipeline.save_pretrained(self.fused)

    def learn(self, name: str, epochs: int, every: int, peers: Path) -> Curve:
        """Let one side learn, and judge what it left."""
        side, folder = SIDES[name], self.lab.folder / f"{name}-{self.base.uid}"
        subject, templates = self.base.spec.subject, self.base.spec.reinforcement.prompts.inline or []
        free = identifier_free(subject, self.base.spec.reinforcement.identifier_free_phrase)
        called = [(t, who, named) for t in templates for who, named in ((subject, True), (free, False))]
        judged = {expand(t, who, identifier=named): reward_text(t, who) for t, who, named in called}
        changes = side.changes
        own, first = self.base.spec.personalization.lora, snapshot(folder, 0)
        fresh = changes is None and not side.adapted  # TRL's LoRA, on the model that holds the personalization
        model = self.fused if fresh else WEIGHTS / "pipeline"
        lora = Lora(rank=TRL_RANK, alpha=TRL_RANK) if fresh else own
        folder.mkdir(parents=True)
        judge = Judge(model, lora, subject, unseen_prompts(), PICTURES)
        if not fresh:
            judge.adapter.load(self.lab.output(self.base, Stage.PERSONALIZE))
        save_file(judge.adapter.tensors(), first)
        lesson = Lesson(epochs, every, str(WEIGHTS / "clip"), judged, str(folder))
        if side.adapted:
            lesson = replace(lesson, adapter=str(first), rank=own.rank, targets=denoiser_targets(judge.model, own))
        if side.grouped:
            lesson = replace(lesson, group=self.base.spec.reinforcement.images_per_prompt)
        path = lesson.save(folder.with_suffix(".lesson.json"))
        work = self._workload(list(judged), side, model).save(folder.with_suffix(".work.json"))
        if changes is not None:
            recipe = {**_CLIP, "reinforcement.epochs": epochs, **changes}
            job = self.lab.personalized(Cell(self.subject, self.seed, name, recipe))
            stem = self.lab.folder / "logs" / f"{job.uid}-learn"
            env = pod_environment(job, Stage.REINFORCE, self.lab.folder / "store", stem, self.threads)
            result, _ = measured([OURS, "learn", work, path], self.threads, env)
        else:
            result, _ = measured([TRL, "learn", work, path], self.threads, None, peers)
        marks = list(itertools.accumulate(result.seconds, initial=0.0))
        counts = [0, *range(every, epochs + 1, every)]
        found = [judge.alignment(snapshot(folder, count), JUDGED_STEPS, side.guidance) for count in counts]
        return Curve([marks[count] for count in counts], found)

    def _workload(self, prompts: list[str], side: Side, model: Path) -> Workload:
        spec = self.base.spec.reinforcement
        return Workload(
            str(model), "", prompts, "", resolution=64, threads=self.threads, learning_rate=side.rate,
            pictures=spec.prompts_per_epoch * spec.images_per_prompt, sampling_steps=spec.sampling.steps,
            guidance=side.guidance, train_batch=16, clip_range=spec.clip_range,
        )  # fmt: skip


def compare(curves: Mapping[str, Curve], ours: str, peer: str) -> Iterator[Measure]:
    """Seconds of both to the same alignment: at half, three quarters and all of what we gain."""
    one, other = curves[ours], curves[peer]
    for share in SHARES:
        goal = level(one, share)
        seconds = other.reaches(goal)
        more: dict[str, float | str] = {
            "side": ours,
            "peer": peer,
            "share_of_gain": share,
            "alignment": round(goal, 4),
            "start": round(one.alignment[0], 4),
            "peer_best": round(max(other.smooth()), 4),
        }
        yield Measure(
            "reinforce_to_equal_alignment_s",
            "s",
            one.reaches(goal),
            seconds,
            higher_is_better=False,
            reason=None if seconds is not None else f"the peer did not reach it in {other.seconds[-1]:.0f} s",
            more=more,
        )


class Notebook:
    """The curves in a file, a line of JSON each; several runs may add to it side by side."""

    def __init__(self, path: Path, **key: str | int) -> None:
        """`key` is what a run was made with, apart from the side."""
        self._path, self._key = path, key

    def curves(self) -> dict[str, Curve]:
        """By side, those of this key."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        rows = [row for row in map(json.loads, lines) if all(row.get(name) == self._key[name] for name in self._key)]
        return {row["side"]: Curve(row["seconds"], row["alignment"]) for row in rows if row["side"] in SIDES}

    def add(self, side: str, curve: Curve) -> None:
        """Keep one."""
        digits = {name: [round(value, 4) for value in values] for name, values in asdict(curve).items()}
        with self._path.open("a") as file:
            file.write(json.dumps({**self._key, "side": side, **digits}) + "\n")


def main(words: list[str] | None = None) -> None:
    """Print a line per measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", type=Path, help="interpreter made from peers.txt; without it only compare")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--subject", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=56)
    parser.add_argument("--every", type=int, default=4, help="epochs between two snapshots")
    parser.add_argument(
        "--curves", type=Path, default=Path("out/equal.jsonl"), help="kept here; sides that are there are not run again"
    )
    given = parser.parse_args(words)
    print(f"load of this machine before: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", file=sys.stderr)
    torch.set_num_threads(given.threads)  # the judge's too: beside another run, more threads than cores only wait
    given.curves.parent.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:12]
    book = Notebook(given.curves, subject=given.subject, seed=given.seed, threads=given.threads, manifest=recipe)
    missing = [name for name in given.sides if name not in book.curves()]
    if missing and given.peers_python:
        with tempfile.TemporaryDirectory(prefix="instructbooth-equal-") as folder:
            lab = Laboratory(Path(folder), MANIFEST)
            lab.prepare([given.subject])
            start = Class(lab, given.subject, given.seed, given.threads)
            for number, name in enumerate(missing, start=1):
                print(f"{number}/{len(missing)} {name}: {SIDES[name].says}", file=sys.stderr, flush=True)
                book.add(name, start.learn(name, given.epochs, given.every, given.peers_python))
    curves = book.curves()
    for peer in (name for name in curves if SIDES[name].changes is None):
        for ours in (name for name in curves if SIDES[name].changes is not None):
            for measure in compare(curves, ours, peer):
                print(measure.line(), flush=True)


if __name__ == "__main__":
    main()
