"""What the tokenizer makes of an identifier, and where it is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.identifier import check_identifier
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import make_tokenizer


class Vocabulary:
    """A tokenizer that knows one word, with a number of its own, in a vocabulary of 101 tokens."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, text: str, add_special_tokens: bool) -> Vocabulary:
        assert not add_special_tokens
        return self

    @property
    def input_ids(self) -> list[int]:
        return [self._number]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"{number}</w>" for number in ids]

    def get_vocab(self) -> dict[str, int]:
        return {f"w{number}</w>": number for number in range(95)} | {
            "dgf</w>": 95,
            "wzx</w>": 99,
            "zqz</w>": 60,
            "k": 100,
        }

    def __len__(self) -> int:
        return 101


def test_a_common_word_is_warned_of_and_a_rare_one_is_not() -> None:
    common, rare = check_identifier(Vocabulary(79), "dog"), check_identifier(Vocabulary(80), "sks")
    assert (common.tokens, common.rank, rare.rank) == (["79</w>"], 0.79, 0.8)
    assert common.warning is not None
    assert "'dog' is a common word" in common.warning
    assert "such as wzx or dgf" in common.warning
    assert rare.warning is None
    assert rare.metrics() == {"identifier_tokens": 1.0, "identifier_rank": 0.8}


@pytest.mark.parametrize(("word", "tokens", "warned"), [("sks", 1, True), ("zwx", 3, False), ("zwxq", 4, True)])
def test_tokens_are_counted_as_the_model_reads_them(tmp_path: Path, word: str, tokens: int, warned: bool) -> None:
    found = check_identifier(make_tokenizer(tmp_path), word)
    assert (len(found.tokens), found.warning is not None) == (tokens, warned)
    assert (found.rank is None) == (tokens > 1)
    assert found.metrics()["identifier_tokens"] == tokens


def test_the_stage_says_it_in_log_outcome_and_record(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    job = lab.job("identifier", personalization={"steps": 1, "priorPreservation": {"weight": 0}})
    subject = job.spec.subject.model_copy(update={"identifier": "zwxq"})
    job = ResolvedJob.model_validate(job.to_wire() | {"spec": {**job.spec.to_wire(), "subject": subject.to_wire()}})
    with caplog.at_level(logging.WARNING):
        outcome = lab.run(job, Stage.PERSONALIZE)
    assert "falls apart into 4 tokens (z w x q</w>)" in caplog.text
    assert outcome.metrics["identifier_tokens"] == 4
    record = json.loads((lab.output(job, Stage.PERSONALIZE) / "personalize.json").read_text())
    assert record["identifier"]["tokens"] == ["z", "w", "x", "q</w>"]
    assert "sks" in record["identifier"]["warning"]
