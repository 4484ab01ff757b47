"""Texts as a scoring model's tokens: all of the words, or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from instructbooth_trainer.runtime.errors import UserError


def check_tokenizer(folder: Path, *files: str) -> None:
    """Raise ValueError when none of a tokenizer's files lies in the folder: a class may then make one of no words."""
    if not any((folder / name).is_file() for name in files):
        raise ValueError(f"the model's folder holds no tokenizer: there is no {' and no '.join(files)}")


def tokenize(
    tokenizer: Callable[..., Any], prompt: str, limit: int, reward: str, *, truncate: bool, **options: object
) -> Any:
    """The tokens of one text, [1, length], with their attention mask; `options` go to the tokenizer.

    Raises UserError `PromptTooLong` when there are more than `limit` and they may not be truncated.
    """
    ids = tokenizer(prompt, truncation=truncate, max_length=limit, return_tensors="pt", **options)
    length = ids.input_ids.shape[1]
    if length > limit:
        raise UserError(
            "PromptTooLong",
            f"{prompt!r} has {length} tokens, {reward}'s model reads {limit}: shorten it, or set its parameter "
            "longPrompts: truncate",
        )
    return ids
