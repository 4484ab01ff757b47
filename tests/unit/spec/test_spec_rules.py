"""pydantic refuses what the API server refuses, at the same field."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from instructbooth.spec.job import InstructBoothJobSpec
from tests.unit.spec.examples import BAD, CURRICULUM, ROOT, bad, demo


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda p: p.name)
def test_every_example_is_valid(path):
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "InstructBoothJob":
            InstructBoothJobSpec.model_validate(document["spec"])


@pytest.mark.parametrize("name", BAD)
def test_bad_manifest_is_refused_at_its_field(name):
    manifest, path = bad(name)
    with pytest.raises(ValidationError) as caught:
        InstructBoothJobSpec.model_validate(manifest["spec"])
    path, places = path.replace("[0]", ".0"), []
    for error in caught.value.errors():
        place = ".".join(["spec", *map(str, error["loc"])])
        places += [place, f"{place}.{error['msg'].removeprefix('Value error, ').split(':')[0]}"]
    assert any(place == path or place.startswith(path + ".") for place in places), places


def test_defaults_survive_a_round_trip():
    spec = InstructBoothJobSpec.model_validate(demo()["spec"])
    assert InstructBoothJobSpec.model_validate(spec.to_wire()) == spec
    assert spec.to_wire()["runPolicy"]["backoffLimit"] == 3


def test_a_curriculum_with_guards_is_valid():
    manifest = demo()["spec"]
    manifest["reinforcement"] |= CURRICULUM
    spec = InstructBoothJobSpec.model_validate(manifest)
    assert InstructBoothJobSpec.model_validate(spec.to_wire()) == spec


def test_a_key_left_out_is_the_one_that_everybody_uses():
    manifest = demo()["spec"]
    manifest["artifacts"]["caBundle"] = {"name": "kube-root-ca.crt"}
    manifest["reinforcement"]["prompts"] = {"configMap": {"name": "prompts"}}
    spec = InstructBoothJobSpec.model_validate(manifest)
    assert spec.artifacts.ca_bundle is not None
    assert spec.artifacts.ca_bundle.key == "ca.crt"
    assert spec.reinforcement.prompts.config_map is not None
    assert spec.reinforcement.prompts.config_map.key == "prompts.txt"


def test_world_size_counts_gpus_or_pods():
    spec = InstructBoothJobSpec.model_validate(demo()["spec"])
    assert spec.reinforcement.world_size == 2
    assert spec.reinforcement.model_copy(update={"gpus_per_node": 8}).world_size == 16
