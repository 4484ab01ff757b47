"""Captions say what is true, and the parser reads them back; prompts outside the grammar are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from instructbooth_miniature.captions import FILLERS, Asked, caption, parse
from instructbooth_miniature.sampling import sample_scene
from instructbooth_miniature.subjects import DEMO_SUBJECT, IDENTIFIERS
from instructbooth_miniature.tokenizer import make_tokenizer, words
from instructbooth_miniature.world import PlainObject


def test_what_a_caption_says_is_true_of_its_scene() -> None:
    rng = random.Random(3)
    for _ in range(300):
        scene = sample_scene(rng)
        asked = parse(caption(scene, rng))
        assert asked.size == scene.size
        assert asked.position == scene.position
        assert asked.second == scene.second
        assert asked.background in ("", scene.background)
        assert asked.subject == (scene.subject if isinstance(scene.subject, PlainObject) else None)


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a mascot", Asked(None, "", "", "", None)),
        ("a sks teal and pink striped star mascot on a blue background", Asked(None, "", "", "blue", None)),
        ("a small sks striped star mascot", Asked(None, "small", "", "", None)),
        ("a mascot at the top on an orange background", Asked(None, "", "top", "orange", None)),
        (
            "a small mascot on a green background next to a yellow square",
            Asked(None, "small", "", "green", PlainObject("square", "yellow")),
        ),
        ("A mascot next to an orange heart, on the left.", Asked(None, "", "left", "", PlainObject("heart", "orange"))),
        (
            "a red circle next to a blue star",
            Asked(PlainObject("circle", "red"), "", "", "", PlainObject("star", "blue")),
        ),
    ],
)
def test_prompts_are_read(prompt: str, asked: Asked) -> None:
    assert parse(prompt) == asked


@pytest.mark.parametrize(
    "prompt",
    [
        "a mascot on a turquoise background",
        "a mascot next to a red house",
        "a mascot on a red background on a blue background",
        "a photo of a dog",
        "",
    ],
)
def test_prompts_outside_the_grammar_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="prompt"):
        parse(prompt)


def test_descriptions_grow_in_detail_and_end_in_the_class_noun() -> None:
    assert [DEMO_SUBJECT.description(level) for level in range(5)] == [
        "mascot",
        "star mascot",
        "striped star mascot",
        "teal and pink striped star mascot",
        "antennaed teal and pink striped star mascot",
    ]
    with pytest.raises(ValueError, match=r"level 5 is not in 0\.\.4"):
        DEMO_SUBJECT.description(5)


def test_every_word_is_one_token_and_unknown_words_are_more(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    counts = {word: len(tokenizer(word)["input_ids"]) - 2 for word in words()}
    assert set(counts.values()) == {1}
    assert len(tokenizer("zebra")["input_ids"]) > 3
    ids = tokenizer(list(IDENTIFIERS))["input_ids"]
    assert len({tuple(row) for row in ids}) == len(IDENTIFIERS)


def test_no_caption_holds_an_identifier() -> None:
    rng = random.Random(5)
    said = {word for _ in range(500) for word in caption(sample_scene(rng), rng).split()}
    assert not said & set(IDENTIFIERS)
    assert said & set(FILLERS)
    assert said <= set(words())
