"""Rewards and metrics: plug-ins found by name. `base.py` is the interface, each other file one reward."""

from instructbooth_trainer.rewards.base import Part, Reward, RewardContext, WeightedReward, load_reward, score

__all__ = ["Part", "Reward", "RewardContext", "WeightedReward", "load_reward", "score"]
