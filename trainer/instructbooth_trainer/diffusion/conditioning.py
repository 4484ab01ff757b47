"""What a model's prediction is conditioned on: a family's own bundle of tensors, opaque to the recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What a family's text encoders make of prompts, by the family's own names; the first dimension of each is the prompt.
Encoding = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditioning:
    """What the policy is conditioned on.

    Where rollouts are drawn with guidance > 1 and it is trained along, log-probabilities are of the guided mean and
    gradients pass through both halves of the folded batch.

    Attributes:
        encoding: a row per picture in every tensor.
        empty: the encoding of the empty prompt, one row; None where the model does without.
        guidance: 1 is without.
    """

    encoding: Encoding
    empty: Encoding | None = None
    guidance: float = 1.0

    def rows(self, index: Tensor | slice) -> Conditioning:
        """The conditioning of some rows."""
        return Conditioning({name: x[index] for name, x in self.encoding.items()}, self.empty, self.guidance)

    def conditional(self) -> Conditioning:
        """Without the empty prompt: the conditional prediction alone. A model that is told its guidance keeps it."""
        return self if self.empty is None else Conditioning(self.encoding)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of several, which have empty prompt and guidance in common."""
        first = parts[0]
        encoding = {name: torch.cat([part.encoding[name] for part in parts]) for name in first.encoding}
        return Conditioning(encoding, first.empty, first.guidance)

    def folded(self) -> Encoding:
        """Twice the rows: the empty prompt for each, then the rows themselves. Raises ValueError without empty."""
        if self.empty is None:
            raise ValueError("guidance needs the encoding of the empty prompt")
        return {
            name: torch.cat([self.empty[name].to(rows.dtype).expand_as(rows), rows])
            for name, rows in self.encoding.items()
        }
