"""A cluster's manifest on a machine without one: every source finds its folder or says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instructbooth.cli.localize import LocalInputs, Localized, Mount, lay, localize
from instructbooth.cli.output import CliError
from instructbooth.spec.job import InstructBoothJobSpec
from tests.unit.spec.examples import demo


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("pics", "weights/pipeline", "weights/clip", "weights/fidelity", "prompts/cm", "claim/base", "store"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pics/1.png").write_bytes(b"x")
    (tmp_path / "weights/pipeline/model_index.json").write_text("{}")
    (tmp_path / "prompts/cm/train.txt").write_text("a {subject}")
    (tmp_path / "prompts/held.txt").write_text("a {subject}")
    return tmp_path


def of(
    manifest: dict[str, Any], here: Path, *, cpu: bool = False, nodes: int | None = None, **inputs: Any
) -> Localized:
    given: dict[str, Any] = {"images": here / "pics", "models": {"models/miniature": here / "weights"}} | inputs
    spec = InstructBoothJobSpec.model_validate(manifest["spec"])
    return localize(spec, LocalInputs(**given), here / "store", cpu=cpu, max_nodes=nodes)


def test_demo_needs_pictures_and_one_folder_of_models(here):
    found = of(demo(), here)
    assert found.spec.subject.images.to_wire() == {"s3": {"prefix": "local-inputs/subject"}}
    assert found.mounts == (
        Mount("instructbooth", "local-inputs/subject", here / "pics"),
        Mount("instructbooth", "models/miniature", here / "weights"),
    )
    lay(here / "store", found.mounts)
    assert (here / "store/instructbooth/models/miniature/pipeline/model_index.json").exists()
    assert (here / "store/instructbooth/local-inputs/subject/1.png").exists()


def test_what_lies_in_the_store_already_needs_no_option(here):
    for name in ("pipeline", "clip", "fidelity"):
        (here / "store/instructbooth/models/miniature" / name).mkdir(parents=True)
    assert [m.key for m in of(demo(), here, models={}).mounts] == ["local-inputs/subject"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"images": None}, "spec.subject.images is the ConfigMap demo-subject, there is no cluster: give --images"),
        ({"models": {}}, "spec.model.source is s3://instructbooth/models/miniature/pipeline"),
        ({"models": {"models/miniatur": Path("/")}}, "give --model models/miniature/pipeline=FOLDER"),
        ({"models": {"models/miniature": Path("/nowhere")}}, "/nowhere/pipeline does not exist"),
    ],
)
def test_a_source_without_counterpart_names_field_and_option(here, inputs, words):
    with pytest.raises(CliError) as caught:
        of(demo(), here, **inputs)
    assert words in caught.value.message


def test_base_model_option_stands_for_any_source(here):
    manifest = demo()
    manifest["spec"]["model"]["source"] = {"hub": {"repo": "a/b", "revision": "0" * 40}}
    found = of(manifest, here, base_model=here / "weights/pipeline")
    assert found.spec.model.source.to_wire() == {"s3": {"prefix": "local-inputs/model"}}
    untouched = of(manifest, here)
    assert untouched.spec.model.source.hub is not None


def test_volumes_become_folders(here):
    manifest = demo()
    manifest["spec"]["model"]["source"] = {"pvc": {"claimName": "data", "path": "base"}}
    found = of(manifest, here, volumes={"data": here / "claim"})
    assert Mount("instructbooth", "local-inputs/volumes/data/base", here / "claim/base") in found.mounts
    with pytest.raises(CliError, match="give --volume data=FOLDER"):
        of(manifest, here)


def test_prompts_are_found_by_config_map_and_key(here):
    manifest = demo()
    spec = manifest["spec"]
    spec["reinforcement"]["prompts"] = {"configMap": {"name": "cm", "key": "train.txt"}}
    spec["reinforcement"]["earlyStopping"] = {"prompts": {"s3": {"prefix": "prompts/held.txt"}}}
    found = of(manifest, here, prompts=here / "prompts")
    assert {m.path for m in found.mounts} >= {here / "prompts/cm/train.txt", here / "prompts/held.txt"}
    assert found.spec.evaluation.prompts.inline is not None
    spec["evaluation"]["prompts"] = {"configMap": {"name": "cm", "key": "absent.txt"}}
    with pytest.raises(CliError, match=r"spec.evaluation.prompts: .* has no file absent.txt"):
        of(manifest, here, prompts=here / "prompts")
    with pytest.raises(CliError, match="give --prompts FOLDER"):
        of(manifest, here)


def test_gang_can_be_made_smaller_but_not_larger(here):
    manifest = demo()
    manifest["spec"]["evaluation"]["gpusPerNode"] = 4
    found = of(manifest, here, cpu=True, nodes=3).spec
    assert (found.evaluation.gpus_per_node, found.reinforcement.nodes, found.evaluation.nodes) == (0, 2, 1)
    assert of(manifest, here, nodes=1).spec.reinforcement.nodes == 1
    assert of(manifest, here).spec.evaluation.gpus_per_node == 4


def test_what_only_a_cluster_or_a_gpu_can_do_is_left_out(here):
    manifest = demo()
    manifest["spec"]["reinforcement"] |= {"nodes": 2, "minNodes": 2, "gpusPerNode": 1}
    for stage in ("personalization", "evaluation"):
        manifest["spec"][stage]["gpusPerNode"] = 1
    manifest["spec"]["model"] |= {"cudaGraphs": True, "dtype": "bf16"}
    found = of(manifest, here, cpu=True, nodes=1).spec
    assert (found.reinforcement.nodes, found.reinforcement.min_nodes) == (1, None)
    assert not found.model.cuda_graphs
    assert of(manifest, here).spec.model.cuda_graphs, "here there may be GPUs"


def test_cache_claim_is_left_out(here):
    manifest = demo()
    manifest["spec"]["model"]["cacheClaimName"] = "cache"
    assert of(manifest, here).spec.model.cache_claim_name is None


def test_uid_follows_what_the_result_depends_on(here):
    first = of(demo(), here).uid
    assert of(demo(), here).uid == first
    (here / "pics/1.png").write_bytes(b"yy")
    second = of(demo(), here).uid
    manifest = demo()
    manifest["spec"]["personalization"]["steps"] = 7
    third = of(manifest, here).uid
    (here / "weights/clip/new.safetensors").write_bytes(b"")
    assert len({first, second, third, of(demo(), here).uid}) == 4


def test_links_are_renewed_and_strangers_left_alone(here):
    store = here / "store"
    lay(store, (Mount("b", "m", here / "pics"),))
    lay(store, (Mount("b", "m", here / "weights"),))
    assert (store / "b/m").resolve() == here / "weights"
    (store / "b/own").mkdir()
    with pytest.raises(CliError, match="is no link of ours"):
        lay(store, (Mount("b", "own", here / "pics"),))


def test_contexts_stay_and_the_guards_model_is_looked_up(here):
    manifest = demo()
    spec = manifest["spec"]["reinforcement"]
    spec["prompts"] = {"configMap": {"name": "cm", "key": "train.txt"}, "contexts": ["on red"]}
    found = of(manifest, here, prompts=here / "prompts").spec.reinforcement.prompts
    assert found.s3 is not None
    assert found.contexts == ["on red"]
    guard = {"name": "subject-identity", "model": {"s3": {"prefix": "dino"}}, "floorShare": 0.9}
    spec["guards"] = {"identity": guard}
    with pytest.raises(CliError, match=r"spec\.reinforcement\.guards\.identity\.model is s3://.*--model dino=FOLDER"):
        of(manifest, here, prompts=here / "prompts")


def test_personalizations_own_sources_are_looked_up(here):
    manifest = demo()
    manifest["spec"]["personalization"]["adapter"] = {"s3": {"prefix": "loras/mine"}}
    with pytest.raises(CliError, match=r"spec\.personalization\.adapter is s3://.*give --model loras/mine=FOLDER"):
        of(manifest, here)
    manifest["spec"]["personalization"] = {"validation": {"prompts": {"configMap": {"name": "cm", "key": "train.txt"}}}}
    with pytest.raises(CliError, match=r"spec\.personalization\.validation\.prompts is the ConfigMap cm"):
        of(manifest, here)
    found = of(manifest, here, prompts=here / "prompts").spec.personalization.validation
    assert found is not None
    assert found.prompts.s3 is not None
