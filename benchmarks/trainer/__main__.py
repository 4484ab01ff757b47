"""`make bench-trainer`: our trainer beside its peers, in one run on one model, with the same prompts and threads.

    python -m benchmarks.trainer --peers-python out/peers-venv/bin/python --examples .../diffusers/examples

A line on stdout per measure: one JSON object {name, ours, peer, floor, ratio, unit, ours_of_floor, peer_of_floor,
versions}. docs/performance.md says what each one is. A peer that is not there gives null with a reason; without
--peers-python ours is set beside the floor alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Measure
from benchmarks.trainer.job import Bench
from benchmarks.trainer.measures import Trainer
from benchmarks.trainer.models import SHAPES, four_channels, random_pipeline
from benchmarks.trainer.sides import Peers

MINIATURE = "miniature"
RESOLUTION = 64
PARTS = ("passes", "personalize", "reinforce", "guided", "updates", "compiled", "parts", "update", "gang")
SMALL = {"pictures": 16, "sampling_batch": 16, "train_batch": 8, "sampling_steps": 3, "batch": 2, "steps": 8}
LARGE = {"pictures": 16, "sampling_batch": 8, "train_batch": 8, "sampling_steps": 10, "batch": 4, "steps": 30}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", choices=[MINIATURE, *SHAPES], default=MINIATURE, help="the others have random weights"
    )
    parser.add_argument("--peers-python", type=Path, help="interpreter of an environment made from peers.txt")
    parser.add_argument(
        "--examples", type=Path, default=os.environ.get("DIFFUSERS_EXAMPLES") or None, help="diffusers' examples folder"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is started")
    parser.add_argument("--epochs", type=int, default=3, help="measured in each round, after one of warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(words)


def measures(given: argparse.Namespace, folder: Path) -> Iterator[Measure]:
    """Everything that was asked for, one after the other."""
    model, resolution, sizes = None, RESOLUTION, dict[str, Any]()
    if given.model != MINIATURE:
        shape = SHAPES[given.model]
        model, resolution = random_pipeline(folder / given.model, shape), shape.resolution
        sizes = SMALL if given.model == "tiny" else LARGE
    sizes |= {"device": given.device, "dtype": given.dtype, "threads": given.threads, "epochs": given.epochs}

    def trainer_on(place: Path, model: Path | None) -> Trainer:
        bench = Bench(place, model)
        work = bench.workload(resolution, **sizes)
        return Trainer(bench, work, Peers(given.peers_python, given.examples), given.rounds)

    if "personalize" in given.only:
        yield from trainer_on(folder / "personalize", model or four_channels(folder / "four-channels")).personalize()
    trainer = trainer_on(folder / "reinforce", model)
    if "passes" in given.only:
        yield from trainer.passes()
    if "reinforce" in given.only:
        yield from trainer.reinforce("reinforce")
    if "guided" in given.only:
        yield from trainer.reinforce("reinforce_guided", guidance=3.0)
    if "updates" in given.only:
        yield from trainer.reinforce("reinforce_two_updates", updates=2)
    if "compiled" in given.only:
        yield from trainer.reinforce("reinforce_compiled", compiled=True)
    if "parts" in given.only:
        yield trainer.parts()
    if "update" in given.only:
        yield trainer.update()
    if "gang" in given.only and given.device == "cpu":
        yield trainer.gang()


def main(words: list[str] | None = None) -> None:
    """Print a line per measure."""
    given = arguments(words)
    print(f"load of this machine before: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="instructbooth-bench-") as folder:
        for measure in measures(given, Path(folder)):
            print(measure.line(), flush=True)


if __name__ == "__main__":
    main()
