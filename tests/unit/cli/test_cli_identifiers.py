"""Proposals for the identifier, out of a vocabulary."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from instructbooth.cli.main import cli
from instructbooth.vocabulary import rare_words

# Hundred tokens: common ones are below 80 % of 99, that is 0 to 79. A word has three or four consonants and an end.
RARE = {
    "tqx</w>": 80,
    "zwx</w>": 99,
    "sks</w>": 97,
    "brrr</w>": 98,
    "wzx": 96,
    "dog</w>": 95,
    "zz</w>": 94,
    "bcdfg</w>": 93,
}
VOCABULARY = {f"common{n}</w>": n for n in range(79)} | {"nfl</w>": 79} | RARE | {f"#{n}": n for n in range(81, 93)}


def test_rare_words_of_consonants_three_letters_first():
    assert len(VOCABULARY) == 100
    assert rare_words(VOCABULARY, 10) == ["zwx", "sks", "tqx", "brrr"]
    assert rare_words(VOCABULARY, 2) == ["zwx", "sks"]
    assert rare_words({}, 2) == []


@pytest.mark.parametrize("given", ["model", "model/tokenizer", "model/tokenizer/vocab.json"])
def test_a_model_its_tokenizer_or_the_file(tmp_path, given):
    path = tmp_path / "model/tokenizer/vocab.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(VOCABULARY))
    done = CliRunner().invoke(cli, ["identifiers", str(tmp_path / given), "-n", "3"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["zwx", "sks", "tqx"]
    assert "base model" in done.stderr


@pytest.mark.parametrize("given", ["model", "model/tokenizer", "model/tokenizer/tokenizer.json"])
def test_a_tokenizer_in_one_file(tmp_path, given):
    """As transformers saves it today, beside no vocab.json."""
    path = tmp_path / "model/tokenizer/tokenizer.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": VOCABULARY, "merges": []}}))
    done = CliRunner().invoke(cli, ["identifiers", str(tmp_path / given), "-n", "3"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["zwx", "sks", "tqx"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": {"vocab": [["a", 0]]}}', "no vocabulary"),
        ("[1]", "no vocabulary"),
        ("{", "no JSON"),
        ('{"a": 1}', "use sks"),
    ],
)
def test_what_is_no_vocabulary(tmp_path, content, message):
    (tmp_path / "vocab.json").write_text(content)
    done = CliRunner().invoke(cli, ["identifiers", str(tmp_path)], catch_exceptions=True)
    assert done.exit_code == 1
    assert message in done.output.replace("\n", " ")


def test_a_folder_without_one(tmp_path):
    done = CliRunner().invoke(cli, ["identifiers", str(tmp_path)])
    assert done.exit_code == 1
    assert "vocab.json" in done.output
