"""The captions the reward model learns to reject are false of their scene, and only the picture can tell."""

from __future__ import annotations

import itertools
import random

from instructbooth_miniature.captions import article, caption, parse
from instructbooth_miniature.clip import make_false
from instructbooth_miniature.sampling import sample_training_scene


def test_every_false_caption_asks_for_something_else_in_the_same_grammar() -> None:
    rng = random.Random(0)
    moved = resized = 0
    for _ in range(400):
        scene = sample_training_scene(rng)
        true = caption(scene, rng)
        false = make_false(true, rng)
        was, asked = parse(true), parse(false)
        assert false != true
        assert asked.position or not was.position
        assert asked.size or not was.size
        moved += asked.position != was.position
        resized += asked.size != was.size
    assert moved > 60
    assert resized > 60


def test_what_a_caption_leaves_out_is_put_in_wrongly() -> None:
    rng = random.Random(0)
    false = {make_false("a red circle on a blue background", rng) for _ in range(300)}
    assert "a small red circle on a blue background" in false
    assert "a red circle on a blue background at the top" in false


def test_no_article_gives_a_false_caption_away() -> None:
    rng = random.Random(1)
    for _ in range(400):
        words = make_false(caption(sample_training_scene(rng), rng), rng).split()
        for before, after in itertools.pairwise(words):
            if before in ("a", "an"):
                assert article(after).split()[0] == before
