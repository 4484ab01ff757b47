"""The golden run: 20 steps of personalization and 20 updates of reinforcement on the tiny random models.

`python -m tests.golden.golden` writes golden.json anew; do so only with a change that is meant to change the numbers,
and say in its commit why they moved. The tolerance covers other CPUs, thread counts and BLAS kernels (seen: 2e-6 with
one thread against two); a changed seed, formula or order of random numbers moves every number by far more.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from instructbooth.contract import Stage
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import make_tiny_world

GOLDEN = Path(__file__).with_name("golden.json")
RELATIVE_TOLERANCE = 1e-3
KEYS = ("reward_mean", "reward_std", "kl", "grad_norm")


def golden_run(root: Path) -> dict[str, Any]:
    """Run both stages under `root`; their numbers, rounded to 8 significant digits."""
    lab = Lab(root / "store", make_tiny_world(root / "tiny"))
    job = lab.job("golden")
    lab.run(job, Stage.PERSONALIZE)
    lab.run(job, Stage.REINFORCE)
    loss = json.loads((lab.output(job, Stage.PERSONALIZE) / "personalize.json").read_text())["loss"]
    epochs = json.loads((lab.output(job, Stage.REINFORCE) / "reinforce.json").read_text())["epochs"]
    return {
        "personalize": [float(f"{value:.8g}") for value in loss],
        "reinforce": [{key: float(f"{epoch[key]:.8g}") for key in KEYS} for epoch in epochs],
    }


def main() -> None:
    """Write golden.json."""
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(golden_run(Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    main()
