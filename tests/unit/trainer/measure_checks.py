"""Hand-derived checks of what is measured of pictures; as in checks.py, each takes the module it checks."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from instructbooth_trainer.report.evaluation import Mean
from tests.unit.trainer.checks import close


def check_mean_cosine(module: ModuleType) -> None:
    # (3, 4) against (1, 0) and (0, 5): cosines 0.6 and 0.8, mean 0.7. (0, -2): 0 and -1, mean -0.5. No length counts.
    features, references = torch.tensor([[3.0, 4.0], [0.0, -2.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    close(module.mean_cosine(features, references), [0.7, -0.5])
    # Of three references the mean too, and a row for each picture: (0.6 + 0.8 - 0.6) / 3.
    close(module.mean_cosine(features[:1], torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])), [0.8 / 3])


def check_interval(module: ModuleType) -> None:
    # Two values, 0 and 1: resampled means are 0, 0.5 and 1 with 1/4, 1/2 and 1/4: 2.5 % below is 0, above 1.
    two = module.interval([0.0, 1.0])
    assert (two.mean, two.low, two.high, two.cells) == (0.5, 0.0, 1.0, 2)
    # Many: variance of a value 1/4, of the mean of 200 1/800; 1.96 of its square root is 0.0693 on either side.
    many = module.interval([0.0, 1.0] * 100)
    assert many.high - 0.5 == pytest.approx(0.0693, rel=0.08)
    assert 0.5 - many.low == pytest.approx(0.0693, rel=0.08)
    # Skewed: nine zeros and a ten. P(no ten) = 0.9^10 = 0.35, P(at most 3 tens) = 0.987, P(at most 2) = 0.930: [0, 3].
    skewed = module.interval([0.0] * 9 + [10.0])
    assert (skewed.mean, skewed.low, skewed.high) == (1.0, 0.0, 3.0)
    assert module.percentile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert module.interval([2.0]).low == 2.0
    roots = [i**0.5 for i in range(30)]
    assert module.interval(roots) == module.interval(roots)  # seeded


def check_over_subjects(module: ModuleType) -> None:
    # Subjects of means 1, 2 and 6 with 1, 1 and 4 pictures: the mean of subjects is 3, that of pictures would be 4.5.
    class Found:
        def __init__(self, mean: float, n: int) -> None:
            self.summary = {"base": {"m": Mean(mean=mean, standard_error=None, n=n)}}

    found = module.Collection({str(m): Found(m, n) for m, n in ((1.0, 1), (2.0, 1), (6.0, 4))})
    over = found.over_subjects("base", "m")
    assert (over.mean, over.cells) == (3.0, 3)
    assert 1.0 <= over.low < 3.0 < over.high <= 6.0


def check_mean_over_prompts(module: ModuleType) -> None:
    # Prompt 0 scores 0, 0, 0, 0 and prompt 1 scores 1, 1, 1, 1. Prompts being drawn the ends are 0 and 1; were pictures
    # drawn they would be near 0.125 and 0.875.
    def picture(prompt: int, score: float) -> module.Picture:  # type: ignore[name-defined]
        return module.Picture(
            model="base", prompt_index=prompt, number=0, file="", prompt="", batch_seeds=[0], batch_index=0,
            scores={"m": score},
        )  # fmt: skip

    mean = module.mean_over_prompts([picture(p, float(p)) for p in (0, 1) for _ in range(4)], "m")
    assert (mean.mean, mean.low, mean.high, mean.n) == (0.5, 0.0, 1.0, 8)
    assert module.mean_over_prompts([picture(0, 1.0), picture(0, 2.0)], "m").low is None
