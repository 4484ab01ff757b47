"""What must be kept out of pretraining is kept out; rendering and data are the same every time."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructbooth_miniature.data import build_data, load_data
from instructbooth_miniature.fidelity import near_twin, sample_identities
from instructbooth_miniature.pictures import POSES, draw_subject
from instructbooth_miniature.sampling import sample_scene, sample_training_scene
from instructbooth_miniature.segment import see
from instructbooth_miniature.subjects import (
    DEMO_SUBJECT,
    HELD_OUT_COMBINATIONS,
    HELD_OUT_LOOKS,
    HELD_OUT_SUBJECTS,
    is_held_out,
)
from instructbooth_miniature.world import Mascot, Pose, Scene

REPOSITORY = Path(__file__).parents[3]


def test_at_least_six_subjects_of_different_looks_are_held_out() -> None:
    assert len(HELD_OUT_SUBJECTS) >= 6
    assert len(HELD_OUT_LOOKS) == len(HELD_OUT_SUBJECTS)


def test_pretraining_sees_no_held_out_look_and_no_held_out_combination() -> None:
    rng = random.Random(2)
    scenes = [sample_training_scene(rng) for _ in range(1500)]
    looks = {(s.subject.body, s.subject.pattern) for s in scenes if isinstance(s.subject, Mascot)}
    assert not looks & HELD_OUT_LOOKS
    assert len(looks) > 40
    pairs = {(word, s.background) for s in scenes for word in (s.size, s.position)}
    assert not pairs & HELD_OUT_COMBINATIONS


def test_the_demo_subject_is_held_out_in_every_colour() -> None:
    scene = Scene(DEMO_SUBJECT, "blue", "", "", None, Pose(32, 32, 30), None)
    assert is_held_out(scene)
    assert is_held_out(replace(scene, subject=replace(DEMO_SUBJECT, colours=("lime", "sky"))))
    assert not is_held_out(replace(scene, subject=replace(DEMO_SUBJECT, pattern="dotted")))


def test_the_fidelity_encoder_never_trains_on_held_out_looks() -> None:
    rng = random.Random(4)
    mascots = sample_identities(300, rng)
    assert len(set(mascots)) == 300
    assert not {(mascot.body, mascot.pattern) for mascot in mascots} & HELD_OUT_LOOKS
    assert near_twin(DEMO_SUBJECT, rng) != DEMO_SUBJECT


def test_things_stand_apart_and_inside_the_picture() -> None:
    rng = random.Random(6)
    for _ in range(200):
        scene = sample_scene(rng)
        poses = [pose for pose in (scene.subject_pose, scene.second_pose) if pose is not None]
        for pose in poses:
            assert pose.size / 2 <= min(pose.x, pose.y)
            assert max(pose.x, pose.y) <= 64 - pose.size / 2
        if len(poses) == 2:
            gap = max(abs(poses[0].x - poses[1].x), abs(poses[0].y - poses[1].y))
            assert gap > (poses[0].size + poses[1].size) / 2


def test_data_is_the_same_whatever_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instructbooth_miniature.data.SHARD_SCENES", 3)
    build_data(tmp_path / "one", 0, 2, 1)
    build_data(tmp_path / "two", 0, 2, 2)
    one, two = load_data(tmp_path / "one", 2), load_data(tmp_path / "two", 2)
    assert one.captions == two.captions
    assert np.array_equal(one.pictures, two.pictures)
    with pytest.raises(FileNotFoundError, match="run the stage 'data' first"):
        load_data(tmp_path / "one", 3)


def test_the_shipped_demo_pictures_are_what_the_command_draws(tmp_path: Path) -> None:
    drawn = draw_subject("demo", tmp_path)
    assert len(drawn) == len(POSES)
    for path in drawn:
        shipped = np.asarray(Image.open(REPOSITORY / "examples" / "demo" / "subject" / path.name))
        assert np.array_equal(shipped, np.asarray(Image.open(path)))
        seen = see(shipped)
        assert seen.background == "white"
        assert [thing.colour for thing in seen.things] == [""]
