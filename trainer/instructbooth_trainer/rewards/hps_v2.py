"""hps-v2: Human Preference Score v2.1, the cosine of an open_clip ViT-H-14 trained on people's choices, times 1.

Source: arXiv 2306.09341, section 4. The model's folder holds the file that is published, HPS_v2.1_compressed.pt, and
the tokenizer's files of any CLIP (vocab.json and merges.txt, as in laion/CLIP-ViT-H-14-laion2B-s32B-b79K).

Like the original it fits the whole picture into the square, with black beside what is not square, and does not cut
what bicubic resampling throws over. It shrinks with antialiasing, as torchvision does with tensors since 0.17.

Parameters: `longPrompts`, see clip.py. The original truncates.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from instructbooth_trainer.rewards.clip import ClipCosine, load_tokenizer
from instructbooth_trainer.rewards.open_clip import load_open_clip
from instructbooth_trainer.rewards.params import check_known, model_folder
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.published import read_checkpoint

CHECKPOINT = "HPS_v2.1_compressed.pt"
TEXT_HEAD, VISION_HEAD = 64, 80  # ViT-H-14's widths of a head


def create(params: Mapping[str, object]) -> ClipCosine:
    """The plug-in's factory. Raises ValueError for bad parameters, without a model or when its file does not fit."""
    check_known(params, "longPrompts")
    folder = model_folder(params)
    tokenizer = load_tokenizer(folder)
    model = load_open_clip(
        read_checkpoint(folder / CHECKPOINT, "state_dict"),
        CHECKPOINT,
        text_head_width=TEXT_HEAD,
        vision_head_width=VISION_HEAD,
        eos_token_id=int(tokenizer.eos_token_id),
    )
    if len(tokenizer) != model.config.text_config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, {CHECKPOINT} {model.config.text_config.vocab_size}: "
            "it is another model's"
        )
    size = int(model.config.vision_config.image_size)
    normalize = Preprocess.of_clip()
    return ClipCosine("hps-v2", model, tokenizer, lambda images: normalize(letterbox(images, size)), params)


def letterbox(images: Tensor, size: int) -> Tensor:
    """[batch, 3, height, width] in [0, 1] -> [batch, 3, size, size]: the longest edge fits, black fills the rest."""
    height, width = images.shape[-2:]
    longest = max(height, width)
    if longest != size:
        to = (round(height * size / longest), round(width * size / longest))
        images = functional.interpolate(images.float(), size=to, mode="bicubic", antialias=True, align_corners=False)
    below, beside = size - images.shape[-2], size - images.shape[-1]
    return functional.pad(images, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
