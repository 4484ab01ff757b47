"""Makes everything under miniature/weights from a seed: `python -m instructbooth_miniature.build`.

Each stage keeps what it made in the work folder and is skipped when that is there; the long ones also keep checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from . import stages

ROOT: Final = Path(__file__).parents[2]
STAGES: Final[dict[str, Callable[[stages.Plan], None]]] = {
    "data": stages.data,
    "restore": stages.restore,
    "vae": stages.vae,
    "text": stages.text,
    "unet": stages.unet,
    "clip": stages.clip,
    "fidelity": stages.fidelity,
    "export": stages.export,
    "card": stages.card,
}
FROM_NOTHING: Final = tuple(name for name in STAGES if name != "restore")
GO_ON: Final = ("data", "restore", "unet", "export", "card")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "miniature", help="data and checkpoints")
    parser.add_argument("--weights", type=Path, default=ROOT / "miniature" / "weights", help="what is shipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes of the stages data and unet"
    )
    parser.add_argument("--unet-steps", type=int, default=stages.Plan.unet_steps, help="more is better")
    parser.add_argument("--clip-steps", type=int, default=stages.Plan.clip_steps, help="of the reward model")
    parser.add_argument(
        "--go-on",
        action="store_true",
        help=f"start from the shipped weights instead of from nothing: the stages {', '.join(GO_ON)}",
    )
    parser.add_argument(
        "--only", choices=STAGES, action="append", help="run this stage alone (may be given more than once)"
    )
    return parser.parse_args()


def main() -> None:
    """Run the stages in order, and note how long each took in the work folder's seconds.json."""
    given = _arguments()
    plan = stages.Plan(
        given.work, given.weights, given.seed, given.workers, given.unet_steps, clip_steps=given.clip_steps
    )
    plan.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # many small operators: two threads wait for each other more than they work
    chosen = given.only or (GO_ON if given.go_on else FROM_NOTHING)
    if "restore" in chosen:
        take_up_seconds(plan.work / "seconds.json", plan.weights.parent / "figures.json")
    for name in chosen:
        started = time.monotonic()
        STAGES[name](plan)
        seconds = time.monotonic() - started
        print(f"[{name}] done in {seconds:.0f} s", file=sys.stderr, flush=True)
        note_seconds(plan.work / "seconds.json", name, seconds)


def take_up_seconds(path: Path, figures: Path) -> None:
    """Start from the seconds that the shipped weights took, unless this work folder counts its own already."""
    if not path.exists():
        path.write_text(json.dumps(json.loads(figures.read_text()).get("seconds", {}), indent=1))


def note_seconds(path: Path, stage: str, seconds: float) -> None:
    """Add to a stage's seconds: a stage that was cut short and resumed took all its parts together."""
    noted: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    noted[stage] = round(noted.get(stage, 0.0) + seconds, 1)
    path.write_text(json.dumps(noted, indent=1))


if __name__ == "__main__":
    main()
