"""image-reward: ImageReward v1.0, a BLIP whose text attends to the picture, with a head trained on people's rankings.

Source: arXiv 2304.05977, section 3. Score: (head(first token) - 0.16717) / 1.03334, which has mean 0 and standard
deviation 1 over the authors' pictures. The model's folder holds the files published as THUDM/ImageReward,
ImageReward.pt and med_config.json, and the tokenizer of bert-base-uncased (vocab.txt).

Like the original it begins the text with [CLS] and not with BLIP's [ENC], and pads it to 35 tokens.

Parameters: `longPrompts`, what to do with a text of more than 35 tokens: `error` (default) or `truncate`, as the
original does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer

from instructbooth_trainer.rewards.blip import load_image_reward
from instructbooth_trainer.rewards.params import check_known, device_and_dtype, model_folder, truncates
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.pretrained import architecture
from instructbooth_trainer.rewards.published import read_checkpoint
from instructbooth_trainer.rewards.texts import check_tokenizer, tokenize

CHECKPOINT, CONFIG = "ImageReward.pt", "med_config.json"
TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072


class ImageReward:
    """How well a picture follows its text and pleases, as people ranked it; differentiable with respect to pictures.

    Attributes:
        backbone: what it is measured by, for people.
    """

    def __init__(self, folder: Path, params: Mapping[str, object]) -> None:
        """Load checkpoint, configuration and tokenizer. Raises ValueError or OSError when one is missing or unfit."""
        self._truncate = truncates(params)
        self._device, self._dtype = device_and_dtype(params)
        check_tokenizer(folder, "tokenizer.json", "vocab.txt")
        self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        model = load_image_reward(read_checkpoint(folder / CHECKPOINT), folder / CONFIG, CHECKPOINT)
        self._preprocess = Preprocess.of_clip(int(model.vision.config.image_size))
        self.backbone = architecture(model.vision.config, "BLIP")
        self._model = model.requires_grad_(False).eval().to(self._device, self._dtype)
        self._model.head.float()  # five products in a row lose too much in half precision

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [batch], float32. images: [batch, 3, height, width] in [0, 1]; one prompt each."""
        texts = [
            tokenize(self._tokenizer, prompt, TOKENS, "image-reward", truncate=self._truncate, padding="max_length")
            for prompt in prompts
        ]
        ids, mask = (torch.cat([text[key] for text in texts]) for key in ("input_ids", "attention_mask"))
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        out: Tensor = self._model(pixels, ids.to(self._device), mask.to(self._device))
        return (out - MEAN) / STD


def create(params: Mapping[str, object]) -> ImageReward:
    """The plug-in's factory. Raises ValueError for bad parameters, without a model or when its files do not fit."""
    check_known(params, "longPrompts")
    return ImageReward(model_folder(params), params)
