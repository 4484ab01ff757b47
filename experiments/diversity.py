"""How much pictures of one prompt differ: the mean distance of all pairs, 1 - cosine of two embeddings.

Source: DreamBooth's DIV (arXiv 2208.12242, section 4.2), the mean pairwise LPIPS of pictures of one subject and prompt;
here with the embeddings of the encoder that measures likeness. That encoder looks at who is drawn and past where: a
subject that is the same in all pictures is close to 0, and so is a policy that draws one picture only.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ResNetModel

from experiments.cells import WEIGHTS
from instructbooth_miniature.fidelity import embed
from instructbooth_trainer.report.evaluation import Evaluation

DIVERSITY = "diversity"


def mean_distances(embeddings: Tensor) -> list[float]:
    """Of each of [n, width] unit embeddings the mean distance to the n - 1 others; their mean is that of all pairs.

    Raises ValueError for fewer than two.
    """
    n = len(embeddings)
    if n < 2:
        raise ValueError("one picture has no distance: draw at least two of each prompt")
    distances = 1 - embeddings.double() @ embeddings.double().T
    distances.fill_diagonal_(0)
    return [float(value) for value in distances.sum(dim=1) / (n - 1)]


def encoder() -> ResNetModel:
    """The miniature world's fidelity encoder, in float32."""
    return ResNetModel.from_pretrained(str(WEIGHTS / "fidelity"), use_safetensors=True).float().eval()


@torch.no_grad()
def with_diversity(evaluation: Evaluation, folder: Path, model: ResNetModel) -> Evaluation:
    """The evaluation with one score more for each picture. `folder` holds its pictures. Raises ValueError."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, picture in enumerate(evaluation.pictures):
        groups[picture.model, picture.prompt_index].append(number)
    pictures = list(evaluation.pictures)
    for numbers in groups.values():
        pixels = np.stack([np.asarray(Image.open(folder / pictures[n].file).convert("RGB")) for n in numbers])
        for number, value in zip(numbers, mean_distances(embed(model, pixels)), strict=True):
            scores = {**pictures[number].scores, DIVERSITY: value}
            pictures[number] = pictures[number].model_copy(update={"scores": scores})
    return evaluation.model_copy(update={"pictures": pictures})
