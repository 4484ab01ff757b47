"""A cell of the experiment, really run: stopped on the way, gone on with, kept, and not run again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from experiments.cells import ROOT, Cell, CellStopped, Laboratory
from experiments.page import STRIPS
from experiments.recipes import FULL, KINDS, RECIPES
from experiments.records import Book, State
from experiments.results import Experiment
from experiments.tables import HELD_OUT, TRAINED
from instructbooth.contract import Stage

MANIFEST = ROOT / "examples" / "demo" / "job.yaml"
SMALL = {
    **next(RECIPES[FULL].cells()).changes,
    "personalization.steps": 1,
    "personalization.priorPreservation": {"numImages": 2, "sampling": {"steps": 2, "guidanceScale": 1}},
    "reinforcement.prompts": {"inline": ["a {subject} on the left", "a {subject} on the right"]},
    "reinforcement.epochs": 12,
    "reinforcement.promptsPerEpoch": 2,
    "reinforcement.imagesPerPrompt": 2,
    "reinforcement.sampling": {"steps": 2, "guidanceScale": 1},
    "reinforcement.timestepWindow": {"end": 1},
    "reinforcement.checkpointIntervalEpochs": 1,
    "evaluation.imagesPerPrompt": 2,
    "evaluation.sampling": {"steps": 2, "guidanceScale": 1},
}
CELL = Cell("demo", 0, FULL, SMALL)


def stop_at_a_checkpoint(lab: Laboratory) -> None:
    """Stop the laboratory once the reinforcement has a checkpoint."""
    stage = lab.output(lab.job(CELL), Stage.REINFORCE).parent
    ends = time.monotonic() + 300
    while time.monotonic() < ends and not list(stage.glob("checkpoints/*/manifest.json")):
        time.sleep(0.02)
    lab.stop()


def test_a_cell_is_stopped_gone_on_with_and_kept(tmp_path: Path) -> None:
    book = Book(tmp_path / "results" / "cells")
    lab = Laboratory(tmp_path / "lab", MANIFEST)
    lab.claim()
    lab.prepare(["demo"])
    work = Experiment(lab, book, tmp_path / "results")
    assert work.state(CELL) is State.MISSING
    stopper = threading.Thread(target=stop_at_a_checkpoint, args=(lab,))
    stopper.start()
    with pytest.raises(CellStopped):
        work.run(CELL)
    stopper.join()
    assert work.todo([CELL]) == [CELL]
    with pytest.raises(CellStopped):  # a stopped laboratory begins nothing
        work.run(CELL)

    work = Experiment(Laboratory(tmp_path / "lab", MANIFEST), book, tmp_path / "results")
    work.run(CELL)
    assert "going on from step" in next((tmp_path / "lab" / "logs").glob("*-reinforce.log")).read_text()
    record = Book(tmp_path / "results" / "cells").get(CELL, work.key(CELL))
    assert record is not None
    assert work.todo([CELL]) == []
    groups = {TRAINED, HELD_OUT, *(f"{HELD_OUT}: {kind}" for kind in KINDS)}
    assert set(record.numbers) == {"base", "personalized", "reinforced"}
    for metrics in record.numbers.values():
        assert set(metrics) == {"miniature-oracle", "clip-score", "subject-identity", "diversity"}
        assert all(set(by_group) == groups for by_group in metrics.values())
    assert 0 < record.numbers["base"]["diversity"][TRAINED] < 1
    assert {name: len(curve) for name, curve in record.curve.items()} == dict.fromkeys(
        ["reward_mean", "reward/clip-score", "reward/subject-identity", "kl", "clip_fraction"], 12
    )
    strips = sorted(path.name for path in (tmp_path / "results" / STRIPS).glob("*.png"))
    assert strips == ["full-base.png", "full-personalized.png", "full-reinforced.png"]


def test_one_laboratory_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    first, second = (Laboratory(tmp_path, MANIFEST) for _ in range(2))
    first.claim()
    waiting = threading.Thread(target=second.claim, daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    assert first._claim is not None
    first._claim.close()
    waiting.join(20)
    assert not waiting.is_alive()
