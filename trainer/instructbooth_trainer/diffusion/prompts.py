"""Where the subject is named in a prompt.

`{subject}` is the only placeholder. Training prompts read "<identifier> <phrase>" or, without identifier, "<phrase>",
where the phrase is the detailed description of the subject (the paper's remedy for rare subjects) or its class noun; in
rollouts without identifier, which of them is the job's choice.
"""

from __future__ import annotations

import re

from instructbooth.spec.sources import PLACEHOLDER
from instructbooth.spec.subject import Subject


def expand(template: str, subject: Subject, *, identifier: bool) -> str:
    """The prompt the diffusion model reads. A template without placeholder is returned as it is."""
    name = f"{subject.identifier} {subject.phrase}" if identifier else subject.phrase
    return template.replace(PLACEHOLDER, name)


def reward_text(template: str, subject: Subject) -> str:
    """The prompt a reward reads: the subject's phrase stands in, never the identifier, which means nothing to a judge.

    An identifier written out in the template is stripped as a word of its own.
    """
    return _without(subject.identifier, expand(template, subject, identifier=False))


def class_text(template: str, subject: Subject) -> str:
    """The prompt of a class picture for prior preservation: the class noun, no identifier, no description."""
    return reward_text(template, identifier_free(subject, "className"))


def identifier_free(subject: Subject, phrase: str) -> Subject:
    """The subject as prompts without identifier call it: `phrase` is `className` or `description`."""
    return subject if phrase == "description" else subject.model_copy(update={"description": None})


def _without(word: str, text: str) -> str:
    """The text without a word, whatever its case and whatever punctuation stands beside it."""
    word = rf"(?<!\w){re.escape(word)}(?!\w)"
    # With the space before it, or where it comes first with the one behind it.
    return re.sub(rf"\s+{word}|{word}\s*", "", text, flags=re.IGNORECASE)
