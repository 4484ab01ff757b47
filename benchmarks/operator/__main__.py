"""`make bench-operator N=400`: our operator and Kubeflow Trainer with JobSet, side by side on one control plane.

Each measure is a line on stdout that is one JSON object {name, ours, peer, ratio, unit, jobs, versions}, `floor`
where bare Jobs were measured too. Everything is written to out/bench-operator/results.json as well, and drawn;
samples-*.jsonl beside it says what each process did in each half minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.operator import stages
from benchmarks.operator.contender import GPUS_PER_POD, Contender
from benchmarks.operator.floor import Floor
from benchmarks.operator.kubeflow import Kubeflow
from benchmarks.operator.measure import Result, measure, say
from benchmarks.operator.ours import Ours
from benchmarks.operator.plane import GPUS_PER_NODE, BenchPlane, running
from benchmarks.operator.plot import picture
from benchmarks.operator.processes import end_with_everything
from benchmarks.operator.report import rows

CONTENDERS: dict[str, Callable[[BenchPlane, int], Contender]] = {kind.name: kind for kind in (Ours, Kubeflow, Floor)}
SECONDS_PER_JOB, SECONDS_AT_LEAST = 3.0, 600.0  # the machine may be busy


def compare(plane: BenchPlane, count: int, names: list[str], gpus_per_pod: int, out: Path) -> Iterator[Result]:
    """All contenders in turn, each alone with the control plane."""
    limit = max(SECONDS_AT_LEAST, SECONDS_PER_JOB * count)
    for name in names:
        yield measure(CONTENDERS[name](plane, gpus_per_pod), count, limit, out)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[400], metavar="N")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--gpus-per-pod", type=int, default=GPUS_PER_POD, choices=range(1, GPUS_PER_NODE + 1))
    parser.add_argument("--out", type=Path, default=Path("out/bench-operator"))
    options = parser.parse_args()
    end_with_everything()
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []

    def write() -> None:  # after each contender: 5,000 jobs take long, and a run may be ended
        (options.out / "results.json").write_text(json.dumps({"results": results, "measures": lines}, indent=1))

    for count in options.jobs:
        got: dict[str, Result] = {}
        with (
            tempfile.TemporaryDirectory(prefix="bench-operator-") as folder,
            running(Path(folder), stages.quick()) as plane,
        ):
            say(f"a control plane with {count} jobs to come")
            for result in compare(plane, count, options.contenders, options.gpus_per_pod, options.out):
                got[result.contender] = result
                results.append(result.as_json())
                write()
        for line in rows(got.get("ours"), got.get("kubeflow"), got.get("floor")):
            print(json.dumps(line), flush=True)
            lines.append(line)
        write()
        (options.out / "results.svg").write_text(picture(lines))


if __name__ == "__main__":
    main()
