"""Words for an identifier: rare tokens of a byte-pair vocabulary that spell nothing.

Such a vocabulary is numbered in the order in which its tokens were learned, the most frequent first. DreamBooth (arXiv
2208.12242, section 3.2) takes rare tokens of up to three letters. Here also: consonants only, which can be an
abbreviation but hardly a word, and one token each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

COMMON = 0.8  # a single token among this share of the vocabulary is a word people use
END = "</w>"  # of a token that ends a word
_WORD = re.compile(r"^[bcdfghjklmnpqrstvwxz]{3,4}</w>$")


def rare_words(vocabulary: Mapping[str, int], count: int) -> list[str]:
    """Identifiers to choose from, three letters before four and the rarest first; fewer where there are no more.

    Args:
        vocabulary: number of each token, as in a CLIP tokenizer's vocab.json.
        count: how many.
    """
    from_rank = COMMON * (len(vocabulary) - 1)
    found = [
        (len(token), -rank, token) for token, rank in vocabulary.items() if rank >= from_rank and _WORD.match(token)
    ]
    return [token.removesuffix(END) for _, _, token in sorted(found)[:count]]
