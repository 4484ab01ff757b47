"""Captions beside pictures: found in both layouts, and refused with the file's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instructbooth.spec.subject import Subject
from instructbooth_trainer.runtime.captions import has_captions, load_captions
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.runtime.test_sources import picture

SUBJECT = Subject.model_validate(
    {"images": {"s3": {"prefix": "a"}}, "identifier": "sks", "className": "dog", "description": "small dog"}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg"):
        picture(tmp_path / name)
    return tmp_path


def test_a_text_file_of_each_picture(folder: Path) -> None:
    assert not has_captions(folder)
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfa {subject} on a beach\r\n\n")
    assert has_captions(folder)
    (folder / "a.txt").write_text("sks, asleep")
    (folder / "c.txt").write_text("of no picture")
    assert load_captions(folder, SUBJECT) == ["sks, asleep", "a {subject} on a beach"]


def test_a_table_of_all_and_a_file_that_goes_before_it(folder: Path) -> None:
    lines = [{"file_name": name, "text": f"{{subject}} {name}", "more": 1} for name in ("b.png", "a.jpg")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert has_captions(folder)
    assert load_captions(folder, SUBJECT) == ["{subject} a.jpg", "{subject} b.png"]
    (folder / "b.txt").write_text("my sks dog")
    assert load_captions(folder, SUBJECT)[1] == "my sks dog"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("b.txt", b"a dog", r"b\.txt: 'a dog' does not name the subject.*\{subject\} or sks"),
        ("b.txt", b"asks a dog", r"does not name"),
        ("b.txt", b"", r"b\.txt holds 0 lines"),
        ("b.txt", b"{subject}\n{subject}", r"b\.txt holds 2 lines"),
        ("b.txt", b"\xff{subject}", r"b\.txt is no UTF-8"),
        ("c.txt", b"{subject}", r"b\.png has no caption: write b\.txt.*templates"),
        ("metadata.jsonl", b'{"file_name": "b.png", "text": "a dog"}', r"metadata\.jsonl, b\.png: 'a dog'"),
        ("metadata.jsonl", b"{", r"metadata\.jsonl, line 1"),
        ("metadata.jsonl", b'\n{"file_name": "b.png"}', r"metadata\.jsonl, line 2.*text"),
        ("metadata.jsonl", b'["b.png"]', r"metadata\.jsonl, line 1"),
        ("metadata.jsonl", b'{"file_name": "b.png", "text": 3}', r"must be strings"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, file: str, text: bytes, message: str) -> None:
    (folder / "a.txt").write_text("{subject}")
    (folder / file).write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        load_captions(folder, SUBJECT)
    assert caught.value.reason == "CaptionsInvalid"
