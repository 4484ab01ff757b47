"""Who is taught: the subject's pictures and its names."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from instructbooth.spec.base import ApiModel, Rule, ShortText
from instructbooth.spec.sources import ImageSource

WORD = r"^[^\s{}]+$"


def _words(text: str | None) -> list[str]:
    return (text or "").lower().split(" ")


class Subject(ApiModel):
    """The subject: its pictures, the identifier it is bound to, its class noun and a detailed description."""

    images: ImageSource = Field(description="3-6 pictures of the subject.")
    identifier: Annotated[str, Field(min_length=1, max_length=32, pattern=WORD)] = Field(
        description="The unique identifier `[*]`: one rare word that means nothing to the model yet, such as `sks`."
    )
    class_name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s{}]+( [^\s{}]+)*$")] = Field(
        description="The class noun, such as `dog`. The right noun matters: it is what prior preservation protects."
    )
    description: ShortText | None = Field(
        default=None,
        description=(
            "The paper's detailed description for rare subjects: a noun phrase with the class noun and without an "
            "article, such as `striped star mascot`. The class noun alone when left out."
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(self.identifier.lowerAscii() in self.className.lowerAscii().split(' '))",
            check=lambda self: self.identifier.lower() not in _words(self.class_name),
            message="the identifier must not be a word of className: it would mean two things; "
            "use a rare word such as sks",
            field="identifier",
        ),
        Rule(
            cel="!has(self.description) || !(self.identifier.lowerAscii() in self.description.lowerAscii().split(' '))",
            check=lambda self: self.identifier.lower() not in _words(self.description),
            message="the identifier must not be a word of description: rewards would see it; "
            "use a rare word such as sks",
            field="identifier",
        ),
    )

    @property
    def phrase(self) -> str:
        """The noun phrase that stands for the subject without its identifier."""
        return self.description or self.class_name
