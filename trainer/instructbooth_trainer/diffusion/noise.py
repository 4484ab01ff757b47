"""Random numbers that depend on what they are for and on nothing else: not on order, timing or world size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a key such as `(seed, "rollout", epoch, image)`.

    Equal keys give equal numbers in every process and after every restart, which makes a resumed run exact.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def batch_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise [len(generators), *shape], float32: row i comes from generators[i] alone."""
    noise = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])
    # From pinned memory a copy to a GPU waits for nothing: the next step is prepared while this one is computed.
    return noise.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else noise.to(device)
