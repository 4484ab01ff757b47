"""The experiment's runner: what a cell is, what is run again, how numbers come together."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from experiments.__main__ import recipe
from experiments.cells import ROOT, Cell, CellFailed, Laboratory, all_prompts, changed
from experiments.tables import HELD_OUT, TRAINED, cell_numbers, interval, kind, render
from instructbooth.contract import Stage
from instructbooth_trainer.report.evaluation import Drawing, Evaluation, Picture, Prompt

MANIFEST = ROOT / "examples" / "demo" / "job.yaml"
SMALL = {
    "personalization.steps": 1,
    "personalization.priorPreservation": {"numImages": 2, "sampling": {"steps": 2, "guidanceScale": 1}},
    "reinforcement.prompts": {"inline": ["a {subject} on the left"]},
    "reinforcement.epochs": 1,
    "reinforcement.promptsPerEpoch": 1,
    "reinforcement.imagesPerPrompt": 4,
    "reinforcement.sampling": {"steps": 2, "guidanceScale": 1},
    "reinforcement.timestepWindow": {"end": 1},
    "evaluation.imagesPerPrompt": 1,
    "evaluation.sampling": {"steps": 2, "guidanceScale": 1},
}


def evaluation(scores: dict[tuple[str, int], list[float]]) -> Evaluation:
    """Scores of a metric "m" by model and prompt; prompt 0 asks for a background, prompt 1 for two things."""
    prompts = [
        Prompt(template="a {subject} on a red background", judged="a mascot on a red background"),
        Prompt(template="a small {subject} on a blue background", judged="a small mascot on a blue background"),
    ]
    pictures = [
        Picture(
            model=model, prompt_index=index, number=n, file="", prompt="", batch_seeds=[0], batch_index=0,
            scores={"m": value},
        )
        for (model, index), values in scores.items()
        for n, value in enumerate(values)
    ]  # fmt: skip
    drawing = Drawing(steps=1, guidance_scale=1, resolution=64, dtype="fp32", threads=1, device="cpu", versions={})
    return Evaluation(
        job="a/b", uid="1", subject="mascot", identifier="sks", headline="m", metrics=["m"], drawing=drawing,
        prompts=prompts, pictures=pictures, summary={}, per_prompt={},
    )  # fmt: skip


def test_changes_set_and_remove_and_leave_the_manifest_alone() -> None:
    spec = {"a": {"b": 1, "c": 2}}
    assert changed(spec, {"a.b": 3, "a.c": None, "d": 4}) == {"a": {"b": 3}, "d": 4}
    assert spec == {"a": {"b": 1, "c": 2}}
    with pytest.raises(KeyError, match="x"):
        changed(spec, {"x.y": 1})


def test_what_a_cell_changes_comes_after_what_all_cells_have(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path, MANIFEST)
    whole = {**lab.spec["reinforcement"], "nodes": 3}
    changes = {"reinforcement": whole, "reinforcement.nodes": 2}
    assert lab.job(Cell("demo", 0, "one", changes)).spec.reinforcement.nodes == 2


def test_recipe_is_read_as_yaml() -> None:
    assert recipe("quiet: a.b=0.5 c=null") == ("quiet", {"a.b": 0.5, "c": None})
    with pytest.raises(argparse.ArgumentTypeError, match="is not like"):
        recipe("quiet: a.b")


def test_interval_holds_the_mean_and_narrows() -> None:
    few, many = interval([0.0, 1.0] * 3), interval([0.0, 1.0] * 100)
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    # A mean of n values of variance 1/4: 1.96 / (2 sqrt(n)) on either side.
    assert many.high - 0.5 == pytest.approx(1.96 / (2 * 200**0.5), rel=0.1)
    with pytest.raises(ValueError, match="no cells"):
        interval([])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a mascot on a red background", "background"),
        ("a small mascot", "position/size"),
        ("a mascot at the top", "position/size"),
        ("a mascot next to a red circle", "second object"),
        ("a mascot on the left on a red background", "two at once"),
        ("a mascot", "nothing"),
    ],
)
def test_kinds(prompt: str, expected: str) -> None:
    assert kind(prompt) == expected


def test_numbers_of_a_cell_are_split_by_what_was_trained() -> None:
    numbers = cell_numbers(
        evaluation({("base", 0): [1.0, 0.0], ("base", 1): [1.0]}), ["a {subject} on a red background"]
    )
    assert numbers == {
        ("base", "m", TRAINED): 0.5,
        ("base", "m", HELD_OUT): 1.0,
        ("base", "m", f"{HELD_OUT}: two at once"): 1.0,
    }


def test_table_has_a_row_per_recipe_and_model() -> None:
    models = ("base", "personalized", "reinforced")
    scores = {(model, index): [float(place) / 2] for place, model in enumerate(models) for index in (0, 1)}
    cell = cell_numbers(evaluation(scores), ["a {subject} on a red background"])
    lines = render({"full": [cell, cell]}, ["m"]).splitlines()
    assert lines[2:] == [
        "| full | base | 2 | 0.000 [0.000, 0.000] | 0.000 [0.000, 0.000] |",
        "| full | personalized | 2 | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] |",
        "| full | reinforced | 2 | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |",
    ]


def test_evaluated_are_the_trained_prompts_and_the_held_out_ones_once_each() -> None:
    spec = {"reinforcement": {"prompts": {"inline": ["a", "b"]}}, "evaluation": {"prompts": {"inline": ["b", "c"]}}}
    assert all_prompts(spec) == ["a", "b", "c"]


def drawn_anew(logs: Path, output: Path) -> set[str]:
    """Models whose pictures a cell's evaluation did not find."""
    uid = output.parents[2].name
    return set(re.findall(r"(\w+) model, prompt", (logs / f"{uid}-evaluate.log").read_text()))


def test_cells_that_differ_in_reinforcement_alone_share_all_else(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path, MANIFEST)
    lab.prepare(["patch"])
    one = Cell("patch", 3, "one", SMALL)
    two = Cell("patch", 3, "two", {**SMALL, "reinforcement.klWeight": 1.0})
    output = lab.run(one)
    found = Evaluation.model_validate_json((output / "evaluation.json").read_text())
    assert found.subject == "dotted heart mascot"
    assert {prompt.template for prompt in found.prompts} >= {"a {subject} on the left", "a {subject} at the top"}
    logs = tmp_path / "logs"
    before = {path: path.stat().st_mtime_ns for path in logs.glob("*.log")}
    lab.run(one)
    assert {path: path.stat().st_mtime_ns for path in logs.glob("*.log")} == before
    other = lab.run(two)
    assert drawn_anew(logs, output) == {"base", "personalized", "reinforced"}
    assert drawn_anew(logs, other) == {"reinforced"}
    alone = lab.run(Cell("patch", 3, "three", {**SMALL, "evaluation.seed": 7}))
    assert drawn_anew(logs, alone) == drawn_anew(logs, output)
    assert [path.name.split("-")[1] for path in set(logs.glob("*.log")) - set(before)].count("personalize.log") == 0
    jobs = [lab.job(cell) for cell in (one, two)]
    assert jobs[0].uid != jobs[1].uid
    personalized = [lab.output(job, Stage.PERSONALIZE).resolve() for job in jobs]
    assert personalized[0] == personalized[1]


def test_a_failed_stage_tells_its_log(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path, MANIFEST)
    lab.prepare(["demo"])
    missing = {"model.source": {"s3": {"prefix": "models/none"}}}
    with pytest.raises(CellFailed, match="personalize ended with code 64"):
        lab.run(Cell("demo", 0, "broken", {**SMALL, **missing}))
