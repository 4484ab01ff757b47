"""m_n = d_n m_{n-1} + (1 - d_n) w_n with d_n = min(decay, n / (n + 9)): a moving average of weights.

Source: Polyak averaging with the warm-up of the decay that TensorFlow's ExponentialMovingAverage has,
(1 + n) / (10 + n), counted so that the first average is the first weights: what training started from has no part in
it. Deliberate deviation: the two factors of a LoRA are averaged, not their product.
"""

from __future__ import annotations


def warmed_decay(decay: float, updates: int) -> float:
    """d_n, in [0, decay]: `updates` averages were taken before this one."""
    return min(decay, updates / (updates + 9))
