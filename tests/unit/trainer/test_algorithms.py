"""The equations against numbers derived by hand (checks.py)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instructbooth_trainer.algorithms import (
    advantages,
    averaging,
    buckets,
    diversity,
    dreambooth,
    flow_matching,
    gaussian,
    kl,
    learning_rate,
    schedule,
    stopping,
    surrogate,
    weighting,
)
from instructbooth_trainer.diffusion import ddim, flow
from instructbooth_trainer.diffusion import schedule as steps
from tests.unit.trainer import checks

CHECKS = [
    (checks.check_gaussian_log_prob, gaussian),
    (checks.check_gaussian_kl, kl),
    (checks.check_clipped_surrogate, surrogate),
    (checks.check_clip_fraction, surrogate),
    (checks.check_group_advantages, advantages),
    (checks.check_part_scale, weighting),
    (checks.check_weighted_sum, weighting),
    (checks.check_add_noise, dreambooth),
    (checks.check_diffusion_target, dreambooth),
    (checks.check_squared_errors, dreambooth),
    (checks.check_dreambooth_loss, dreambooth),
    (checks.check_buckets, buckets),
    (checks.check_nearest_bucket, buckets),
    (checks.check_centre_crop, buckets),
    (checks.check_min_snr_weights, dreambooth),
    (checks.check_schedule_prompts, schedule),
    (checks.check_window_steps, schedule),
    (checks.check_choose_timesteps, schedule),
    (checks.check_group_diversity, diversity),
    (checks.check_stopping, stopping),
    (checks.check_warmed_decay, averaging),
    (checks.check_learning_rate, learning_rate),
    (checks.check_exceeds_ceiling, stopping),
    (checks.check_below_floor, stopping),
    (checks.check_ddim, ddim),
    (checks.check_flow_matching, flow_matching),
    (checks.check_draw_times, flow_matching),
    (checks.check_time_weights, flow_matching),
    (checks.check_flow, flow),
    (checks.check_steps, steps),
]


@pytest.mark.parametrize(("check", "module"), CHECKS, ids=lambda x: getattr(x, "__name__", "").rpartition(".")[2])
def test_equation(check: Callable[[ModuleType], None], module: ModuleType) -> None:
    check(module)


def test_log_prob_is_the_mean_of_torchs_normal() -> None:
    torch.manual_seed(0)
    sample, mean, std = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.rand(5) + 0.1
    expected = torch.distributions.Normal(mean, std.view(5, 1, 1, 1)).log_prob(sample).mean(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian.gaussian_log_prob(sample, mean, std), expected)


def test_log_prob_is_float32_for_half_precision_inputs() -> None:
    sample = torch.full((1, 4), 1.0, dtype=torch.bfloat16)
    out = gaussian.gaussian_log_prob(sample, torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([1.0]))
    assert out.dtype == torch.float32
    assert float(out) == pytest.approx(-1.418939)


def test_kl_is_torchs() -> None:
    torch.manual_seed(0)
    mean, reference, std = torch.randn(3, 7), torch.randn(3, 7), torch.rand(3) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std[:, None]), normal(reference, std[:, None])).mean(
        dim=1
    )
    torch.testing.assert_close(kl.gaussian_kl(mean, reference, std), expected)


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.01, 0.5, 1.0, 3.0]), min_size=1, max_size=20),
    per_epoch=st.integers(1, 20),
    share=st.floats(0, 1),
    epochs=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_shares_are_exact_over_any_run(
    weights: list[float], per_epoch: int, share: float, epochs: int, seed: int
) -> None:
    drawn = [p for e in range(epochs) for p in schedule.schedule_prompts(weights, per_epoch, share, seed, e)]
    assert abs(sum(not p.identifier for p in drawn) - share * len(drawn)) <= 0.5 + 1e-9
    count = len(weights)
    for first in range(0, len(drawn) - count + 1, count):
        deck = [p.prompt for p in drawn[first : first + count]]
        for number, weight in enumerate(weights):
            assert abs(deck.count(number) - count * weight / sum(weights)) < 1 + 1e-9
    if len(set(weights)) == 1:
        counts = [sum(p.prompt == n for p in drawn) for n in range(count)]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=50, deadline=None)
@given(rewards=st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=12))
def test_advantages_of_a_group_do_not_depend_on_shift_or_order(rewards: list[float]) -> None:
    tensor = torch.tensor(rewards)
    group = torch.zeros(len(rewards), dtype=torch.int64)
    base = advantages.group_advantages(tensor, group, 5.0)
    assert abs(float(base.mean())) < 1e-4
    torch.testing.assert_close(advantages.group_advantages(tensor.flip(0), group, 5.0).flip(0), base)
