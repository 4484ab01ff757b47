"""The oracle is right about true pictures, and says which skill is wrong about false ones."""

from __future__ import annotations

import random
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch

from instructbooth_miniature.captions import caption, parse
from instructbooth_miniature.oracle import Oracle, create, judge
from instructbooth_miniature.render import render
from instructbooth_miniature.sampling import sample_scene
from instructbooth_miniature.segment import see
from instructbooth_miniature.subjects import DEMO_SUBJECT
from instructbooth_miniature.world import MASCOT_PALETTE, PALETTE, SHAPES, PlainObject, Pose, Scene

CENTRE = Pose(32, 32, 30)
LEFT, RIGHT = Pose(17, 32, 29), Pose(49, 32, 22)
ALONE = Scene(DEMO_SUBJECT, "blue", "", "", None, CENTRE, None)
PAIR = Scene(DEMO_SUBJECT, "white", "", "left", PlainObject("circle", "red"), LEFT, RIGHT)


def verdict(scene: Scene, prompt: str) -> dict[str, bool]:
    return judge(render(scene), parse(prompt))


def test_true_renders_are_judged_right() -> None:
    rng = random.Random(11)
    scenes = [sample_scene(rng) for _ in range(300)]
    right = [judge(render(scene), parse(caption(scene, rng)))["all"] for scene in scenes]
    assert np.mean(right) >= 0.99


@pytest.mark.parametrize("background", PALETTE)
@pytest.mark.parametrize("colours", [("navy", "grey"), ("cream", "sky"), ("magenta", "lavender"), ("brown", "lime")])
def test_mascots_are_seen_before_every_background(background: str, colours: tuple[str, str]) -> None:
    assert set(colours) <= set(MASCOT_PALETTE)
    scene = replace(ALONE, subject=replace(DEMO_SUBJECT, colours=colours), background=background)
    assert verdict(scene, f"a mascot on a {background} background")["all"]


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a mascot on a red background", "background"),
        ("a mascot on the left", "position"),
        ("a mascot at the bottom", "position"),
        ("a small mascot", "size"),
        ("a big mascot", "size"),
        ("a mascot next to a red circle", "second"),
    ],
)
def test_a_lone_mascot_in_the_middle_of_blue_fails_what_is_not_so(prompt: str, wrong: str) -> None:
    found = verdict(ALONE, prompt)
    assert found["subject"]
    assert not found[wrong]
    assert not found["all"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a mascot next to a red circle", {"second_colour": True, "second_shape": True, "second": True}),
        ("a mascot next to a green circle", {"second_colour": False, "second_shape": True, "second": False}),
        ("a mascot next to a red square", {"second_colour": True, "second_shape": False, "second": False}),
    ],
)
def test_colour_and_shape_of_the_second_object_are_told_apart(prompt: str, expected: dict[str, bool]) -> None:
    found = verdict(PAIR, prompt)
    assert {skill: found[skill] for skill in expected} == expected


def test_position_is_the_subjects_not_the_second_objects() -> None:
    assert verdict(PAIR, "a mascot on the left next to a red circle")["all"]
    assert not verdict(PAIR, "a mascot on the right next to a red circle")["position"]


def test_colour_and_shape_must_belong_to_the_same_object() -> None:
    other = Scene(PlainObject("square", "red"), "white", "", "", PlainObject("circle", "blue"), LEFT, RIGHT)
    found = verdict(other, "a red square next to a red circle")
    assert found["second_shape"]
    assert not found["second"]


def test_an_empty_picture_has_no_subject() -> None:
    empty = np.full((64, 64, 3), PALETTE["blue"], dtype=np.uint8)
    found = judge(empty, parse("a small mascot on a blue background"))
    assert found == {"subject": False, "background": True, "size": False, "all": False}


def test_a_plain_object_is_no_mascot_and_a_mascot_no_plain_object() -> None:
    plain = replace(ALONE, subject=PlainObject("star", "red"))
    assert not verdict(plain, "a mascot on a blue background")["subject"]
    assert not verdict(ALONE, "a red star on a blue background")["subject"]


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_shapes_are_named(shape: str) -> None:
    picture = render(Scene(PlainObject(shape, "red"), "white", "", "", None, CENTRE, None))
    (thing,) = see(picture).things
    assert (thing.shape, thing.colour) == (shape, "red")


def test_a_blotchy_background_has_no_name() -> None:
    picture = render(ALONE).copy()
    picture[:32] = PALETTE["orange"]
    assert see(picture).background == ""


def test_the_entry_point_scores_batches_of_any_size() -> None:
    (point,) = entry_points(group="instructbooth.rewards", name="miniature-oracle")
    oracle = point.load()({})
    picture = torch.from_numpy(render(PAIR).copy()).permute(2, 0, 1).float() / 255
    large = picture.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    prompts = ["a mascot next to a red circle", "a mascot next to a blue circle"]
    assert oracle(torch.stack([picture, picture]), prompts).tolist() == [1.0, 0.0]
    assert oracle(torch.stack([large, large]), prompts).tolist() == [1.0, 0.0]
    assert oracle(torch.stack([picture]), prompts[:1]).dtype == torch.float32
    assert oracle.details(torch.stack([picture]), prompts[:1])[0]["second"] is True


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no parameters"):
        create({"threshold": 1})
    assert isinstance(create({"device": "cpu", "dtype": "float32"}), Oracle)
    with pytest.raises(ValueError, match="1 images came with 2 prompts"):
        Oracle()(torch.zeros(1, 3, 64, 64), ["a mascot", "a mascot"])
    with pytest.raises(ValueError, match=r"\[batch, 3, height, width\]"):
        Oracle()(torch.zeros(1, 64, 64, 3), ["a mascot"])
