"""Losses that pull matching embeddings together and push others apart; pure functions of embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional


def supervised_contrastive(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """SupCon (arXiv 2004.11362, equation 2): mean over anchors of -log of the share of their positives.

    embeddings: [batch, dimensions], any length; labels: int64 [batch], equal for the same identity. Each label must
    come up at least twice. Returns a scalar.
    """
    unit = functional.normalize(embeddings.float(), dim=-1)
    logits = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool)
    logits = logits.masked_fill(itself, float("-inf"))
    positive = (labels[:, None] == labels[None, :]) & ~itself
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    return -(log_share.masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)).mean()


def image_text_contrastive(
    images: torch.Tensor, texts: torch.Tensor, wrong_texts: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric loss (arXiv 2103.00020, figure 3), with hard negatives in the image-to-text half.

    images, texts: unit vectors [batch, dimensions], pairs by row. wrong_texts: [wrong, dimensions], captions that are
    false of the image in row `i % batch`. scale: the inverse temperature. Returns a scalar.
    """
    target = torch.arange(len(images))
    to_texts = scale * images @ torch.cat([texts, wrong_texts]).T
    to_images = scale * texts @ images.T
    return (functional.cross_entropy(to_texts, target) + functional.cross_entropy(to_images, target)) / 2
