"""DreamBench's data set in its own layout (github.com/google/dreambooth), which is neither downloaded nor copied here.

`dataset/prompts_and_classes.txt` holds the subjects with their class nouns and two lists of prompts; the pictures are
`dataset/<subject>/*.jpg`. Source: DreamBooth, arXiv 2208.12242, section 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from instructbooth.contract import PICTURE_SUFFIXES
from instructbooth.spec.sources import PLACEHOLDER

FILE = "prompts_and_classes.txt"
LIVE_CLASSES = frozenset({"cat", "dog"})
"""Classes of the nine live subjects; the file does not say it, the paper does."""
_HEADINGS = {"Classes": "classes", "Prompts": "", "Object Prompts": "object", "Live Subject Prompts": "live"}
_PROMPT = re.compile(r"""^(['"])(?P<text>.*)\1\.format\(unique_token, class_token\),?$""")
_SUBJECT = "{0} {1}"


class DataSetError(Exception):
    """The folder or one of the files is not what the protocol needs; the message says where and the way out."""


@dataclass(frozen=True)
class BenchSubject:
    """A subject of the benchmark: the name of its folder, its class noun, and whether it is alive."""

    name: str
    class_name: str

    @property
    def is_live(self) -> bool:
        """Whether the prompts for live subjects are its own."""
        return self.class_name in LIVE_CLASSES


@dataclass(frozen=True)
class DataSet:
    """The data set.

    Attributes:
        folder: holds a folder per subject.
        subjects: in the file's order.
        object_prompts: templates with `{subject}`.
        live_prompts: those for cats and dogs.
    """

    folder: Path
    subjects: tuple[BenchSubject, ...]
    object_prompts: tuple[str, ...]
    live_prompts: tuple[str, ...]

    def prompts(self, subject: BenchSubject) -> tuple[str, ...]:
        """The prompts of a subject's kind."""
        return self.live_prompts if subject.is_live else self.object_prompts

    def subject(self, name: str) -> BenchSubject:
        """The subject of this name. Raises DataSetError naming those there are."""
        for subject in self.subjects:
            if subject.name == name:
                return subject
        raise DataSetError(f"no subject is called {name!r}; {FILE} has {', '.join(s.name for s in self.subjects)}")

    def pictures(self, subject: BenchSubject) -> list[Path]:
        """A subject's pictures. Raises DataSetError if there is none."""
        folder = self.folder / subject.name
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES) if folder.is_dir() else []
        if not found:
            raise DataSetError(
                f"{folder} holds no picture: take the whole folder dataset/ of github.com/google/dreambooth, or name "
                "the subjects you have with --subject"
            )
        return found


def read_data_set(folder: Path) -> DataSet:
    """Read the data set from its folder `dataset/`, or the checkout above it. Raises DataSetError."""
    place = folder if (folder / FILE).is_file() else folder / "dataset"
    try:
        text = (place / FILE).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(
            f"cannot read {FILE} in {folder} or in its folder dataset/ ({error}): --dataset is a checkout of "
            "github.com/google/dreambooth"
        ) from error
    return parse(text, place)


def parse(text: str, folder: Path) -> DataSet:
    """The data set that a text like prompts_and_classes.txt describes. Raises DataSetError with the line."""
    lists: dict[str, list[str]] = {"object": [], "live": []}
    subjects: list[BenchSubject] = []
    part = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line in _HEADINGS:
            part = _HEADINGS[line]
        elif not line or line in {"prompt_list = [", "]", "subject_name,class"}:
            continue
        elif part == "classes":
            subjects.append(_subject(line, number, subjects))
        elif part in lists:
            lists[part].append(_template(line, number))
        else:
            raise DataSetError(f"{FILE}, line {number}: {line!r} stands below no heading that is known")
    for name, found in {"subjects": subjects, "object prompts": lists["object"], "live prompts": lists["live"]}.items():
        if not found:
            raise DataSetError(f"{FILE} holds no {name}: it is cut short or of another data set")
    return DataSet(folder, tuple(subjects), tuple(lists["object"]), tuple(lists["live"]))


def _subject(line: str, number: int, before: list[BenchSubject]) -> BenchSubject:
    name, comma, class_name = (part.strip() for part in line.partition(","))
    if not (name and comma and class_name) or name in {subject.name for subject in before}:
        raise DataSetError(f"{FILE}, line {number}: {line!r} must be subject,class with a subject that is new")
    return BenchSubject(name, class_name)


def _template(line: str, number: int) -> str:
    match = _PROMPT.match(line)
    if match is None or match["text"].count(_SUBJECT) != 1:
        raise DataSetError(f"{FILE}, line {number}: {line!r} is no prompt with one {_SUBJECT!r}, token and class noun")
    return match["text"].replace(_SUBJECT, PLACEHOLDER)
