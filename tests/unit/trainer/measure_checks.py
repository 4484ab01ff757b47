"""Hand-derived checks of what is measured of pictures; as in checks.py, each takes the module it checks."""

from __future__ import annotations

from types import ModuleType

import torch

from tests.unit.trainer.checks import close


def check_mean_cosine(module: ModuleType) -> None:
    # (3, 4) against (1, 0) and (0, 5): cosines 0.6 and 0.8, mean 0.7. (0, -2): 0 and -1, mean -0.5. No length counts.
    features, references = torch.tensor([[3.0, 4.0], [0.0, -2.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    close(module.mean_cosine(features, references), [0.7, -0.5])
    # Of three references the mean too, and a row for each picture: (0.6 + 0.8 - 0.6) / 3.
    close(module.mean_cosine(features[:1], torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])), [0.8 / 3])
