# ruff: noqa: E501 - a mutant a line
"""The hand-derived checks can fail: each mutant of an equation is put in its place and must be caught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from instructbooth import intervals
from instructbooth.dreambench import collect
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
from instructbooth_trainer.report import evaluation
from instructbooth_trainer.rewards import likeness
from tests.unit.trainer import checks, measure_checks

Check = Callable[[ModuleType], None]

MUTANTS: list[tuple[ModuleType, Check, str, str]] = [
    (gaussian, checks.check_gaussian_log_prob, "-0.5 * squared", "-squared"),
    (gaussian, checks.check_gaussian_log_prob, "- std.log()", "+ std.log()"),
    (gaussian, checks.check_gaussian_log_prob, "- 0.5 * math.log(2 * math.pi)", ""),
    (gaussian, checks.check_gaussian_log_prob, ".flatten(1).mean(dim=1)", ".flatten(1).sum(dim=1)"),
    (gaussian, checks.check_gaussian_log_prob, "** 2", "** 1"),
    (kl, checks.check_gaussian_kl, "(2 * std.float() ** 2)", "(std.float() ** 2)"),
    (kl, checks.check_gaussian_kl, "(2 * std.float() ** 2)", "(2 * std.float())"),
    (kl, checks.check_gaussian_kl, ".pow(2).mean(dim=1)", ".pow(2).sum(dim=1)"),
    (kl, checks.check_gaussian_kl, ".pow(2)", ".abs()"),
    (surrogate, checks.check_clipped_surrogate, ".maximum(", ".minimum("),
    (surrogate, checks.check_clipped_surrogate, "(-advantage * ratio)", "(advantage * ratio)"),
    (surrogate, checks.check_clipped_surrogate, "-advantage * clipped", "-advantage * ratio"),
    (surrogate, checks.check_clipped_surrogate, "clamp(1 - clip_range, 1 + clip_range)", "clamp(max=1 + clip_range)"),
    (surrogate, checks.check_clipped_surrogate, "ratio = (log_prob - old_log_prob)", "ratio = (old_log_prob - log_prob)"),
    (surrogate, checks.check_clip_fraction, "- 1).abs() > clip_range", "- 1) > clip_range"),
    (advantages, checks.check_group_advantages, "reward - group_means(reward)[index]", "reward"),
    (advantages, checks.check_group_advantages, "index.bincount().double()", "index.bincount().double() - 0.5"),
    (advantages, checks.check_group_advantages, "if shared_std else", "if not shared_std else"),
    (advantages, checks.check_group_advantages, "group_means(square)[index]", "square.mean()"),
    (advantages, checks.check_group_advantages, ".clamp(min=std_floor)", " + 1e-8"),
    (advantages, checks.check_group_advantages, ".clamp(-clip, clip)", ".clamp(max=clip)"),
    (weighting, checks.check_part_scale, ".nanmean(dim=1).sqrt()", ".nansum(dim=1).div(len(exact[0]) - 1).sqrt()"),
    (weighting, checks.check_part_scale, ".nanmean(dim=1).sqrt()", ".nansum(dim=1).div(len(exact[0])).sqrt()"),
    (weighting, checks.check_part_scale, "mean[:, 0].nan_to_num()", "mean[:, 0]"),
    (weighting, checks.check_part_scale, "exact.nanmean(dim=1, keepdim=True)", "exact.mean(dim=1, keepdim=True)"),
    (weighting, checks.check_weighted_sum, ".nan_to_num(nan=0.0)", ""),
    (weighting, checks.check_part_scale, "torch.where(std > SPREAD_FLOOR, std, torch.ones_like(std))", "std"),
    (weighting, checks.check_part_scale, "torch.where(std > SPREAD_FLOOR, std, torch.ones_like(std))", "std.clamp(min=SPREAD_FLOOR)"),
    (weighting, checks.check_part_scale, "exact.nanmean(dim=1, keepdim=True)", "exact.nanmean().expand(len(parts), 1)"),
    (weighting, checks.check_weighted_sum, "(part.double() - mean)", "part.double()"),
    (weighting, checks.check_weighted_sum, " / std)", ")"),
    (weighting, checks.check_weighted_sum, "total += weight * ", "total += "),
    (weighting, checks.check_weighted_sum, "if wanted else part", "if not wanted else part"),
    (weighting, checks.check_weighted_sum, "part_scale(parts) if scale is None else scale", "part_scale(parts)"),
    (dreambooth, checks.check_add_noise, "+ (1 - alpha_bar).sqrt() * noise", "+ (1 - alpha_bar) * noise"),
    (dreambooth, checks.check_add_noise, "return alpha_bar.sqrt() * latents", "return alpha_bar * latents"),
    (dreambooth, checks.check_diffusion_target, "- (1 - alpha_bar).sqrt() * latents", "+ (1 - alpha_bar).sqrt() * latents"),
    (dreambooth, checks.check_diffusion_target, "return noise\n", "return latents\n"),
    (dreambooth, checks.check_squared_errors, ".pow(2)", ".abs()"),
    (dreambooth, checks.check_squared_errors, ".mean(dim=1)", ".sum(dim=1)"),
    (dreambooth, checks.check_dreambooth_loss, "loss + prior_weight *", "loss + "),
    (dreambooth, checks.check_dreambooth_loss, "errors[num_subject:].mean()", "errors.mean()"),
    (dreambooth, checks.check_dreambooth_loss, "loss = errors[:num_subject].mean()", "loss = errors[:num_subject].sum()"),
    (dreambooth, checks.check_dreambooth_loss, "errors * weights", "errors"),
    (buckets, checks.check_buckets, "resolution**2 // side // step * step", "(resolution**2 // side + step // 2) // step * step"),
    (buckets, checks.check_buckets, "sizes = {(resolution, resolution)}", "sizes = set()"),
    (buckets, checks.check_buckets, "{(side, other), (other, side)}", "{(side, other)}"),
    (buckets, checks.check_buckets, "< other <= longest", "< other"),
    (buckets, checks.check_nearest_bucket, "max(one, other) / min(one, other)", "abs(one - other) / bucket[1]"),
    (buckets, checks.check_nearest_bucket, ", -bucket[0] * bucket[1]", ", bucket[0] * bucket[1]"),
    (buckets, checks.check_nearest_bucket, "picture[0] * bucket[1], picture[1] * bucket[0]", "picture[1] * bucket[1], picture[0] * bucket[0]"),
    (buckets, checks.check_centre_crop, "width * h >= height * w", "width * h < height * w"),
    (buckets, checks.check_centre_crop, "round(height * w / h)", "round(height * h / w)"),
    (buckets, checks.check_centre_crop, "round(width * h / w)", "height"),
    (buckets, checks.check_centre_crop, "(picture[0] - width) // 2", "0"),
    (dreambooth, checks.check_min_snr_weights, "(snr + 1)", "snr"),
    (dreambooth, checks.check_min_snr_weights, "snr.clamp(max=gamma)", "snr"),
    (dreambooth, checks.check_min_snr_weights, "(gamma / snr).clamp(max=1.0)", "gamma / snr"),
    (dreambooth, checks.check_min_snr_weights, "alpha_bar.float() / (1 - alpha_bar.float())", "alpha_bar.float()"),
    (schedule, checks.check_schedule_prompts, "after - before", "after"),
    (schedule, checks.check_schedule_prompts, "index not in free", "index in free"),
    (schedule, checks.check_schedule_prompts, '"deck", seed, deck', '"deck", seed, position'),
    (schedule, checks.check_schedule_prompts, "bisect.bisect_right(ends, point)", "bisect.bisect_right(ends, 0.0)"),
    (schedule, checks.check_schedule_prompts, "(k + u) * ends[-1] / len(weights)", "(k + u) * ends[-1] / 10"),
    (schedule, checks.check_schedule_prompts, "(k + u) * ends[-1]", "(k + 0.5) * ends[-1]"),
    (schedule, checks.check_schedule_prompts, "append(number if even else", "append(card if even else"),
    (schedule, checks.check_schedule_prompts, '"cards", seed, deck', '"cards", seed'),
    (schedule, checks.check_schedule_prompts, "_cards(weights, seed, deck)[number]", "_cards(weights, seed, deck)[card]"),
    (schedule, checks.check_window_steps, "% (num_steps - end)", "% (num_steps - end + 1)"),
    (schedule, checks.check_window_steps, "epoch // interval", "epoch"),
    (schedule, checks.check_window_steps, "range(start + moved, end + moved)", "range(start + moved, end)"),
    (schedule, checks.check_choose_timesteps, "sorted(steps[n] for n in", "sorted(n for n in"),
    (diversity, checks.check_group_diversity, "functional.pdist(features[groups == number].double())", "functional.pdist(features.double())"),
    (diversity, checks.check_group_diversity, "features.shape[1] ** 0.5", "features.shape[1]"),
    (diversity, checks.check_group_diversity, "stack(means).mean()", "stack(means).max()"),
    (diversity, checks.check_group_diversity, "adaptive_avg_pool2d", "adaptive_max_pool2d"),
    (stopping, checks.check_below_floor, "not value >= floor", "value < floor"),
    (stopping, checks.check_below_floor, "not value >= floor", "not value > floor"),
    (steps, checks.check_steps, "self.sigma * inside", "self.sigma"),
    (steps, checks.check_steps, "self.sigma * inside", "self.sigma * (1 - inside)"),
    (steps, checks.check_steps, "steps.start : steps.stop", "steps.start : steps.stop + 1"),
    (schedule, checks.check_choose_timesteps, '"timesteps", seed, epoch, image', '"timesteps", seed, epoch'),
    (averaging, checks.check_warmed_decay, "updates / (updates + 9)", "(1 + updates) / (10 + updates)"),
    (averaging, checks.check_warmed_decay, "return min(decay, updates / (updates + 9))", "return decay"),
    (learning_rate, checks.check_learning_rate, "peak * (step + 1) / (warmup + 1)", "peak * step / warmup"),
    (learning_rate, checks.check_learning_rate, "if step < warmup", "if step <= warmup - 2"),
    (learning_rate, checks.check_learning_rate, "(step - warmup) / (steps - warmup)\n    if", "step / steps\n    if"),
    (learning_rate, checks.check_learning_rate, "peak * (1 + math.cos(math.pi * t)) / 2", "peak * math.cos(math.pi * t / 2)"),
    (learning_rate, checks.check_learning_rate, "peak * (1 - t)", "peak * (1 - t) ** 2"),
    (stopping, checks.check_stopping, "self.best + min_delta", "self.best"),
    (stopping, checks.check_stopping, "best=score, waited=0", "best=score, waited=self.waited"),
    (stopping, checks.check_stopping, "self.waited >= patience", "self.waited > patience"),
    (stopping, checks.check_exceeds_ceiling, "not kl <= ceiling", "kl > ceiling"),
    (stopping, checks.check_exceeds_ceiling, "not kl <= ceiling", "not kl < ceiling"),
    (ddim, checks.check_ddim, "sigma = eta * variance", "sigma = variance"),
    (ddim, checks.check_ddim, "(1 - alpha_bar / alpha_bar_next)", "(1 - alpha_bar_next)"),
    (ddim, checks.check_ddim, "(1 - a_next - sigma**2)", "(1 - a_next)"),
    (ddim, checks.check_ddim, "x0 = a.sqrt() * latents - ", "x0 = a.sqrt() * latents + "),
    (ddim, checks.check_ddim, "eps = a.sqrt() * prediction + ", "eps = a.sqrt() * prediction - "),
    (ddim, checks.check_ddim, "(latents - (1 - a).sqrt() * prediction) / a.sqrt()", "(latents - (1 - a).sqrt() * prediction)"),
    (steps, checks.check_steps, "gaussian_log_prob(next_latents, mean", "gaussian_log_prob(latents, mean"),
    (steps, checks.check_steps, "self.sigma[steps]", "self.sigma[steps - 1]"),
    (ddim, checks.check_ddim, "torch.where(following >= 0", "torch.where(following >= -1"),
    (flow_matching, checks.check_flow_matching, "(1 - time) * latents + time * noise", "time * latents + (1 - time) * noise"),
    (flow_matching, checks.check_flow_matching, "return noise - latents", "return latents - noise"),
    (flow_matching, checks.check_flow_matching, "return shift * time / (1 + (shift - 1) * time)", "return time / (shift - (shift - 1) * time)"),
    (flow_matching, checks.check_draw_times, ".sigmoid()", ".mul(2).sigmoid()"),
    (flow_matching, checks.check_draw_times, "(mean + std *", "(std *"),
    (flow_matching, checks.check_draw_times, "std * torch.randn", "torch.randn"),
    (flow_matching, checks.check_draw_times, "1 - uniform - scale *", "1 - uniform + scale *"),
    (flow_matching, checks.check_draw_times, "(torch.cos(math.pi * uniform / 2) ** 2", "(torch.cos(math.pi * uniform / 2)"),
    (flow_matching, checks.check_draw_times, "- 1 + uniform)", "- 1 + uniform**2)"),
    (flow_matching, checks.check_draw_times, 'if scheme == "mode"', 'if scheme == "cosmap"'),
    (flow_matching, checks.check_time_weights, "2 / (math.pi * (1 - 2 * time", "1 / (math.pi * (1 - 2 * time"),
    (flow_matching, checks.check_time_weights, "1 - 2 * time + 2 * time**2)", "1 - 2 * time + time**2)"),
    (flow_matching, checks.check_time_weights, ".clamp(min=FIRST) ** -2", " ** -2"),
    (flow_matching, checks.check_time_weights, "** -2\n", "** -1\n"),
    (flow_matching, checks.check_time_weights, "    return None", "    return torch.ones_like(time)"),
    (flow, checks.check_flow, ".clamp(max=1.0)", ""),
    (flow, checks.check_flow, "(time - following) / (1 - time)", "(time - following) / (1 - following)"),
    (flow, checks.check_flow, "(time * share).sqrt()", "share.sqrt()"),
    (flow, checks.check_flow, "sigma = eta * (", "sigma = ("),
    (flow, checks.check_flow, "sigma[-1] = 0.0", "pass"),
    (flow, checks.check_flow, "noise = latents + (1 - t) * prediction", "noise = latents + prediction"),
    (flow, checks.check_flow, "sigma**2 / (2 * t)", "sigma**2 / 2"),
    (flow, checks.check_flow, "(t_next - t) * prediction - sigma", "(t_next - t) * prediction + sigma"),
    (likeness, measure_checks.check_mean_cosine, "functional.normalize(features, dim=-1) @", "features @"),
    (likeness, measure_checks.check_mean_cosine, "functional.normalize(references, dim=-1).T", "references.T"),
    (likeness, measure_checks.check_mean_cosine, ".mean(dim=1)", ".amax(dim=1)"),
    (likeness, measure_checks.check_mean_cosine, ".mean(dim=1)", ".mean(dim=0)"),
    (intervals, measure_checks.check_interval, "(1 - LEVEL) / 2", "(1 - LEVEL)"),
    (intervals, measure_checks.check_interval, "values[int(draw() * n)] for _ in range(n)", "values[i] for i in range(n)"),
    (intervals, measure_checks.check_interval, "for _ in range(n)]) / n for", "for _ in range(n - n // 2)]) / (n - n // 2) for"),
    (intervals, measure_checks.check_interval, "percentile(means, 1 - tail)", "2 * math.fsum(values) / n - percentile(means, tail)"),
    (intervals, measure_checks.check_interval, "random.Random(seed)", "random.Random()"),
    (intervals, measure_checks.check_interval, "(place - below) *", "0 *"),
    (evaluation, measure_checks.check_mean_over_prompts, "setdefault(picture.prompt_index, [])", "setdefault(len(by_prompt), [])"),
    (collect, measure_checks.check_over_subjects, "[found.summary[model][metric].mean for found", "[found.summary[model][metric].mean * found.summary[model][metric].n / 2 for found"),
]  # fmt: skip


def mutated(module: ModuleType, original: str, replacement: str) -> ModuleType:
    """The module with one piece of its source replaced; the piece must occur exactly once."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(original) == 1, f"{original!r} occurs {source.count(original)} times in {module.__name__}"
    mutant = ModuleType(module.__name__)
    exec(compile(source.replace(original, replacement), f"<mutant of {module.__name__}>", "exec"), mutant.__dict__)
    return mutant


@pytest.mark.parametrize(("module", "check", "original", "replacement"), MUTANTS)
def test_mutant_is_killed(module: ModuleType, check: Check, original: str, replacement: str) -> None:
    mutant = mutated(module, original, replacement)
    with pytest.raises(AssertionError):
        check(mutant)


@pytest.mark.parametrize(("module", "check"), [(m, c) for m, c, _, _ in MUTANTS])
def test_the_original_survives_the_same_way(module: ModuleType, check: Check) -> None:
    check(mutated(module, "from __future__ import annotations\n", "from __future__ import annotations\n\n"))
