"""The document: numbers in the right cells, words that follow from them, and what is not there said to be so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from experiments.cells import ROOT, Cell, Laboratory
from experiments.figures import mean_curve, sheet_prompts, strip
from experiments.page import HEADLINE_CELL, STRIPS, rows, write_document
from experiments.recipes import FEW_SEEDS, FEW_SUBJECTS, KINDS, RECIPES
from experiments.records import Book, Record, record_key
from experiments.tables import HELD_OUT, TRAINED
from experiments.view import View
from instructbooth_trainer.report.evaluation import MODELS, Drawing, Evaluation, Picture, Prompt

ALIGNMENT = {"base": 0.9, "personalized": 0.4, "reinforced": 0.8}
METRICS = ("miniature-oracle", "clip-score", "subject-identity", "diversity")


def fill(book: Book, lab: Laboratory, recipe: str, *, less: float = 0.0, code: str = "", likeness: float = 0.3) -> None:
    """Records of all cells of a recipe: alignment as above, `less` of it after RL."""
    values = dict(ALIGNMENT, reinforced=ALIGNMENT["reinforced"] - less)
    groups = [TRAINED, HELD_OUT, *(f"{HELD_OUT}: {kind}" for kind in KINDS)]
    other = {model: likeness if model == "reinforced" else 0.3 for model in MODELS}
    numbers = {
        m: {metric: dict.fromkeys(groups, (values if metric == METRICS[0] else other)[m]) for metric in METRICS}
        for m in MODELS
    }
    for cell in RECIPES[recipe].cells():
        record = Record(
            key=record_key(lab.job(cell), lab.weights), code=code or lab.code, made="2026-01-02 03:04", minutes=1,
            numbers=numbers, curve={"reward/clip-score": [0.1, 0.2], "kl": [0.0, 0.1]},
        )  # fmt: skip
        book.put(cell, record)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("lab"), ROOT / "examples" / "demo" / "job.yaml")


def written(folder: Path, lab: Laboratory, book: Book) -> str:
    write_document(folder / "results.md", folder / "results", View(lab, book))
    return (folder / "results.md").read_text()


def line(text: str, start: str) -> list[str]:
    """The columns of the table's line that starts so."""
    found = [row for row in text.splitlines() if row.startswith(f"| {start}")]
    assert found, start
    return [column.strip() for column in found[0].strip("|").split("|")]


def test_nothing_there_yet(tmp_path, lab):
    text = written(tmp_path, lab, Book(tmp_path / "cells"))
    assert re.search(r"^0 of \d+ cells are there; code", text, re.MULTILINE)
    assert text.count("**open**") == 8 + 7  # goals and techniques
    assert "reached**" not in text
    assert "## Training curves" not in text
    assert "## Contact sheet" not in text
    assert line(text, "full InstructBooth |")[1:3] == ["0 of 25", "-"]
    assert not (tmp_path / "results" / "curves.svg").exists()


def test_rows_and_verdicts_follow_from_the_records(tmp_path, lab):
    book = Book(tmp_path / "cells")
    fill(book, lab, "full")
    fill(book, lab, "no-description", less=0.1)
    fill(book, lab, "peer", less=0.5)
    text = written(tmp_path, lab, book)
    assert line(text, "base model |")[1:3] == ["25", "0.900 [0.900, 0.900]"]
    assert line(text, "DreamBooth |")[2] == "0.400 [0.400, 0.400]"
    assert line(text, "a peer's way: plain DDPO |")[2] == "0.300 [0.300, 0.300]"
    goal = line(text, "DreamBooth: alignment on RL prompts")
    assert goal[1:] == ["+40.0 [+40.0, +40.0] points, 25 pairs", "**reached**"]
    assert line(text, "full - plain DDPO")[1:] == [
        "+50.0 [+50.0, +50.0] points", "+50.0 [+50.0, +50.0] points", "+0.000 [+0.000, +0.000]", "25", "**it helps**",
        "no effect established",
    ]  # fmt: skip
    assert line(text, "plain DDPO - DreamBooth")[-2] == "**it harms**"
    assert line(text, "KL: full - without")[-2] == "**open**"
    assert "made from 2026-01-02 03:04" in text
    assert (
        "Full InstructBooth against DreamBooth: +40.0 [+40.0, +40.0] points of alignment on RL prompts, +40.0 [+40.0, "
        "+40.0] points on unseen ones, likeness +0.000 [+0.000, +0.000] (25 pairs)." in text
    )
    svg = (tmp_path / "results" / "curves.svg").read_text()
    assert svg.count("<polyline") == 3 * 2  # three recipes, two of the curves each
    assert "full InstructBooth: alignment reward, 25 cells" in svg


def test_incomplete_and_older_rows_are_marked(tmp_path, lab):
    book = Book(tmp_path / "cells")
    fill(book, lab, "full", code="older")
    whole = next(RECIPES["no-kl"].cells())
    record = book.get(next(RECIPES["full"].cells()), record_key(lab.job(next(RECIPES["full"].cells())), lab.weights))
    assert record is not None
    book.put(whole, record.model_copy(update={"key": record_key(lab.job(whole), lab.weights)}))
    stale = Cell("patch", 0, "no-kl")
    book.put(stale, record.model_copy(update={"key": "of another experiment"}))
    text = written(tmp_path, lab, book)
    assert line(text, "full InstructBooth |")[1] == "25 (25 of older code)"
    assert line(text, "RL without KL |")[1] == "1 of 25 (1 of older code)"
    assert re.search(r"^26 of \d+ cells are there, 26 of them of older code", text, re.MULTILINE)


def test_guards_are_judged_by_their_cells(tmp_path, lab):
    book = Book(tmp_path / "cells")
    fill(book, lab, "fade", likeness=0.1)
    for cell in RECIPES["fade"].cells():  # what is paid rises
        record = book.get(cell, record_key(lab.job(cell), lab.weights))
        assert record is not None
        numbers = {m: {k: dict(v) for k, v in metrics.items()} for m, metrics in record.numbers.items()}
        numbers["reinforced"]["clip-score"][TRAINED] = 0.7
        book.put(cell, record.model_copy(update={"numbers": numbers}))
    fill(book, lab, "fade-kl-ceiling", likeness=0.25)
    text = written(tmp_path, lab, book)
    assert "the fading is **seen**" in text
    assert "KL ceiling: likeness +0.150 [+0.150, +0.150] against no guard, 6 pairs: **it holds the subject**." in text
    assert line(text, "no guard")[2:4] == ["+0.400 [+0.400, +0.400]", "0.300 [0.300, 0.300]"]


def test_sensitivity_compares_on_its_own_cells(tmp_path, lab):
    book = Book(tmp_path / "cells")
    for name in ("full", "no-kl"):
        fill(book, lab, name, less=0.25 if name == "no-kl" else 0)
    text = written(tmp_path, lab, book)
    pairs = len(FEW_SUBJECTS) * len(FEW_SEEDS)
    assert line(text, "klWeight 0 |")[1:3] == [f"{pairs} of {pairs}", "-25.0 [-25.0, -25.0] points"]
    assert line(text, "klWeight 0.1 |")[1:3] == [f"0 of {pairs}", "-"]


def test_a_sheet_is_put_together_from_strips(tmp_path, lab):
    book = Book(tmp_path / "cells")
    fill(book, lab, "full")
    prompts = sheet_prompts(lab.spec["reinforcement"]["prompts"]["inline"])
    folder = tmp_path / "results" / STRIPS
    folder.mkdir(parents=True)
    for model in MODELS:
        Image.new("RGB", (64, 64 * len(prompts)), (200, 0, 0)).save(folder / f"full-{model}.png")
    Image.new("RGB", (64, 64 * len(prompts))).save(folder / "peer-reinforced.png")  # of a cell that is not there
    assert "## Contact sheet" in written(tmp_path, lab, book)
    found = Image.open(tmp_path / "results" / "contact-sheet.png").convert("RGB")
    colours = {colour: count for count, colour in found.getcolors(1 << 24) or []}
    assert colours[200, 0, 0] == 3 * len(prompts) * 128 * 128
    assert (0, 0, 0) not in colours


def test_a_strip_holds_the_first_picture_of_each_prompt(tmp_path):
    for number, level in enumerate((10, 20, 30, 40)):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / f"{number}.png")
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    pictures = [
        Picture(
            model="base", prompt_index=i, number=n, file=f"{at}.png", prompt="", batch_seeds=[0], batch_index=0,
            scores={},
        )
        for at, (i, n) in enumerate(places)
    ]  # fmt: skip
    drawing = Drawing(steps=1, guidance_scale=1, resolution=64, dtype="fp32", threads=1, device="cpu", versions={})
    evaluation = Evaluation(
        job="a/b", uid="1", subject="s", identifier="sks", headline="m", metrics=[], drawing=drawing, pictures=pictures,
        prompts=[Prompt(template=t, judged=t) for t in ("first", "second")], summary={}, per_prompt={},
    )  # fmt: skip
    found = strip(evaluation, tmp_path, "base", ["second", "first"])
    assert [found.getpixel((5, y)) for y in (5, 69)] == [(30, 30, 30), (10, 10, 10)]
    with pytest.raises(KeyError, match="third"):
        strip(evaluation, tmp_path, "base", ["third"])


def test_a_mean_curve_goes_as_far_as_all():
    mean, half = mean_curve([[1.0, 2.0, 3.0], [3.0, 2.0]])
    assert mean == [2.0, 2.0]
    assert half == [1.0, 0.0]
    assert mean_curve([]) == ([], [])


def test_the_rows_are_the_issues():
    assert [row.title for row in rows().values()] == [
        "base model",
        "DreamBooth",
        "DreamBooth + description",
        "a peer's way: plain DDPO",
        "RL without identifier-free prompts",
        "RL without description",
        "RL without KL",
        "full InstructBooth",
    ]
    assert {(c.subject, c.seed) for c in rows()["full"].cells} >= {HEADLINE_CELL}
