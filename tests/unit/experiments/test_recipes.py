"""The recipes of the results: valid, unseen where they say so, in an order that can be compared early."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from experiments import recipes
from experiments.cells import ROOT, Laboratory
from experiments.recipes import FULL, KINDS, RECIPES, plan, prompts_of, unseen_prompts
from experiments.tables import kind
from instructbooth_miniature.captions import parse
from instructbooth_miniature.subjects import HELD_OUT_COMBINATIONS, HELD_OUT_SUBJECTS

MANIFEST = ROOT / "examples" / "demo" / "job.yaml"
SPEC = yaml.safe_load(MANIFEST.read_text())["spec"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("lab"), MANIFEST)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_valid_and_differs_from_the_whole(lab, recipe):
    cells = list(recipe.cells())
    assert len(cells) == len(recipe.subjects) * len(recipe.seeds) == len({str(cell) for cell in cells})
    assert set(recipe.subjects) <= set(HELD_OUT_SUBJECTS)
    job = lab.job(cells[0])  # raises for what the schema refuses
    whole = lab.job(next(RECIPES[FULL].cells()))
    assert (job.spec == whole.spec) == (recipe.name == FULL)


def test_the_main_recipes_are_each_one_thing_less(lab):
    def spec(name):
        return lab.job(next(RECIPES[name].cells())).spec

    assert spec(FULL).reinforcement.identifier_free_share == 0.5
    assert spec("no-identifier-free").reinforcement.identifier_free_share == 0
    assert spec("no-description").subject.phrase == "mascot"
    assert spec("no-kl").reinforcement.kl_weight == 0
    peer = spec("peer")
    assert (peer.subject.description, peer.reinforcement.identifier_free_share, peer.reinforcement.kl_weight) == (
        None,
        0,
        0,
    )
    assert peer.reinforcement.advantage_std == "epoch"
    assert (peer.reinforcement.timesteps_per_trajectory, peer.reinforcement.timestep_window) == (None, None)
    assert {part.name: part.weight for part in peer.reinforcement.rewards} == {"clip-score": 1, "subject-identity": 0}
    pictures = {
        name: (s.reinforcement.epochs, s.reinforcement.prompts_per_epoch * s.reinforcement.images_per_prompt)
        for name, s in ((r.name, spec(r.name)) for r in RECIPES.values() if r.group == "main")
    }
    assert len(set(pictures.values())) == 1  # equal numbers of pictures, not equal time


def test_five_subjects_and_five_seeds():
    main = [recipe for recipe in RECIPES.values() if recipe.group == "main"]
    assert len(main) == 5
    for recipe in main:
        assert len(set(recipe.subjects)) >= 5
        assert len(set(recipe.seeds)) >= 5


@pytest.mark.parametrize("name", KINDS)
def test_prompts_are_of_the_kind_their_file_says(name):
    found = prompts_of(name)
    assert len(found) >= 3
    assert {kind(prompt.replace("{subject}", "mascot")) for prompt in found} == {name}


def test_unseen_prompts_are_trained_on_by_nobody(lab):
    unseen = unseen_prompts()
    assert len(unseen) == len(set(unseen))
    captions = set(SPEC["personalization"]["captionTemplates"])
    for recipe in RECIPES.values():
        trained = set(lab.job(next(recipe.cells())).spec.reinforcement.prompts.inline)
        assert not trained & set(unseen), recipe.name
        assert not any("next to" in prompt for prompt in trained), recipe.name
    assert not captions & set(unseen)


def test_pairs_are_those_that_pretraining_never_showed():
    asked = [parse(prompt.replace("{subject}", "mascot")) for prompt in prompts_of("two at once")]
    assert {(one.size or one.position, one.background) for one in asked} == HELD_OUT_COMBINATIONS


def test_groups_have_as_many_pictures_an_epoch(lab):
    for recipe in RECIPES.values():
        if recipe.name.startswith("group-"):
            spec = lab.job(next(recipe.cells())).spec.reinforcement
            assert spec.prompts_per_epoch * spec.images_per_prompt == recipes.PICTURES_PER_EPOCH


def test_plan_begins_with_whole_sets_of_the_first_seed():
    cells = plan()
    first = cells[:5]
    assert {(cell.subject, cell.seed) for cell in first} == {("demo", 0)}
    assert {RECIPES[cell.recipe].group for cell in first} == {"main"}
    waves = [(RECIPES[cell.recipe].group, cell.seed == 0) for cell in cells if RECIPES[cell.recipe].group == "main"]
    assert waves == sorted(waves, key=lambda wave: not wave[1])
    found = [RECIPES[cell.recipe].group for cell in cells]
    assert found.index("guards") == 25  # after five recipes on five subjects with the first seed
    assert "main" in found[found.index("guards") : found.index("sensitivity")]
    groups = list(dict.fromkeys(RECIPES[cell.recipe].group for cell in cells))
    assert groups == ["main", "guards", "sensitivity"]
    assert RECIPES[cells[-1].recipe].group == "sensitivity"
    assert max(Counter(map(str, cells)).values()) == 1
    assert {cell.recipe for cell in plan(["try-updates-8"])} == {"try-updates-8"}
    with pytest.raises(KeyError, match="nonsense"):
        plan(["nonsense"])


def test_files_of_prompts_are_all_used():
    files = {path.stem for path in (Path(recipes.__file__).with_name("prompts")).glob("*.txt")}
    assert files == {name.replace("/", "-").replace(" ", "-") for name in KINDS}
