"""The data set read as it is, manifests per subject, the collected table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from instructbooth.artifacts.commit import commit
from instructbooth.artifacts.local import LocalStore
from instructbooth.cli.main import cli
from instructbooth.dreambench.collect import Job, collect, how_far
from instructbooth.dreambench.dataset import DataSetError, parse, read_data_set
from instructbooth.dreambench.manifests import subject_manifest
from instructbooth.dreambench.table import as_json, comma_separated, markdown
from instructbooth.spec.job import Artifacts, InstructBoothJobSpec
from instructbooth_trainer.report.evaluation import Drawing, Evaluation, Picture, Prompt, Scorer, summarize
from tests.unit.dreambench.layout import LIVE, OBJECT, SUBJECTS, make_data_set, text
from tests.unit.spec.examples import ROOT, demo

HERE = Path("data")


def spec() -> dict[str, Any]:
    """The demo's spec in the root of its bucket; one of its prompts is the data set's, too."""
    out: dict[str, Any] = demo()["spec"]
    out["artifacts"].pop("prefix")
    out["reinforcement"]["prompts"]["inline"].append("a {subject} on red")
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data_set(tmp_path / "data")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base manifest, the least there is."""
    job = spec()
    job["subject"]["images"] = {"s3": {"prefix": "dreambench"}}
    head = {"apiVersion": "instructbooth.io/v1alpha1", "kind": "InstructBoothJob", "metadata": {"name": "bench"}}
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({**head, "spec": job}))
    return path


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["dreambench", *map(str, words)])


@pytest.mark.parametrize("below", ["", "dataset"])
def test_the_data_set_is_read_from_checkout_or_folder(data, below):
    found = read_data_set(data / below)
    assert {s.name: s.class_name for s in found.subjects} == SUBJECTS
    toy, dog = found.subjects
    assert (toy.is_live, dog.is_live) == (False, True)
    assert found.prompts(toy) == tuple(f"a {{subject}} {end}" for end in OBJECT)
    assert found.prompts(dog) == tuple(f"a {{subject}} {end}" for end in LIVE)
    assert [path.name for path in found.pictures(toy)] == ["00.jpg", "01.jpg", "03.jpg"]


def test_class_nouns_of_two_words_and_prompts_that_begin_otherwise():
    found = parse(
        text({"bear": "stuffed animal"}, ["in the jungle"], ["wet"]).replace("'a {0} {1} wet'", '"a wet {0} {1}"'), HERE
    )
    assert found.subjects[0].class_name == "stuffed animal"
    assert found.live_prompts == ("a wet {subject}",)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("dog2,dog", "dog2", r"line 5: 'dog2' must be subject,class"),
        ("dog2,dog", "star_toy,dog", r"line 5.*new"),
        ("'a {0} {1} on blue'", "'a {0} on blue'", r"is no prompt with one '\{0\} \{1\}'"),
        ("Live Subject Prompts", "", r"no live prompts"),
        ("Classes", "Klassen", r"below no heading"),
    ],
)
def test_what_is_not_the_format_is_told_by_line(old, new, told):
    assert old in text()
    with pytest.raises(DataSetError, match=told):
        parse(text().replace(old, new, 1), HERE)


def test_a_folder_without_the_file_or_the_pictures_says_the_way_out(data):
    with pytest.raises(DataSetError, match=r"google/dreambooth"):
        read_data_set(data / "dataset" / "dog2")
    for path in (data / "dataset/dog2").iterdir():
        path.unlink()
    found = read_data_set(data)
    with pytest.raises(DataSetError, match=r"holds no picture.*--subject"):
        found.pictures(found.subject("dog2"))
    with pytest.raises(DataSetError, match=r"'cat9'.*star_toy, dog2"):
        found.subject("cat9")


def test_prompt_files(data, tmp_path):
    done = command("prompts", "--dataset", data, "--out", tmp_path / "prompts")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "prompts/dog2.txt").read_text().splitlines() == [f"a {{subject}} {end}" for end in LIVE]
    assert (tmp_path / "prompts/star_toy.txt").read_text().splitlines() == [f"a {{subject}} {end}" for end in OBJECT]
    one = command("prompts", "--dataset", data, "--out", tmp_path / "one", "--subject", "dog2")
    assert one.exit_code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["dog2.txt"]


def test_manifests_differ_in_what_is_the_subjects(data, base, tmp_path):
    (tmp_path / "d.yaml").write_text("star_toy: striped star mascot\ndog2: small white dog\n")
    words = ["manifests", "--dataset", data, "--base", base, "--descriptions", tmp_path / "d.yaml"]
    done = command(*words, "--out", tmp_path / "jobs")
    assert done.exit_code == 0, done.output
    jobs = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / "jobs").iterdir()}
    assert set(jobs) == {"bench-star-toy", "bench-dog2"}
    dog = jobs["bench-dog2"]["spec"]
    assert dog["subject"] == {
        "images": {"s3": {"prefix": "dreambench/dog2"}},
        "identifier": "sks",
        "className": "dog",
        "description": "small white dog",
    }
    assert dog["evaluation"]["prompts"] == {"inline": [f"a {{subject}} {end}" for end in LIVE]}
    before = yaml.safe_load(base.read_text())["spec"]
    for part in ("model", "personalization", "reinforcement", "artifacts"):
        assert dog[part] == before[part]
    for job in jobs.values():
        InstructBoothJobSpec.model_validate(job["spec"])
    assert "both trained on and held out" in done.output  # the base's own prompts are among the data set's


def test_the_examples_are_what_the_command_makes(data, tmp_path):
    example = ROOT / "examples/dreambench"
    words = ["manifests", "--dataset", data, "--base", example / "base.yaml"]
    done = command(*words, "--descriptions", example / "subjects.yml", "--out", tmp_path / "jobs")
    assert done.exit_code == 0, done.output
    assert "held out" not in done.output
    made = {path.name: path.read_text() for path in (tmp_path / "jobs").iterdir()}
    assert made == {path.name: path.read_text() for path in (example / "jobs").iterdir()}


def test_without_descriptions_the_way_out_is_told(data, base, tmp_path):
    words = ["manifests", "--dataset", data, "--base", base, "--out", tmp_path / "jobs"]
    done = command(*words)
    assert done.exit_code == 1
    assert "--descriptions" in done.output
    assert "--class-nouns-only" in done.output
    (tmp_path / "d.yaml").write_text("dog2: small white dog\n")
    done = command(*words, "--descriptions", tmp_path / "d.yaml")
    assert done.exit_code == 1
    assert "no description of star_toy" in done.output
    assert not (tmp_path / "jobs").exists()
    assert command(*words, "--class-nouns-only").exit_code == 0
    assert "description" not in yaml.safe_load((tmp_path / "jobs/bench-dog2.yaml").read_text())["spec"]["subject"]


def test_pictures_on_a_volume_and_in_a_config_map(data):
    found = read_data_set(data)
    job: dict[str, Any] = {"metadata": {"name": "b"}, "spec": spec()}
    job["spec"]["subject"]["images"] = {"pvc": {"claimName": "photos", "path": "bench"}}
    made = subject_manifest(job, found, found.subject("dog2"), None)
    assert made["spec"]["subject"]["images"] == {"pvc": {"claimName": "photos", "path": "bench/dog2"}}
    job["spec"]["subject"]["images"] = {"configMap": {"name": "photos"}}
    with pytest.raises(DataSetError, match="artifacts put"):
        subject_manifest(job, found, found.subject("dog2"), None)


def evaluation(name: str, score: float, **changes: Any) -> Evaluation:
    """Two prompts, two pictures each, around `score`; the reinforced model is 0.1 better than the base model."""
    pictures = [
        Picture(
            model=model, prompt_index=prompt, number=n, file="", prompt="", batch_seeds=[0, 1], batch_index=n,
            scores={"clip-i": score + plus + 0.01 * prompt},
        )
        for model, plus in (("base", 0.0), ("reinforced", 0.1)) for prompt in range(2) for n in range(2)
    ]  # fmt: skip
    drawing = Drawing(steps=2, guidance_scale=1, resolution=32, dtype="fp32", threads=1, device="cpu", versions={})
    return Evaluation(
        job=f"team/{name}", uid="u", subject="dog", identifier="sks", headline="clip-i", metrics=["clip-i"],
        scorers={"clip-i": Scorer(backbone="CLIP ViT-B/32", source="object storage, clip")}, drawing=drawing,
        prompts=[Prompt(template="a {subject}", judged="a dog")] * 2, pictures=pictures,
        summary=summarize(pictures, ["clip-i"]), per_prompt={},
    ).model_copy(update=changes)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", spec()["artifacts"]["bucket"])


def publish(store: LocalStore, tmp_path: Path, found: Evaluation, uid: str = "u", attempt: int = 1) -> str:
    folder = tmp_path / "published" / uid / str(attempt) / found.job
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(found.model_dump_json(by_alias=True))
    prefix = f"{found.job}/{uid}/evaluate/{attempt}/output/"
    commit(store, folder, prefix)
    return prefix


def jobs(*names: str) -> list[Job]:
    return [Job("team", name, Artifacts.model_validate(spec()["artifacts"])) for name in names]


def test_the_table_is_of_means_over_subjects(store, tmp_path):
    for name, score in (("a", 0.2), ("b", 0.4), ("c", 0.9)):
        publish(store, tmp_path, evaluation(name, score))
    found = collect(jobs("a", "b", "c"), [store], {})
    over = found.over_subjects("reinforced", "clip-i")
    # Subjects' means are score + 0.1 + 0.005: 0.305, 0.505, 1.005, their mean 0.605. Three subjects: the ends are those
    # of drawing one and the same three times, which has 1/27 of the draws at either end.
    assert over.mean == pytest.approx(0.605)
    assert [over.low, over.high] == pytest.approx([0.305, 1.005])
    assert over.cells == 3
    table = markdown(found)
    assert "| reinforced | 3 | 0.605 [0.305, 1.005] |" in table
    assert "- `clip-i`: CLIP ViT-B/32; object storage, clip" in table
    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [float(row["mean"]) for row in rows if row["job"] == "(all)"] == pytest.approx([0.505, 0.605])
    record = json.loads(as_json(found))
    assert record["summary"]["base"]["clip-i"]["mean"] == pytest.approx(0.505)
    assert record["jobs"]["b"]["summary"]["base"]["clip-i"]["n"] == 4


def test_missing_unfinished_and_damaged_jobs_are_named(store, tmp_path):
    publish(store, tmp_path, evaluation("done", 0.2))
    store.put_bytes("team/half/u/personalize/1/output/manifest.json", b"{}")
    store.put_bytes("team/half/u/evaluate/1/parts/base/000/manifest.json", b"{}")
    prefix = publish(store, tmp_path, evaluation("torn", 0.2))
    store.put_bytes(prefix + "evaluation.json", b"{}")
    for uid in ("u1", "u2"):
        publish(store, tmp_path, evaluation("twice", 0.2), uid)
    found = collect(jobs("done", "half", "torn", "twice", "never"), [store], {})
    assert list(found.evaluations) == ["done"]
    assert found.absent["half"] == "not finished: it is at evaluate, 1 prompts drawn"
    assert "damaged" in found.absent["torn"]
    assert "u1, u2: say which by --run twice=UID" in found.absent["twice"]
    assert "no trace of it" in found.absent["never"]
    assert "Without 4 of 5 jobs:" in markdown(found)
    assert {row["job"] for row in csv.DictReader(io.StringIO(comma_separated(found)))} >= {"half", "torn", "never"}
    chosen = collect(jobs("twice"), [store], {"twice": "u2"})
    assert chosen.absent == {}


def test_the_newest_attempt_counts(store, tmp_path):
    for attempt, score in ((2, 0.2), (10, 0.7)):
        publish(store, tmp_path, evaluation("a", score), attempt=attempt)
    found = collect(jobs("a"), [store], {})
    assert found.over_subjects("base", "clip-i").mean == pytest.approx(0.705)


def test_numbers_of_two_backbones_are_not_averaged(store, tmp_path):
    publish(store, tmp_path, evaluation("a", 0.2))
    publish(store, tmp_path, evaluation("b", 0.2, scorers={"clip-i": Scorer(backbone="CLIP ViT-B/16")}))
    with pytest.raises(DataSetError, match=r"team/a and team/b are not comparable: what measures clip-i"):
        collect(jobs("a", "b"), [store], {})


def test_how_far():
    assert how_far(["u/personalize/1/checkpoints/10/manifest.json"]) == "not finished: it is at personalize"


def test_collect_command_ends_with_1_until_all_are_there(store, data, base, tmp_path):
    made = command("manifests", "--dataset", data, "--base", base, "--class-nouns-only", "--out", tmp_path / "jobs")
    assert made.exit_code == 0, made.output
    words = ["collect", "--manifests", tmp_path / "jobs", "--store", tmp_path / "store", "-n", "team"]
    publish(store, tmp_path, evaluation("bench-dog2", 0.2))
    done = command(*words)
    assert done.exit_code == 1
    assert "bench-star-toy: no trace" in done.output
    publish(store, tmp_path, evaluation("bench-star-toy", 0.4))
    done = command(*words, "--out", tmp_path / "table")
    assert done.exit_code == 0, done.output
    assert "| base | 2 | 0.305 [" in done.output
    assert sorted(path.suffix for path in (tmp_path / "table").iterdir()) == [".csv", ".json", ".md"]
