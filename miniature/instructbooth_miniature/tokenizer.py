"""A CLIPTokenizer whose byte-pair merges make one token of each word of the world."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Final

from transformers import CLIPTokenizer

from .captions import FILLERS
from .subjects import IDENTIFIERS
from .world import BODIES, CLASS_NOUN, CRESTS, MASCOT_PALETTE, PALETTE, PATTERNS, POSITIONS, SHAPES, SIZE_PIXELS

MAX_TOKENS: Final = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"
_GRAMMAR_WORDS = ("a", "an", "and", "at", "background", "next", "on", "the", "to", "photo", "picture", "of", "with")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"


def words() -> list[str]:
    """Every word that is one token, sorted, no word twice."""
    groups = (BODIES, CRESTS, FILLERS, IDENTIFIERS, MASCOT_PALETTE, PALETTE, PATTERNS, POSITIONS, SHAPES, SIZE_PIXELS)
    return sorted({word for group in groups for word in group if word} | {CLASS_NOUN, *_GRAMMAR_WORDS})


def byte_pair_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Merges, in order, under which byte-pair encoding joins each word of the vocabulary into one token.

    Each word is encoded with the merges so far, and what is still apart is joined from the left by new merges. Later
    merges have a lower priority, so they cannot break a word that was whole before.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            known = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
            pair = min(known, key=lambda candidate: ranks[candidate]) if known else (pieces[0], pieces[1])
            ranks.setdefault(pair, len(ranks))
            pieces = _join(pieces, pair)
    return list(ranks)


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt to `folder` and load them as a CLIPTokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = byte_pair_merges(words())
    tokens = [
        *_LETTERS,
        *(f"{letter}</w>" for letter in _LETTERS),
        *dict.fromkeys(a + b for a, b in merges),
        _START,
        _END,
    ]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=MAX_TOKENS, pad_token=_END)
