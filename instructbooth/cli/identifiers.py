"""`instructbooth identifiers`: rare words of a model's vocabulary, for spec.subject.identifier."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instructbooth.cli.output import CliError, note
from instructbooth.vocabulary import rare_words

PLACES = ("", "vocab.json", "tokenizer/vocab.json", "tokenizer.json", "tokenizer/tokenizer.json")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
def identifiers(model: Path, count: int) -> None:
    """Propose identifiers: words that are one rare token of MODEL: its folder, its tokenizer's, a vocab.json or
    tokenizer.json.
    """
    path = next((model / place for place in PLACES if (model / place).is_file()), None)
    if path is None:
        raise CliError(
            f"{model} holds no tokenizer/vocab.json or tokenizer.json: give the model's folder, or that file"
        )
    words = rare_words(_read(path), count)
    if not words:
        raise CliError(f"{path}: none of its rare tokens is a word of three or four consonants; use sks")
    for word in words:
        click.echo(word)
    note("rare does not say meaningless: draw a picture of each with the base model before you choose")


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CliError(f"{path} is no JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):  # a tokenizer.json
        content = content["model"].get("vocab")
    if not isinstance(content, dict) or not all(isinstance(number, int) for number in content.values()):
        raise CliError(f"{path} is no vocabulary: it should hold the number of each token")
    return content
