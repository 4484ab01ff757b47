"""What is kept of a cell, when it is of this experiment, and when it is stale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.cells import ROOT, Cell, Laboratory
from experiments.records import Book, Record, State, nested, record_key, what_matters
from experiments.versions import SAME_AS, code_version, covered_files, meaning

MANIFEST = ROOT / "examples" / "demo" / "job.yaml"


def record(key: str = "k", code: str = "c", value: float = 0.5) -> Record:
    numbers = {"base": {"miniature-oracle": {"trained": value}}}
    return Record(key=key, code=code, made="2026-01-01 00:00", minutes=4, numbers=numbers, curve={"kl": [0.1]})


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("lab"), MANIFEST)


def test_book_keeps_records_over_sessions(tmp_path: Path) -> None:
    one, two = Cell("demo", 0, "full"), Cell("demo", 1, "full")
    Book(tmp_path).put(one, record())
    Book(tmp_path).put(two, record(value=0.25))
    again = Book(tmp_path)
    assert again.get(one, "k") == record()
    assert again.get(two, "k") == record(value=0.25)
    assert again.get(Cell("demo", 0, "other"), "k") is None
    lines = (tmp_path / "full.json").read_text().splitlines()
    assert len(lines) == 4  # a line a cell: changes can be read, and merge
    assert set(json.loads("\n".join(lines))) == {"demo/0", "demo/1"}
    assert [path.name for path in tmp_path.iterdir()] == ["full.json"]


def test_states(tmp_path: Path) -> None:
    book, cell = Book(tmp_path), Cell("demo", 0, "full")
    assert book.state(cell, "k", "c") is State.MISSING
    book.put(cell, record())
    assert book.state(cell, "k", "c") is State.CURRENT
    assert book.state(cell, "k", "new") is State.OLDER_CODE
    assert book.state(cell, "another", "c") is State.MISSING
    assert book.get(cell, "another") is None


def test_a_damaged_file_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "full.json").write_text('{"demo/0": {"key": "k"}}')
    with pytest.raises(ValidationError, match="code"):
        Book(tmp_path)


def test_key_is_of_what_is_asked_and_not_of_where_it_runs(lab: Laboratory) -> None:
    def key(changes: dict[str, object], weights: str = "w", cell: tuple[str, int] = ("demo", 0)) -> str:
        return record_key(lab.job(Cell(*cell, "any", changes)), weights)

    base = key({})
    elsewhere = {
        "artifacts.bucket": "another",
        "reinforcement.checkpointIntervalEpochs": 1,
        "personalization.checkpointIntervalSteps": 7,
        "evaluation.resources": {},
        "runPolicy": {"backoffLimit": 7},
    }
    assert key(elsewhere) == base
    assert key({"reinforcement.eta": 1.0, "model.dtype": "fp32"}) == base  # said or left out, it is the default
    said = what_matters(lab.job(Cell("demo", 0, "any")).spec)
    assert "innerEpochs" not in said["reinforcement"]  # and a field that is new tomorrow changes no key
    assert "klWeight" not in said["reinforcement"]  # the manifest says the default
    different = [
        key({}, weights="other"),
        key({}, cell=("demo", 1)),
        key({}, cell=("patch", 0)),
        key({"reinforcement.klWeight": 0.02}),
        key({"personalization.steps": 201}),
        key({"evaluation.imagesPerPrompt": 7}),
        key({"evaluation.prompts": {"inline": ["a {subject} at the top"]}}),
        key({"subject.description": None}),
    ]
    assert len({base, *different}) == len(different) + 1


def test_code_is_told_apart_by_what_it_means() -> None:
    said = 'def f(x):\n    """Doc."""\n    # why\n    return 2 * x\n'
    assert meaning(said) == meaning("def f(x): return 2*x")
    assert meaning('"""Doc."""') == meaning('"""Other."""')
    assert meaning(said) != meaning("def f(x): return 3*x")


def test_code_covers_equations_loops_and_judge(tmp_path: Path) -> None:
    names = {path.name for path in covered_files()}
    assert {"advantages.py", "surrogate.py", "kl.py", "reinforce.py", "rollouts.py", "oracle.py"} <= names
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    before = code_version([file])
    file.write_text("x = 1  # said")
    assert code_version([file]) == before
    file.write_text("x = 2")
    assert code_version([file]) != before
    assert len(code_version()) == 12


def test_a_version_that_computes_the_same_is_called_by_the_earlier_one(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    earlier = code_version([file])
    file.write_text("y = 1")
    monkeypatch.setitem(SAME_AS, code_version([file]), earlier)
    assert code_version([file]) == earlier
    assert all(re.fullmatch("[0-9a-f]{12}", version) for pair in SAME_AS.items() for version in pair)


def test_numbers_are_nested_and_rounded() -> None:
    kept = nested({("base", "m", "trained"): 1 / 3, ("base", "m", "held out"): 1.0, ("reinforced", "m", "trained"): 0})
    assert kept == {"base": {"m": {"trained": 0.33333, "held out": 1.0}}, "reinforced": {"m": {"trained": 0.0}}}
    found = record()
    assert found.number(("base", "miniature-oracle", "trained")) == 0.5
    assert found.number(("base", "miniature-oracle", "held out")) is None
