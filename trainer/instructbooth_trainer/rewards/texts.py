"""Texts as a scoring model's tokens: all of the words, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from instructbooth_trainer.runtime.errors import UserError


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
