"""Captions beside the subject's pictures, as other trainers have them: `1.txt` for `1.png`, or metadata.jsonl.

A line of metadata.jsonl is `{"file_name": "1.png", "text": "..."}`, the layout of Hugging Face's image folders. A file
of a picture's own goes before it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from instructbooth.contract import CAPTION_TABLE
from instructbooth.spec.sources import PLACEHOLDER
from instructbooth.spec.subject import Subject
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.sources import picture_paths

_INVALID = "CaptionsInvalid"


def has_captions(folder: Path) -> bool:
    """Whether any picture of a folder has a caption beside it."""
    return (folder / CAPTION_TABLE).is_file() or any(
        path.with_suffix(".txt").is_file() for path in picture_paths(folder)
    )


def load_captions(folder: Path, subject: Subject) -> list[str]:
    """The caption of each picture, in order of the pictures' names; a `{subject}` in them is left in place.

    Raises:
        UserError: `CaptionsInvalid` for a picture without one, one of several lines, and one that names the subject
            neither by `{subject}` nor by its identifier.
    """
    table = _read_table(folder / CAPTION_TABLE)
    return [_caption(path, table, subject) for path in picture_paths(folder)]


def _caption(path: Path, table: dict[str, str], subject: Subject) -> str:
    file = path.with_suffix(".txt")
    if file.is_file():
        origin, text = file.name, _text(file)
    elif path.name in table:
        origin, text = f"{CAPTION_TABLE}, {path.name}", table[path.name]
    else:
        raise UserError(
            _INVALID,
            f"spec.personalization.captions is files, and {path.name} has no caption: write {file.name} beside it or a "
            f"line of {CAPTION_TABLE}, or set captions: templates",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise UserError(_INVALID, f"{origin} holds {len(lines)} lines: a caption is one line")
    named = PLACEHOLDER in lines[0] or re.search(rf"(?<!\w){re.escape(subject.identifier)}(?!\w)", lines[0])
    if not named:
        raise UserError(
            _INVALID,
            f"{origin}: {lines[0]!r} does not name the subject, and nothing would bind the identifier; write "
            f"{PLACEHOLDER} or {subject.identifier} where it belongs",
        )
    return lines[0]


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    table: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                _INVALID, f'{path.name}, line {number} is no {{"file_name": ..., "text": ...}} ({error!r})'
            ) from error
        if not (isinstance(name, str) and isinstance(text, str)):
            raise UserError(_INVALID, f"{path.name}, line {number}: file_name and text must be strings")
        table[name] = text
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(_INVALID, f"{path.name} is no UTF-8 text ({error})") from error
