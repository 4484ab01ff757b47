"""hps-v2 against an open_clip written out in plain torch, whose state dict has the names of the published file."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instructbooth_trainer.rewards.hps_v2 import CHECKPOINT, create, letterbox
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.tiny import TOKENS, make_tokenizer

PATCH, SIDE, TEXT, VISION, PROJECTION = 8, 32, 128, 160, 16  # two heads of 64, two of 80
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Block(nn.Module):
    """A residual attention block with GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """Two blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, 2) for _ in range(2)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    """The vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(VISION))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, VISION))
        self.proj = nn.Parameter(torch.randn(VISION, PROJECTION))
        self.conv1 = nn.Conv2d(3, VISION, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(VISION), nn.LayerNorm(VISION)
        self.transformer = Transformer(VISION)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class OpenClip(nn.Module):
    """The whole of it."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(TEXT)
        self.token_embedding = nn.Embedding(vocabulary, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, TEXT))
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, PROJECTION))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))

    def encode_text(self, ids: Tensor) -> Tensor:
        """ids: [batch, TOKENS], zeros behind the end."""
        mask = torch.full((TOKENS, TOKENS), -math.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, mask))
        end = (ids == END).int().argmax(dim=-1)
        out: Tensor = x[torch.arange(len(ids)), end] @ self.text_projection
        return out


END = 1  # the tiny tokenizer's <|endoftext|>


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OpenClip, Any]:
    """A folder as a user puts it together, the model that was saved into it, and its tokenizer."""
    folder = tmp_path_factory.mktemp("hps")
    tokenizer = make_tokenizer(folder)
    assert tokenizer.eos_token_id == END
    torch.manual_seed(0)
    model = OpenClip(len(tokenizer)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are made as zeros, norms as ones: such could stand in each other's place
            parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save({"epoch": 3, "name": "published", "state_dict": model.state_dict()}, folder / CHECKPOINT)
    return folder, model, tokenizer


@torch.no_grad()
def test_it_is_open_clips_cosine(reference: tuple[Path, OpenClip, Any]) -> None:
    folder, model, tokenizer = reference
    torch.manual_seed(1)
    images, prompts = torch.rand(3, 3, SIDE, SIDE), ["a small star on red", "a mascot", "a photo of the blue mascot"]
    rows = [tokenizer(prompt).input_ids for prompt in prompts]
    ids = torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows])
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    pictures, texts = model.visual((images - mean) / std), model.encode_text(ids)
    expected = nn.functional.cosine_similarity(pictures, texts)
    scores = create({"model_folder": str(folder)})(images, prompts)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert float(scores.std()) > 1e-3


def test_a_file_that_does_not_fit_is_told_by_key(reference: tuple[Path, OpenClip, Any], tmp_path: Path) -> None:
    _, model, _ = reference
    make_tokenizer(tmp_path)

    def attempt(content: object) -> None:
        torch.save(content, tmp_path / CHECKPOINT)
        create({"model_folder": str(tmp_path)})

    whole = model.state_dict()
    lacking = {
        key: tensor for key, tensor in whole.items() if key != "visual.transformer.resblocks.1.attn.in_proj_bias"
    }
    with pytest.raises(ValueError, match=r"HPS_v2\.1.*vision_model.encoder.layers.1.self_attn.q_proj.bias is missing"):
        attempt({"state_dict": lacking})
    with pytest.raises(ValueError, match=r"token_embedding\.weight is missing"):
        attempt({"state_dict": {key: tensor for key, tensor in whole.items() if key != "token_embedding.weight"}})
    with pytest.raises(ValueError, match=r"visual\.head\.weight belongs nowhere"):
        attempt({"state_dict": {**whole, "visual.head.weight": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"text_model\.final_layer_norm\.bias is \(3,\), not \(128,\)"):
        attempt({"state_dict": {**whole, "ln_final.bias": torch.zeros(3)}})
    with pytest.raises(ValueError, match="no entry 'state_dict'"):
        attempt(dict(whole))
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="holds no HPS_v2"):
        create({"model_folder": str(tmp_path)})
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer: there is no tokenizer\.json and no vocab\.json"):
        create({"model_folder": str(tmp_path)})


def test_another_models_tokenizer_is_refused(reference: tuple[Path, OpenClip, Any], tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    torch.manual_seed(0)
    torch.save({"state_dict": OpenClip(vocabulary=3).state_dict()}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, HPS_v2.1_compressed.pt 3: it is another"):
        create({"model_folder": str(tmp_path)})


class Innocent:
    """Stands for whatever a pickle may make."""


def test_a_pickle_that_would_make_objects_is_not_opened(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    torch.save({"state_dict": Innocent()}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="no whole checkpoint of tensors alone"):
        create({"model_folder": str(tmp_path)})


def test_words_are_not_dropped_unasked(reference: tuple[Path, OpenClip, Any]) -> None:
    folder, _, _ = reference
    images = torch.rand(1, 3, SIDE, SIDE)
    with pytest.raises(UserError, match=r"PromptTooLong.*hps-v2"):
        create({"model_folder": str(folder)})(images, ["a " * 40])
    scores = create({"model_folder": str(folder), "longPrompts": "truncate"})(images, ["a " * 40, "a " * 14])
    assert torch.equal(scores[0], scores[1])  # 16 tokens: 14 words between begin and end


def test_letterbox_shows_the_whole_picture_on_black() -> None:
    boxed = letterbox(torch.ones(1, 3, 16, 64), 32)  # 64 wide becomes 32, 16 high becomes 8: 12 rows of black each side
    assert boxed.shape == (1, 3, 32, 32)
    assert boxed[0, :, :12].abs().max() == 0
    assert boxed[0, :, 20:].abs().max() == 0
    assert boxed[0, :, 12:20].min() == pytest.approx(1.0)
    assert torch.equal(letterbox(boxed, 32), boxed)
