"""image-reward against BLIP written out in plain torch, whose state dict has the names of the published file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from instructbooth_trainer.rewards.image_reward import CHECKPOINT, CONFIG, create
from instructbooth_trainer.runtime.errors import UserError

PATCH, SIDE, VISION, TEXT = 8, 32, 128, 48  # two heads of 64 for pictures, three of 16 for texts
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "star", "red", "on", "mascot", "##s")
MED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": TEXT,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS) + 2,  # [DEC] and [ENC]
    "encoder_width": 768,
    "add_cross_attention": True,
}


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of [batch, length, width] in heads; mask [batch, keys] is 1 where to look."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if mask is not None:
        weights = weights + (1 - mask[:, None, None, :].float()) * -10000
    return (weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def module(**parts: nn.Module) -> Any:
    """A module that only holds others by name."""
    out = nn.Module()
    for name, part in parts.items():
        out.add_module(name, part)
    return out


def vision_block() -> Any:
    return module(
        norm1=nn.LayerNorm(VISION, eps=1e-6),
        attn=module(qkv=nn.Linear(VISION, 3 * VISION), proj=nn.Linear(VISION, VISION)),
        norm2=nn.LayerNorm(VISION, eps=1e-6),
        mlp=module(fc1=nn.Linear(VISION, 256), fc2=nn.Linear(256, VISION)),
    )


def attention(keys: int) -> Any:
    parts = {"query": nn.Linear(TEXT, TEXT), "key": nn.Linear(keys, TEXT), "value": nn.Linear(keys, TEXT)}
    return module(**{"self": module(**parts)}, output=output(TEXT))


def output(width: int) -> Any:
    return module(dense=nn.Linear(width, TEXT), LayerNorm=nn.LayerNorm(TEXT, eps=1e-12))


def text_layer() -> Any:
    return module(
        attention=attention(TEXT),
        crossattention=attention(VISION),
        intermediate=module(dense=nn.Linear(TEXT, 96)),
        output=output(96),
    )


class Original(nn.Module):
    """Named as the published file is, with what it holds beside."""

    blip: Any
    mlp: Any

    def __init__(self) -> None:
        super().__init__()
        vision = module(
            patch_embed=module(proj=nn.Conv2d(3, VISION, PATCH, PATCH)),
            blocks=nn.ModuleList([vision_block() for _ in range(2)]),
            norm=nn.LayerNorm(VISION, eps=1e-6),
        )
        vision.cls_token = nn.Parameter(torch.randn(1, 1, VISION))
        vision.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, VISION))
        embeddings = module(
            word_embeddings=nn.Embedding(len(WORDS) + 2, TEXT),
            position_embeddings=nn.Embedding(40, TEXT),
            LayerNorm=nn.LayerNorm(TEXT, eps=1e-12),
        )
        embeddings.register_buffer("position_ids", torch.arange(40).expand(1, -1))
        text = module(embeddings=embeddings, encoder=module(layer=nn.ModuleList([text_layer() for _ in range(2)])))
        self.blip = module(
            visual_encoder=vision,
            text_encoder=text,
            vision_proj=nn.Linear(VISION, 8),
            text_proj=nn.Linear(TEXT, 8),
        )
        drop = nn.Dropout(0.2)
        layers = (nn.Linear(TEXT, 1024), drop, nn.Linear(1024, 128), drop, nn.Linear(128, 64), drop)
        self.mlp = module(layers=nn.Sequential(*layers, nn.Linear(64, 16), nn.Linear(16, 1)))

    def see(self, pixels: Tensor) -> Tensor:
        """The picture's tokens."""
        vision: Any = self.blip.visual_encoder
        x = vision.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([vision.cls_token.expand(len(x), -1, -1), x], dim=1) + vision.pos_embed
        for block in vision.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=2)
            x = x + block.attn.proj(attend(q, k, v, heads=2))
            x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
        out: Tensor = vision.norm(x)
        return out

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The reward, [batch]."""
        seen = self.see(pixels)
        text: Any = self.blip.text_encoder
        embeddings = text.embeddings
        x = embeddings.LayerNorm(
            embeddings.word_embeddings(ids) + embeddings.position_embeddings.weight[: ids.shape[1]]
        )
        for layer in text.encoder.layer:
            for part, other, where in ((layer.attention, None, mask), (layer.crossattention, seen, None)):
                keys = x if other is None else other
                own = part.self
                got = attend(own.query(x), own.key(keys), own.value(keys), 3, where)
                x = part.output.LayerNorm(part.output.dense(got) + x)
            wide = functional.gelu(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(wide) + x)
        head: Any = self.mlp.layers
        out: Tensor = (head(x[:, 0]).squeeze(1) - 0.16717362830052426) / 1.0333394966054072
        return out


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Original]:
    """A folder as a user puts it together, and the model that was saved into it."""
    folder = tmp_path_factory.mktemp("image-reward")
    torch.manual_seed(0)
    model = Original().eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    write(folder, model.state_dict())
    return folder, model


def write(folder: Path, tensors: dict[str, Tensor], med: dict[str, object] | None = None) -> None:
    torch.save(tensors, folder / CHECKPOINT)
    (folder / CONFIG).write_text(json.dumps(MED if med is None else med))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


@torch.no_grad()
def test_it_is_the_originals_score(original: tuple[Path, Original]) -> None:
    folder, model = original
    torch.manual_seed(1)
    images = torch.rand(2, 3, SIDE, SIDE)
    # [CLS] = 2 and not [ENC] comes first, [SEP] = 3 ends; words are lower-cased and cut: "Stars" is star ##s.
    texts = {"a RED star": [2, 5, 7, 6, 3], "mascot on Stars": [2, 9, 8, 6, 10, 3]}
    ids = torch.tensor([row + [0] * (35 - len(row)) for row in texts.values()])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    expected = model((images - mean) / std, ids, (ids > 0).int())
    scores = create({"model_folder": str(folder)})(images, list(texts))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert abs(float(scores[0] - scores[1])) > 1e-3


def test_pictures_are_resized_and_cropped_as_clips(original: tuple[Path, Original]) -> None:
    reward = create({"model_folder": str(original[0])})
    wide = torch.rand(1, 3, SIDE, 2 * SIDE)
    middle = wide[..., SIDE // 2 : SIDE // 2 + SIDE]
    assert torch.equal(reward(wide, ["a star"]), reward(middle, ["a star"]))
    flat = torch.full((1, 3, 2 * SIDE, 2 * SIDE), 0.3)
    torch.testing.assert_close(reward(flat, ["a star"]), reward(flat[..., :SIDE, :SIDE], ["a star"]))


def test_it_reads_35_tokens_and_drops_none_unasked(original: tuple[Path, Original]) -> None:
    given, images = {"model_folder": str(original[0])}, torch.rand(1, 3, SIDE, SIDE)
    create(given)(images, ["a " * 33])
    with pytest.raises(UserError, match=r"PromptTooLong.*36 tokens.*image-reward.* 35"):
        create(given)(images, ["a " * 34])
    cut = create({**given, "longPrompts": "truncate"})
    assert torch.equal(cut(images, ["a " * 34]), cut(images, ["a " * 33]))


def test_half_precision_is_near(original: tuple[Path, Original]) -> None:
    given, images = {"model_folder": str(original[0])}, torch.rand(2, 3, SIDE, SIDE)
    exact, half = (create({**given, "dtype": dtype})(images, ["a star", "a mascot"]) for dtype in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)


def test_what_does_not_fit_is_named(original: tuple[Path, Original], tmp_path: Path) -> None:
    whole = original[1].state_dict()

    def attempt(tensors: dict[str, Tensor], med: dict[str, object] | None = None) -> None:
        write(tmp_path, tensors, med)
        create({"model_folder": str(tmp_path)})

    without = [key for key in whole if "_proj." not in key and "position_ids" not in key]
    attempt({key: whole[key] for key in without})  # what the score does not need may be left out
    for lacking, told in (
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias", r"text\..*crossattention\.self\.key\.bias"),
        ("blip.visual_encoder.blocks.1.attn.qkv.weight", r"vision\.encoder\.layers\.1\.self_attn\.qkv\.weight"),
        ("mlp.layers.7.bias", r"head\.7\.bias"),
    ):
        with pytest.raises(ValueError, match=rf"ImageReward\.pt does not fit: {told} is missing"):
            attempt({key: whole[key] for key in whole if key != lacking})
    for surplus in ("blip.visual_encoder.head.weight", "blip.itm_head.weight", "mlp.layers.9.bias"):
        with pytest.raises(ValueError, match=rf"{surplus.rpartition('.')[2]} belongs nowhere"):
            attempt({**whole, surplus: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"med_config\.json has no hidden_size"):
        attempt(whole, {key: value for key, value in MED.items() if key != "hidden_size"})
    with pytest.raises(ValueError, match=r"is \(48, 48\), not \(96, 48\)|is \(96, 48\), not \(48, 48\)"):
        attempt(whole, {**MED, "intermediate_size": 48})
    (tmp_path / CONFIG).unlink()
    with pytest.raises(ValueError, match="holds no med_config"):
        create({"model_folder": str(tmp_path)})
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer: there is no tokenizer\.json and no vocab\.txt"):
        create({"model_folder": str(tmp_path)})
