"""Whether the identifier is a good one: what the tokenizer makes of it.

The most frequent tokens of a vocabulary have the lowest numbers (instructbooth/vocabulary.py). A single token with a
low one is a word that the text encoder knows well, and its meaning stands in the subject's way; a word that falls apart
into many tokens is made of pieces that mean something of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from instructbooth.vocabulary import COMMON, rare_words

EXAMPLES = 3  # of better identifiers
MANY_TOKENS = 3  # the DreamBooth paper's identifiers have at most so many


@dataclass(frozen=True)
class IdentifierReport:
    """What the tokenizer makes of an identifier.

    Attributes:
        tokens: its pieces, as the vocabulary spells them.
        rank: where the token of a one-token identifier stands in the vocabulary: 0 the most frequent, 1 the rarest.
            None for an identifier of several tokens, which is no word of the vocabulary.
        warning: what is wrong with it and the way out; None if nothing is.
    """

    tokens: list[str]
    rank: float | None
    warning: str | None

    def record(self) -> dict[str, JsonValue]:
        """For the stage's record."""
        return {"tokens": list(self.tokens), "rank": self.rank, "warning": self.warning}

    def metrics(self) -> dict[str, float]:
        """For the stage's outcome."""
        rank = {} if self.rank is None else {"identifier_rank": self.rank}
        return {"identifier_tokens": float(len(self.tokens)), **rank}


def check_identifier(tokenizer: Any, identifier: str) -> IdentifierReport:
    """Look an identifier up in a model's vocabulary."""
    examples = f"such as {' or '.join(rare_words(tokenizer.get_vocab(), EXAMPLES) or ['sks'])}"
    ids = tokenizer(identifier, add_special_tokens=False).input_ids
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    if len(ids) > 1:
        many = f"the identifier {identifier!r} falls apart into {len(ids)} tokens ({' '.join(tokens)})"
        way_out = f"each means something of its own: choose a rare word of at most {MANY_TOKENS} tokens, {examples}"
        return IdentifierReport(tokens, None, f"{many}; {way_out}" if len(ids) > MANY_TOKENS else None)
    rank = ids[0] / (len(tokenizer) - 1)
    warning = (
        f"the identifier {identifier!r} is a common word of the model's vocabulary (token {ids[0]} of "
        f"{len(tokenizer)}, the most frequent first): what it means already stands in the subject's way; "
        f"choose a word that means nothing, {examples}"
    )
    return IdentifierReport(tokens, rank, warning if rank < COMMON else None)
