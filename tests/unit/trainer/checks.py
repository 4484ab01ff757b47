"""Hand-derived checks of the equations. Each takes the module it checks, so that mutants can be put in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor


def close(actual: Tensor, expected: list[float] | list[list[float]], tolerance: float = 1e-6) -> None:
    """Assert equality up to float32 rounding."""
    assert actual.shape == torch.tensor(expected).shape, f"{tuple(actual.shape)}: {actual}"
    assert torch.allclose(actual.double(), torch.tensor(expected).double(), rtol=tolerance, atol=tolerance), actual


def check_gaussian_log_prob(module: ModuleType) -> None:
    # Two dimensions, x - mu = (1, -2), sigma 2: z = (0.5, -1), z^2 / 2 = (0.125, 0.5), mean 0.3125;
    # log sigma = 0.693147, log(2 pi) / 2 = 0.918939: -0.3125 - 0.693147 - 0.918939 = -1.924586.
    sample, mean = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.0, 1.0]]]])
    close(module.gaussian_log_prob(sample, mean, torch.tensor([2.0])), [-1.924586])
    # A row's value does not depend on how many dimensions there are: the mean, not the sum.
    repeated = module.gaussian_log_prob(sample.repeat(1, 1, 1, 8), mean.repeat(1, 1, 1, 8), torch.tensor([2.0]))
    close(repeated, [-1.924586])
    # At x = mu and sigma = 1: -log(2 pi) / 2. Rows do not mix.
    two = module.gaussian_log_prob(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([1.0, math.e]))
    close(two, [-0.918939, -1.918939])
    assert two.dtype == torch.float32


def check_gaussian_kl(module: ModuleType) -> None:
    # mu - mu_ref = (3, 1), sigma 2: mean square 5, over 2 * 4 = 0.625. Equal means: 0.
    mean, reference = torch.tensor([[3.0, 2.0], [7.0, 7.0]]), torch.tensor([[0.0, 1.0], [7.0, 7.0]])
    close(module.gaussian_kl(mean, reference, torch.tensor([2.0, 0.5])), [0.625, 0.0])


def check_clipped_surrogate(module: ModuleType) -> None:
    # e = 0.1. Ratios 1.5, 1.5, 0.5, 0.5, 1 with advantages 2, -2, 2, -2, 3:
    # A > 0, r = 1.5: min(3, 1.1 * 2) = 2.2 -> loss -2.2 (no more to gain)
    # A < 0, r = 1.5: min(-3, -2.2) = -3 -> loss 3 (all to lose)
    # A > 0, r = 0.5: min(1, 0.9 * 2) = 1 -> loss -1
    # A < 0, r = 0.5: min(-1, -1.8) = -1.8 -> loss 1.8
    # r = 1: loss -3
    old = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
    new = old + torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]).log()
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    close(module.clipped_surrogate(new, old, advantage, 0.1), [-2.2, 3.0, -1.0, 1.8, -3.0])
    # The gradient at r = 1 is -A per log-probability: vanilla policy gradient.
    log_prob = torch.tensor([-1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        module.clipped_surrogate(log_prob, torch.tensor([-1.0]), torch.tensor([3.0]), 0.1).sum(), log_prob
    )
    close(gradient, [-3.0])


def check_clip_fraction(module: ModuleType) -> None:
    # |r - 1| = 0.5, 0.05, 0.2, 0 against 0.1: two of four.
    new = torch.tensor([1.5, 1.05, 0.8, 1.0]).log()
    assert float(module.clip_fraction(new, torch.zeros(4), 0.1)) == 0.5


def check_group_advantages(module: ModuleType) -> None:
    # Group 0: rewards 1, 2, 3: mean 2, population std sqrt(2/3) = 0.816497: -1.224745, 0, 1.224745.
    # Group 7: rewards 10, 10: no difference, zeros. Interleaved: groups are found by number, not by place.
    rewards, groups = torch.tensor([1.0, 10.0, 2.0, 10.0, 3.0]), torch.tensor([0, 7, 0, 7, 0])
    close(module.group_advantages(rewards, groups, 5.0), [-1.224745, 0.0, 0.0, 0.0, 1.224745])
    # Cut at +-1.
    close(module.group_advantages(rewards, groups, 1.0), [-1.0, 0.0, 0.0, 0.0, 1.0])
    # The floor: rewards 0 and 0.0002, std 0.0001 < 0.001: +-0.0001 / 0.001 = +-0.1 rather than +-1.
    close(module.group_advantages(torch.tensor([0.0, 0.0002]), torch.tensor([0, 0]), 5.0), [-0.1, 0.1])
    # Deviations -3, 3 and -1, 1: the shared standard deviation is sqrt((9 + 9 + 1 + 1) / 4) = sqrt(5).
    rewards, groups = torch.tensor([0.0, 6.0, 4.0, 6.0]), torch.tensor([7, 7, 9, 9])
    close(module.group_advantages(rewards, groups, 5.0), [-1.0, 1.0, -1.0, 1.0])
    close(module.group_advantages(rewards, groups, 5.0, shared_std=True), [-1.341641, 1.341641, -0.447214, 0.447214])


def check_part_scale(module: ModuleType) -> None:
    # 1, 2, 3: mean 2, population std sqrt(2/3) = 0.816497. 10, 10, 10: no spread, so no unit: 1. 0, 2, 4: 2, 1.632993.
    # Differences of 1e-7 are rounding: std 5e-8 is no spread either.
    parts = torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0], [0.0, 2.0, 4.0]])
    close(module.part_scale(parts), [[2.0, 0.816497], [10.0, 1.0], [2.0, 1.632993]])
    close(module.part_scale(torch.tensor([[0.0, 1e-7]])), [[5e-8, 1.0]])
    # Over the pictures that a part looks at: 1 and 3 have mean 2 and std 1. One that looks at none has no unit.
    nan = float("nan")
    close(module.part_scale(torch.tensor([[1.0, nan, 3.0], [nan, nan, nan]])), [[2.0, 1.0], [0.0, 1.0]])


def check_weighted_sum(module: ModuleType) -> None:
    parts = torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0], [0.0, 2.0, 4.0]])
    weights, some = [2.0, 3.0, 0.5], [True, True, False]
    # Raw: 2 (1, 2, 3) + 3 (10, 10, 10) + 0.5 (0, 2, 4) = (32, 35, 38).
    close(module.weighted_sum(parts, weights, [False] * 3), [32.0, 35.0, 38.0])
    # The first two normalised: 2 (-1.224745, 0, 1.224745) + 3 (0, 0, 0) + (0, 1, 2) = (-2.449490, 1, 4.449490).
    close(module.weighted_sum(parts, weights, some), [-2.449490, 1.0, 4.449490])
    # A constant part says nothing at all, not nearly nothing.
    assert module.weighted_sum(torch.full((1, 7), 0.1), [1000.0], [True]).tolist() == [0.0] * 7
    # By a given scale, mean 1 and std 2 of the first, mean 9 and std 1 of the second, of the third none used:
    # 2 (0, 0.5, 1) + 3 (1, 1, 1) + (0, 1, 2) = (3, 5, 7).
    scale = torch.tensor([[1.0, 2.0], [9.0, 1.0], [100.0, 100.0]])
    close(module.weighted_sum(parts, weights, some, scale), [3.0, 5.0, 7.0])
    # What a part does not look at it adds nothing to: 2 (1, -, 3) + 3 (4, 5, -) = (14, 15, 6), normalised (-5, 3, 2).
    partly = torch.tensor([[1.0, float("nan"), 3.0], [4.0, 5.0, float("nan")]])
    close(module.weighted_sum(partly, [2.0, 3.0], [False, False]), [14.0, 15.0, 6.0])
    close(module.weighted_sum(partly, [2.0, 3.0], [True, True]), [-5.0, 3.0, 2.0])


def check_add_noise(module: ModuleType) -> None:
    # abar 0.64: 0.8 * 5 + 0.6 * 10 = 10; abar 0: noise alone.
    out = module.add_noise(torch.tensor([[5.0], [5.0]]), torch.tensor([[10.0], [10.0]]), torch.tensor([0.64, 0.0]))
    close(out, [[10.0], [10.0]])
    close(module.add_noise(torch.tensor([[5.0]]), torch.tensor([[0.0]]), torch.tensor([0.64])), [[4.0]])


def check_diffusion_target(module: ModuleType) -> None:
    # v = 0.8 * 10 - 0.6 * 5 = 5; epsilon: the noise.
    latents, noise, alpha_bar = torch.tensor([[5.0]]), torch.tensor([[10.0]]), torch.tensor([0.64])
    close(module.diffusion_target(latents, noise, alpha_bar, "v_prediction"), [[5.0]])
    close(module.diffusion_target(latents, noise, alpha_bar, "epsilon"), [[10.0]])
    with pytest.raises(ValueError, match="sample"):
        module.diffusion_target(latents, noise, alpha_bar, "sample")


def check_squared_errors(module: ModuleType) -> None:
    # Rows' mean squares: (1 + 9) / 2 = 5; (4 + 4) / 2 = 4, of halves in float32 too.
    prediction, target = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    close(module.squared_errors(prediction, target), [5.0, 4.0])
    assert module.squared_errors(prediction.bfloat16(), target).dtype == torch.float32


def check_dreambooth_loss(module: ModuleType) -> None:
    # Subject 5 and 1; class 4. Subject mean 3, prior weight 0.5: 3 + 0.5 * 4 = 5.
    errors = torch.tensor([5.0, 1.0, 4.0])
    assert float(module.dreambooth_loss(errors, 2, 0.5)) == pytest.approx(5.0)
    assert float(module.dreambooth_loss(errors, 2, 0.0)) == pytest.approx(3.0)
    # Weights 2, 0, 0.5: subject (10 + 0) / 2 = 5, class 0.5 * 4 = 2: 5 + 0.5 * 2 = 6.
    assert float(module.dreambooth_loss(errors, 2, 0.5, torch.tensor([2.0, 0.0, 0.5]))) == pytest.approx(6.0)
    # Without class rows the subject's loss alone.
    assert float(module.dreambooth_loss(errors[:2], 2, 0.5)) == pytest.approx(3.0)


def check_buckets(module: ModuleType) -> None:
    # Area 32 * 32 = 1024, sides multiples of 8 up to 64. 8 -> 128, too long. 16 -> 64; 24 -> 42, so 40; 40 -> 25, so
    # 24; 48 -> 21, so 16; 56 -> 18, so 16; 64 -> 16. By aspect: 16/64, 16/56, 16/48, 24/40, the square, and on end.
    tall = [(16, 64), (16, 56), (16, 48), (24, 40)]
    found = module.bucket_sizes(32, 8, 64)
    assert found == [*tall, (32, 32), *[(h, w) for w, h in reversed(tall)]]
    # No side above 48: 16 goes with 64 only as far as 48 allows, that is with 48.
    assert module.bucket_sizes(32, 8, 48) == [(16, 48), (24, 40), (32, 32), (40, 24), (48, 16)]
    # 512 in steps of 64: 448 -> 262144 / 448 = 585.1, so 576; 384 -> 682.7, so 640; 320 -> 819.2, so 768.
    known = module.bucket_sizes(512, 64, 1024)
    assert {(448, 576), (384, 640), (320, 768), (256, 1024)} < set(known)
    # A resolution that is no multiple of the step keeps its square all the same.
    assert (40, 40) in module.bucket_sizes(40, 16, 80)


def check_nearest_bucket(module: ModuleType) -> None:
    # 3:4 = 0.75 lies between 448:576 = 0.778 (off by a factor 1.037) and 384:640 = 0.6 (1.25); on end likewise.
    buckets = [(256, 1024), (384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert module.nearest_bucket((3000, 4000), buckets) == (448, 576)
    assert module.nearest_bucket((4000, 3000), buckets) == (576, 448)
    assert module.nearest_bucket((700, 700), buckets) == (512, 512)
    # 8:15 = 0.533: 0.6 is a factor 1.125 away, 0.25 one of 2.13. By difference 16:10 would be no nearer than 10:16.
    assert module.nearest_bucket((800, 1500), buckets) == (384, 640)
    # Two with the same aspect: the larger.
    assert module.nearest_bucket((50, 50), [(32, 32), (40, 40)]) == (40, 40)
    # Between 1:1 and 1:4 the border is at 1:2 by ratio (by difference it would be at 1:1.6).
    assert module.nearest_bucket((100, 195), [(256, 1024), (512, 512)]) == (512, 512)
    assert module.nearest_bucket((100, 205), [(256, 1024), (512, 512)]) == (256, 1024)


def check_centre_crop(module: ModuleType) -> None:
    # 100 x 50 into 24:40: as high as it is, 50 * 24 / 40 = 30 wide, (100 - 30) // 2 = 35 from the left.
    assert module.centre_crop((100, 50), (24, 40)) == (35, 0, 65, 50)
    # 30 x 90 into 24:40: as wide as it is, 30 * 40 / 24 = 50 high, 20 from the top.
    assert module.centre_crop((30, 90), (24, 40)) == (0, 20, 30, 70)
    # A square out of 45 x 32, and all of a picture that has the aspect already.
    assert module.centre_crop((45, 32), (64, 64)) == (6, 0, 38, 32)
    assert module.centre_crop((48, 80), (24, 40)) == (0, 0, 48, 80)


def check_min_snr_weights(module: ModuleType) -> None:
    # abar 0.9: SNR 9; abar 0.5: SNR 1; abar 0: SNR 0. Gamma 5: min is 5, 1, 0.
    alpha_bar = torch.tensor([0.9, 0.5, 0.0])
    close(module.min_snr_weights(alpha_bar, "epsilon", 5.0), [5 / 9, 1.0, 1.0])
    close(module.min_snr_weights(alpha_bar, "v_prediction", 5.0), [5 / 10, 1 / 2, 0.0])


def check_schedule_prompts(module: ModuleType) -> None:
    # Share 0.3 of 4 prompts an epoch over 5 epochs: 6 of 20, and never off by more than rounding on the way:
    # after n prompts round(0.3 n) = 1 (4), 2 (8), 4 (12), 5 (16), 6 (20).
    even = [1.0] * 7
    epochs = [module.schedule_prompts(even, 4, 0.3, 0, epoch) for epoch in range(5)]
    free = [sum(not p.identifier for p in epoch) for epoch in epochs]
    assert free == [1, 1, 2, 1, 1]
    # Round-robin: 20 prompts of a list of 7: every prompt twice in the first 14.
    flat = [p.prompt for epoch in epochs for p in epoch]
    assert sorted(flat[:7]) == sorted(flat[7:14]) == list(range(7))
    assert flat[:7] != flat[7:14], "decks are shuffled"
    assert flat[:7] != list(range(7))
    assert module.schedule_prompts(even, 4, 0.3, 0, 2) == epochs[2]
    assert any(module.schedule_prompts(even, 4, 0.3, 1, e) != epochs[e] for e in range(5))
    assert all(p.identifier for p in module.schedule_prompts(even, 4, 0.0, 0, 0))
    assert not any(p.identifier for p in module.schedule_prompts(even, 4, 1.0, 0, 0))
    # Weights 3, 1, 0.5, 0.5 of a deck of 4 cards, W = 5: 2.4, 0.8, 0.4 and 0.4 cards a deck, so 2 or 3 of the first and
    # 0 or 1 of each other in every deck, and in 500 decks 1200, 400, 200, 200 give or take 4 standard deviations (0.49
    # and less a deck, so 44).
    weights = [3.0, 1.0, 0.5, 0.5]
    decks = [[p.prompt for p in module.schedule_prompts(weights, 4, 0.5, 0, deck)] for deck in range(500)]
    assert all(deck.count(0) in (2, 3) and max(deck.count(n) for n in (1, 2, 3)) <= 1 for deck in decks)
    counts = [sum(deck.count(n) for deck in decks) for n in range(4)]
    assert all(abs(count - wanted) < 44 for count, wanted in zip(counts, (1200, 400, 200, 200), strict=True)), counts
    assert len({tuple(deck) for deck in decks}) > 20, "decks are shuffled"
    # It is the ratio that counts.
    scaled = [[p.prompt for p in module.schedule_prompts([10 * w for w in weights], 4, 0.5, 0, e)] for e in range(9)]
    assert scaled == decks[:9]


def check_window_steps(module: ModuleType) -> None:
    # 8 steps, of which the last is never trained: a window of 2 that begins at 1 can be at 1, 2, 3, 4 and 5.
    assert module.window_steps(8, 1, 3, None, 1000) == range(1, 3)
    moved = [module.window_steps(8, 1, 3, 10, epoch) for epoch in (0, 9, 10, 20, 30, 40, 49, 50, 99)]
    assert [(r.start, r.stop) for r in moved] == [(n, n + 2) for n in (1, 1, 2, 3, 4, 5, 5, 1, 5)]
    # One that has no room stays.
    assert module.window_steps(4, 0, 3, 1, 5) == range(3)


def check_choose_timesteps(module: ModuleType) -> None:
    # 3 of steps 2 to 8, ascending, other ones for another picture and another epoch.
    steps = range(2, 9)
    chosen = [module.choose_timesteps(steps, 3, 0, 0, image) for image in range(200)]
    assert all(len(c) == 3 and c == sorted(set(c)) for c in chosen)
    assert {step for c in chosen for step in c} == set(steps)
    assert chosen != [module.choose_timesteps(steps, 3, 0, 1, image) for image in range(200)]
    assert module.choose_timesteps(steps, None, 0, 0, 0) == list(steps)
    assert module.choose_timesteps(steps, 7, 0, 0, 0) == list(steps)


def check_group_diversity(module: ModuleType) -> None:
    # Group 4: rows (0, 0), (6, 8), (0, 0): distances 10, 0, 10 over sqrt(2): mean 20 / 3 / 1.414214 = 4.714045.
    # Group 2: rows (1, 1), (1, 1): 0. Interleaved. Mean 2.357023.
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [6.0, 8.0], [1.0, 1.0], [0.0, 0.0]])
    diversity = module.group_diversity(rows, torch.tensor([4, 2, 4, 2, 4]))
    assert diversity == pytest.approx(2.357023, rel=1e-6)
    # Each cell of the 16 x 16 is the mean of its pixels, channel by channel: 32 x 32 with 0 and 1 in turns is 0.5.
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, 0, ::2] = 1.0
    picture[:, 1] = 0.25
    close(module.thumbnails(picture).view(3, 256).mean(dim=1), [0.5, 0.25, 0.0])
    assert float(module.thumbnails(picture).view(3, 256).std(dim=1).max()) == 0.0


def check_warmed_decay(module: ModuleType) -> None:
    # n / (n + 9): 0 / 9, 1 / 10, 9 / 18, 81 / 90; then the decay itself, 0.95 from n = 171 on.
    decays = [module.warmed_decay(0.95, n) for n in (0, 1, 9, 81, 170, 171, 1000)]
    assert decays == pytest.approx([0.0, 0.1, 0.5, 0.9, 170 / 179, 0.95, 0.95])


def check_learning_rate(module: ModuleType) -> None:
    # Peak 8 over 10 steps, of which 3 warm up: 8 * 1/4, 2/4, 3/4; then t = 0, 1/7, ..., 6/7.
    def rates(schedule: str, *steps: int) -> list[float]:
        return [module.learning_rate(8.0, schedule, step, 10, 3) for step in steps]

    assert rates("constant", 0, 1, 2, 3, 9) == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rates("linear", 2, 3, 4, 9) == pytest.approx([6.0, 8.0, 8 * 6 / 7, 8 / 7])
    # (1 + cos(pi / 7)) / 2 = 0.950484, (1 + cos(6 pi / 7)) / 2 = 0.049516.
    assert rates("cosine", 2, 3, 4, 9) == pytest.approx([6.0, 8.0, 7.603875, 0.396125], rel=1e-5)
    assert module.learning_rate(8.0, "cosine", 4, 5, 5) == pytest.approx(8 * 5 / 6)
    with pytest.raises(ValueError, match="cosinus"):
        rates("cosinus", 5)


def check_stopping(module: ModuleType) -> None:
    # Scores 1.0, 1.05 (gain below 0.1), 1.2 (gain), 1.0, 1.0 with patience 2.
    state = module.StoppingState()
    seen = []
    for score in (1.0, 1.05, 1.2, 1.0, 1.0):
        state = state.observe(score, 0.1)
        seen.append((state.best, state.waited, state.improved, state.exhausted(2)))
    assert seen == [
        (1.0, 0, True, False),
        (1.0, 1, False, False),
        (1.2, 0, True, False),
        (1.2, 1, False, False),
        (1.2, 2, False, True),
    ]


def check_exceeds_ceiling(module: ModuleType) -> None:
    assert module.exceeds_ceiling(0.11, 0.1)
    assert not module.exceeds_ceiling(0.1, 0.1)
    assert module.exceeds_ceiling(float("nan"), 0.1)
    assert not module.exceeds_ceiling(5.0, None)


def check_below_floor(module: ModuleType) -> None:
    assert module.below_floor(0.09, 0.1)
    assert not module.below_floor(0.1, 0.1)
    assert module.below_floor(float("nan"), 0.1)


class _Scheduler:
    """A scheduler of four training steps with abar 0.81, 0.64, 0.36, 0.04 and two sampling steps: 3 and 1."""

    class config:
        prediction_type = "epsilon"
        num_train_timesteps = 4

    alphas_cumprod = torch.tensor([0.81, 0.64, 0.36, 0.04])
    final_alpha_cumprod = torch.tensor(1.0)
    timesteps = torch.tensor([3, 1])

    def set_timesteps(self, count: int) -> None:
        assert count == 2


def check_ddim(module: ModuleType) -> None:
    cpu = torch.device("cpu")
    scheduler = _Scheduler()
    schedule = module.DdimSchedule.from_scheduler(scheduler, 2, 1.0, cpu)
    # Step 0: abar 0.04, abar' 0.64. sigma^2 = 0.36 / 0.96 * (1 - 0.04 / 0.64) = 0.375 * 0.9375 = 0.3515625,
    # sigma 0.592927. Step 1: abar' = 1, sigma 0. Half of eta halves sigma.
    close(schedule.alpha_bar, [0.04, 0.64])
    close(schedule.alpha_bar_next, [0.64, 1.0])
    close(schedule.sigma, [0.592927, 0.0])
    close(module.DdimSchedule.from_scheduler(scheduler, 2, 0.5, cpu).sigma, [0.296464, 0.0])
    # x = 1, eps = 0.5 at step 0: x0 = (1 - 0.979796 * 0.5) / 0.2 = 2.550510;
    # mu = 0.8 * 2.550510 + sqrt(1 - 0.64 - 0.3515625) * 0.5 = 2.040408 + 0.091856 * 0.5 = 2.086336.
    # At step 1: x0 = (1 - 0.6 * 0.5) / 0.8 = 0.875 = mu.
    ones, halves = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 0.5)
    close(schedule.mean(halves, ones, torch.tensor([0, 1])).flatten(), [2.086336, 0.875])
    # v = 0.5, x = 1 at step 0: x0 = 0.2 - 0.979796 * 0.5 = -0.289898, eps = 0.2 * 0.5 + 0.979796 = 1.079796;
    # mu = 0.8 * -0.289898 + 0.091856 * 1.079796 = -0.231918 + 0.099186 = -0.132733. At step 1: 0.8 - 0.3 = 0.5.
    _Scheduler.config.prediction_type = "v_prediction"
    try:
        velocity = module.DdimSchedule.from_scheduler(scheduler, 2, 1.0, cpu)
    finally:
        _Scheduler.config.prediction_type = "epsilon"
    close(velocity.mean(halves, ones, torch.tensor([0, 1])).flatten(), [-0.132733, 0.5])
    # The transition to mu + sigma has z = 1: -0.5 - log(0.592927) - 0.918939 = -0.896255.
    to = torch.full((1, 1, 1, 1), 2.086336 + 0.592927)
    log_prob, mean = schedule.log_prob(halves[:1], ones[:1], to, torch.tensor([0]))
    close(log_prob, [-0.896255], 1e-5)
    close(mean.flatten(), [2.086336])


def check_steps(module: ModuleType) -> None:
    @dataclass(frozen=True)
    class Steps(module.Schedule):  # type: ignore[misc, name-defined]
        timesteps: Tensor
        sigma: Tensor

        def mean(self, prediction: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            return prediction

    # Step 0: to mu + sigma, z = 1: -0.5 - log(0.5) - 0.918939 = -0.725791. Step 1: to mu itself: -log(2) - 0.918939.
    ones, to = torch.ones(2, 1, 1, 1), torch.tensor([1.5, 1.0]).view(2, 1, 1, 1)
    schedule = Steps(torch.tensor([900, 500]), torch.tensor([0.5, 2.0]))
    log_prob, mean = schedule.log_prob(ones, 9 * ones, to, torch.tensor([0, 1]))
    close(log_prob, [-0.725791, -1.612086], 1e-5)
    close(mean.flatten(), [1.0, 1.0])
    # Noise in steps 1 and 2 of four alone; the schedule itself stays as it is.
    four = Steps(torch.tensor([900, 700, 500, 300]), torch.tensor([0.5, 2.0, 1.0, 0.25]))
    close(four.stochastic_within(range(1, 3)).sigma, [0.0, 2.0, 1.0, 0.0])
    assert torch.equal(four.stochastic_within(range(1, 3)).timesteps, four.timesteps)
    close(four.sigma, [0.5, 2.0, 1.0, 0.25])


def check_flow_matching(module: ModuleType) -> None:
    latents, noise = torch.tensor([[2.0], [2.0]]), torch.tensor([[-1.0], [-1.0]])
    # At t = 0.25: 0.75 * 2 - 0.25 = 1.25; at t = 1 nothing but noise. v = -1 - 2.
    close(module.interpolate(latents, noise, torch.tensor([0.25, 1.0])).flatten(), [1.25, -1.0])
    close(module.velocity(latents, noise).flatten(), [-3.0, -3.0])
    # 0.5 is shifted by 3 to 1.5 / 2 = 0.75; ends stay, and a shift of 1 moves nothing.
    close(module.shift_times(torch.tensor([0.0, 0.5, 1.0]), 3.0), [0.0, 0.75, 1.0])
    close(module.shift_times(torch.tensor([0.3]), 1.0), [0.3])


def check_draw_times(module: ModuleType) -> None:
    def draw(scheme: str, **options: float) -> torch.Tensor:
        times: torch.Tensor = module.draw_times(scheme, 20_000, torch.Generator().manual_seed(0), **options)
        assert float(times.min()) >= 0
        assert float(times.max()) <= 1
        return times

    # The logit of a time is normal with the given mean and standard deviation.
    for mean, std in ((0.0, 1.0), (1.0, 0.5)):
        logits = draw("logit_normal", mean=mean, std=std).logit()
        assert abs(float(logits.mean()) - mean) < 0.03
        assert abs(float(logits.std()) - std) < 0.03
    # Uniform: the share below 0.25 is 0.25, the logit's is not; and so for both that are weighed instead.
    for scheme in ("none", "cosmap", "sigma_sqrt"):
        uniform = draw(scheme)
        assert abs(float((uniform < 0.25).float().mean()) - 0.25) < 0.01
    # mode at u = 1/3: cos^2(pi / 6) = 0.75, 1 - 1/3 - s (0.75 - 1 + 1/3) = 0.666667 - 0.083333 s. It falls in u, so the
    # share of times above that is 1/3, for every s; and at s = 0 they are 1 - u.
    for scale in (1.29, -0.5):
        assert abs(float((draw("mode", scale=scale) > 2 / 3 - scale / 12).float().mean()) - 1 / 3) < 0.01
    close(draw("mode", scale=0.0)[:5], (1 - uniform[:5]).tolist())


def check_time_weights(module: ModuleType) -> None:
    times = torch.tensor([0.5, 0.25, 1e-5])
    # 2 / (pi 0.5) = 1.273240; 1 - 0.5 + 0.125 = 0.625: 2 / (pi 0.625) = 1.018592; 2 / pi (1 + 2e-5) = 0.636633.
    close(module.time_weights("cosmap", times), [1.273240, 1.018592, 0.636633])
    # 4, 16, and what 1e-3 weighs.
    close(module.time_weights("sigma_sqrt", times) / 1e6, [4e-6, 16e-6, 1.0])
    assert all(module.time_weights(scheme, times) is None for scheme in ("logit_normal", "mode", "none"))


def check_flow(module: ModuleType) -> None:
    times = torch.tensor([1.0, 0.8, 0.5, 0.0])
    schedule = module.FlowSchedule.from_times(1000 * times[:-1], times, 0.5, torch.device("cpu"))
    # t = 1: sigma^2 = 0.25 * 1 * min(0.2 / 0, 1) = 0.25. t = 0.8: d / (1 - t) = 0.3 / 0.2 is over 1: 0.25 * 0.8 = 0.2,
    # sigma 0.447214. The last has none.
    close(schedule.timesteps, [1000.0, 800.0, 500.0])
    close(schedule.sigma, [0.5, 0.447214, 0.0])
    # t = 0.8, x = 1, v = 0.5: eps = 1 + 0.2 * 0.5 = 1.1; mu = 1 - 0.3 * 0.5 - 0.2 / 1.6 * 1.1 = 0.85 - 0.1375 = 0.7125.
    # t = 1: eps = 1, mu = 1 - 0.2 * 0.5 - 0.25 / 2 = 0.775. t = 0.5: 1 - 0.5 * 0.5 = 0.75.
    ones, halves = torch.ones(3, 1, 1, 1), torch.full((3, 1, 1, 1), 0.5)
    close(schedule.mean(halves, ones, torch.tensor([0, 1, 2])).flatten(), [0.775, 0.7125, 0.75])
    # Where the step is short, d / (1 - t) stays: t = 0.5 to 0.4 has 0.25 * 0.5 * 0.1 / 0.5 = 0.025, sigma 0.158114.
    short = module.FlowSchedule.from_times(torch.tensor([500.0, 400.0]), torch.tensor([0.5, 0.4, 0.0]), 0.5, "cpu")
    close(short.sigma, [0.158114, 0.0])
    # The transition to mu + sigma has z = 1: -0.5 - log(0.447214) - 0.918939 = -0.614220.
    to = torch.full((1, 1, 1, 1), 0.7125 + 0.447214)
    log_prob, mean = schedule.log_prob(halves[:1], ones[:1], to, torch.tensor([1]))
    close(log_prob, [-0.614220], 1e-5)
    close(mean.flatten(), [0.7125])
