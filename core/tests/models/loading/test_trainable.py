"""A trainable copy leaves its original alone, and what it writes is the model that it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from clipsec.errors import NotApplicableError, UnsupportedModelError
from clipsec.models import (
    ClipModel,
    TrainableClip,
    clip_from_open_clip,
    clip_from_transformers,
    embed_ids,
    encode_texts,
    end_positions,
    insert_tokens,
    load_suspect,
    pool_hidden_states,
    prepare_embedding_tower,
)

TEXTS = ["a photo of a cat.", "two dogs"]


@pytest.fixture(
    params=["open_clip", "open_clip quickgelu", "open_clip custom", "open_clip timm", "transformers"]
)
def loaded(request: pytest.FixtureRequest, tmp_path: Path, config_with: Any, deliver: Any) -> ClipModel:
    """A tiny model of each kind, from its folder."""
    import open_clip
    from open_clip.model import CustomTextCLIP

    torch.manual_seed(0)
    if request.param == "transformers":
        config = CLIPConfig(
            text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                         "num_attention_heads": 2, "max_position_embeddings": 24, "vocab_size": 49408},
            vision_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
            projection_dim=24,
        )  # fmt: skip
        CLIPModel(config).save_pretrained(tmp_path / "hf")
        return load_suspect(str(tmp_path / "hf")).base
    config = config_with(quick_gelu="quickgelu" in request.param)
    if "timm" in request.param:
        config["vision_cfg"] = {
            "image_size": 32,
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_pool": "avg",
        }
    kind = open_clip.CLIP
    if "custom" in request.param:
        kind, config = CustomTextCLIP, {**config, "custom_text": True, "init_logit_bias": -3.0}
    built = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    return load_suspect(str(deliver(config=config, tensors=built.state_dict()))).base


def test_written_untrained_it_is_the_same_model(loaded: ClipModel, tmp_path: Path) -> None:
    """The digest covers every weight and what weights do not show."""
    again = load_suspect(str(TrainableClip.copy_of(loaded).save(tmp_path / "again"))).base
    assert again.digest == loaded.digest


def test_trained_weights_are_written_and_the_original_is_untouched(loaded: ClipModel, tmp_path: Path) -> None:
    """Each tower's features change by training, and the delivery has them."""
    copied = TrainableClip.copy_of(loaded)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    before, seen = encode_texts(loaded, TEXTS), copied.image_features(pixels)
    images, texts = copied.image_parameters(), copied.text_parameters()
    assert not any("logit" in name for name in [*images, *texts])
    assert not set(images) & set(texts)
    assert not {id(weight) for weight in images.values()} & {id(weight) for weight in texts.values()}
    for weight in (*images.values(), *texts.values()):
        weight.requires_grad_(True)
    (copied.encode_images(pixels / 255).sum() + copied.encode_texts(TEXTS).sum()).backward()
    for weight in (*images.values(), *texts.values()):
        assert weight.grad is not None
        weight.requires_grad_(False).mul_(0.98)
    again = load_suspect(str(copied.save(tmp_path / "again")))
    torch.testing.assert_close(
        encode_texts(again.base, TEXTS), copied.encode_texts(TEXTS), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        again.image_tower().fn(pixels / 255), copied.image_features(pixels), atol=1e-4, rtol=1e-3
    )
    assert torch.equal(encode_texts(loaded, TEXTS), before)
    assert not torch.allclose(copied.image_features(pixels), seen)
    assert again.base.logit_scale == pytest.approx(loaded.logit_scale)


def test_tokens_give_what_texts_give(loaded: ClipModel) -> None:
    """Features are those of the texts, and hidden states lead to them."""
    copied = TrainableClip.copy_of(loaded)
    assert loaded.text is not None
    ids = loaded.text.tokenizer(TEXTS)
    hidden, features = copied.encode_tokens(ids)
    torch.testing.assert_close(features, encode_texts(loaded, TEXTS), atol=1e-4, rtol=1e-4)
    read = pool_hidden_states(loaded, hidden, end_positions(loaded, ids))
    torch.testing.assert_close(read, features, atol=1e-4, rtol=1e-4)


def test_vectors_stand_where_they_are_put(loaded: ClipModel) -> None:
    """As in the prepared tower that runs from embeddings: the vector itself, without a position."""
    copied = TrainableClip.copy_of(loaded)
    assert loaded.text is not None
    ids, origin = insert_tokens(
        loaded.text.tokenizer(TEXTS), torch.tensor([7, 7]), torch.tensor([1, 2], dtype=torch.int64)
    )
    put = torch.randn(4, loaded.text.width, generator=torch.Generator().manual_seed(0))
    hidden, _ = copied.encode_tokens(ids, vectors=put, at=origin < 0)
    rows = embed_ids(loaded, ids)
    rows[origin < 0] = put
    expected = prepare_embedding_tower(loaded, torch.float32, "cpu").fn(rows)
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(hidden, copied.encode_tokens(ids)[0], atol=1e-3), "and nothing stays behind"


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_a_text_tower_alone_is_copied_and_written(kind: Any, tmp_path: Path) -> None:
    """As image generators carry it; asked for both towers, it is refused."""
    config = CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "max_position_embeddings": 24, "vocab_size": 49408},
    )  # fmt: skip
    torch.manual_seed(0)
    clip = clip_from_transformers(kind(config.text_config), name="half")
    copied = TrainableClip.copy_of(clip, both=False)
    with torch.no_grad():
        for weight in copied.text_parameters().values():
            weight.mul_(0.98)
    again = load_suspect(str(copied.save(tmp_path / "half"))).base
    torch.testing.assert_close(encode_texts(again, TEXTS), copied.encode_texts(TEXTS), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(encode_texts(again, TEXTS), encode_texts(clip, TEXTS), atol=1e-3)
    with pytest.raises(NotApplicableError, match="no image tower"):
        TrainableClip.copy_of(clip)


@given(st.integers(1, 4), st.integers(0, 8), st.integers(0, 99))
def test_inserted_tokens_move_the_rest(k: int, at: int, seed: int) -> None:
    """What was there stays in order around them, as far as the row reaches."""
    ids = torch.randint(10, 99, (1, 9), generator=torch.Generator().manual_seed(seed))
    put = torch.arange(k)
    found, origin = insert_tokens(ids, put, torch.tensor([at]))
    row = ids[0].tolist()
    assert found[0].tolist() == [*row[:at], *put.tolist(), *row[at:]][:9]
    assert [row[place] if place >= 0 else None for place in origin[0].tolist()] == (
        [*row[:at], *[None] * k, *row[at:]][:9]
    )


def test_a_delivered_tokenizer_comes_along(
    tmp_path: Path, deliver: Callable[..., Path], config_with: Any
) -> None:
    """The files with their bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "[EOS]": 2, "cat": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = deliver(config=config_with(text_cfg__hf_tokenizer_name="own/words"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    ).save_pretrained(folder)
    first = load_suspect(str(folder)).base
    again = TrainableClip.copy_of(first).save(tmp_path / "again")
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert load_suspect(str(again)).base.digest == first.digest


def test_what_cannot_be_written_is_refused(model: Any, base: Path, tmp_path: Path) -> None:
    """A model without a description; half a CLIP."""
    clip = clip_from_open_clip(model, name="in memory")
    with pytest.raises(UnsupportedModelError, match="how it was built"):
        TrainableClip.copy_of(clip).save(tmp_path / "out")
    half = load_suspect(str(base)).base
    with pytest.raises(NotApplicableError, match="no image tower"):
        TrainableClip.copy_of(attrs.evolve(half, visual=None))
