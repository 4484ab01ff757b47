"""D = mean over prompts of the mean over pairs of its pictures of sqrt(mean((f_i - f_j)^2)).

f are the pixels of a thumbnail. Copy collapse (every noise leads to the same picture) brings D down to 0, whatever the
reward says. The measure needs no further model: thumbnails of 16 x 16 pixels hold where things are and in which
colours, not their texture, and are small enough to travel between ranks where pictures are not. What is copied in
style alone it does not see.

Source: the mean pairwise distance within a prompt that DreamBooth, arXiv 2208.12242, section 4.3, calls DIV and
measures by LPIPS. Deliberate deviation: pixels of thumbnails instead of a network's features, so that only values of
one run compare; the guard compares with the personalized policy's in the same run.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 16  # pixels of a thumbnail


def thumbnails(images: Tensor) -> Tensor:
    """Pictures [batch, 3, height, width] as rows of their thumbnails' pixels, [batch, 3 * SIDE * SIDE], float32."""
    return functional.adaptive_avg_pool2d(images.float(), SIDE).flatten(1)


def group_diversity(features: Tensor, groups: Tensor) -> float:
    """Mean distance within a group.

    Args:
        features: of all ranks' pictures, [num_images, dimensions].
        groups: number of the prompt each picture was drawn for, [num_images], integers; two pictures or more of each.
    """
    numbers: Tensor = torch.unique(groups)
    means = [
        functional.pdist(features[groups == number].double()).mean() / features.shape[1] ** 0.5 for number in numbers
    ]
    return float(torch.stack(means).mean())
