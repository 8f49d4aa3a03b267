"""Loading transformers folders: what comes out is what save_pretrained wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from clipsec.errors import MalformedModelError, ModelError, UnsupportedModelError
from clipsec.models import clip_from_transformers, is_causal, load_suspect
from clipsec.models._text_tower import stock_features

TEXT = {
    "vocab_size": 49408,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "projection_dim": 24,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 24,
}
SMALL_TEXT = {**TEXT, "vocab_size": 300, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def make(name: str, text: dict[str, Any] = TEXT) -> nn.Module:
    torch.manual_seed(0)
    if name == "CLIPModel":
        config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    elif name == "SiglipModel":
        siglip = {key: value for key, value in text.items() if key != "projection_dim"}
        config = transformers.SiglipConfig(text_config=siglip, vision_config=VISION)
    elif "Text" in name:
        kind = transformers.SiglipTextConfig if "Siglip" in name else transformers.CLIPTextConfig
        config = kind(**text)
    else:
        config = transformers.CLIPVisionConfig(**VISION)
    module: Any = getattr(transformers, name)(config).eval().requires_grad_(False)
    if name == "SiglipModel":
        module.logit_bias.fill_(-10.0)
    return module  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(before)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """`saved("CLIPModel")`: a folder of save_pretrained, and the module."""

    def save(name: str, **kwargs: Any) -> tuple[Path, Any]:
        text = kwargs.pop("text", TEXT)
        module: Any = make(name, text)
        module.save_pretrained(tmp_path / name, **kwargs)
        return tmp_path / name, module

    return save


@pytest.mark.parametrize("name", ["CLIPModel", "CLIPVisionModelWithProjection", "SiglipModel"])
def test_image_features_are_bit_equal(saved: Any, name: str) -> None:
    """A loaded image tower computes what the saved one did."""
    folder, module = saved(name)
    visual = load_suspect(folder).base.visual
    assert visual is not None
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def features(model: Any) -> torch.Tensor:
        with torch.no_grad():
            if name.startswith("CLIPVision"):
                return model(pixels).image_embeds  # type: ignore[no-any-return]
            return model.get_image_features(pixels).pooler_output  # type: ignore[no-any-return]

    assert torch.equal(features(visual.module), features(module))
    assert visual.embed_dim == features(module).shape[1]
    assert load_suspect(folder).kind == ("image tower" if name.startswith("CLIPVision") else "clip")
    assert visual.spec.resize_mode == ("squash" if name == "SiglipModel" else "shortest")


@pytest.mark.parametrize("name", ["CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection"])
def test_text_features_are_bit_equal(saved: Any, name: str) -> None:
    """A loaded text tower computes what the saved one did, on the ids of CLIP's own tokenizer."""
    folder, module = saved(name)
    suspect = load_suspect(folder)
    text = suspect.base.text
    assert text is not None
    ids = text.tokenizer(["a cat", "a red dog"])
    with torch.no_grad():
        expected = stock_features(module, ids)
        assert torch.equal(stock_features(text.module, ids), expected)
    assert text.embed_dim == expected.shape[1]
    assert (text.context_length, text.width) == (24, 16)
    assert suspect.kind == ("clip" if name == "CLIPModel" else "text tower")
    assert suspect.base.activation == "quick_gelu"


@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded", "sharded bin"])
def test_every_form_has_the_same_digest(saved: Any, tmp_path: Path, form: str) -> None:
    """One file or many, safetensors or torch.save: the same model."""
    folder, module = saved("CLIPModel", **({"max_shard_size": "1MB"} if form == "sharded" else {}))
    if "bin" in form:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        if form == "bin":
            torch.save(tensors, folder / "pytorch_model.bin")
        else:
            names = sorted(tensors)
            parts = {"a.bin": names[::2], "b.bin": names[1::2]}
            for file, part in parts.items():
                torch.save({name: tensors[name] for name in part}, folder / file)
            table = {name: file for file, part in parts.items() for name in part}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    suspect = load_suspect(folder)
    in_memory = clip_from_transformers(module, name="memory")
    assert suspect.base.digest == in_memory.digest
    assert len(suspect.files) == {"sharded": 2, "sharded bin": 2}.get(form, 1)


@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_spellings_of_other_versions(saved: Any, name: str) -> None:
    """position_ids that older versions saved are dropped; the text_model prefix is added or taken away."""
    folder, _ = saved(name)
    expected = load_suspect(folder).base.digest
    path = folder / "model.safetensors"
    tensors = load_file(path)
    prefix = "text_model."
    if name == "CLIPTextModel":
        bare = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        with_prefix = {prefix + key: tensor for key, tensor in bare.items()}
        for spelling in (bare, with_prefix):
            save_file(spelling, path)
            assert load_suspect(folder).base.digest == expected
        tensors = with_prefix
    ids = {f"{prefix}embeddings.position_ids": torch.arange(24)[None]}
    save_file(tensors | ids, path)
    assert load_suspect(folder).base.digest == expected


def test_only_the_architecture_is_taken_from_the_configuration(saved: Any) -> None:
    """Keys that would fetch and run something never reach transformers: an attention kernel from a
    repository."""
    folder, _ = saved("CLIPModel")
    expected = load_suspect(folder).base.digest
    config = json.loads((folder / "config.json").read_text())
    for section in (config, config["text_config"], config["vision_config"]):
        section["attn_implementation"] = section["_attn_implementation"] = "somebody/a-kernel"
        section["torchscript"] = True
        section["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config))
    suspect = load_suspect(folder)
    assert suspect.base.digest == expected
    assert suspect.base.text.module.config._attn_implementation != "somebody/a-kernel"  # type: ignore[union-attr]


def test_the_older_spelling_of_sections_counts(saved: Any) -> None:
    """text_config_dict overrides text_config, as in transformers."""
    folder, _ = saved("CLIPModel")
    config = json.loads((folder / "config.json").read_text())
    config["text_config_dict"] = {"hidden_act": "gelu"}
    config["vision_config_dict"] = {"hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_suspect(folder).base.activation == "gelu"


def test_the_activation_decides_the_digest(saved: Any) -> None:
    """The same weights with gelu instead of quick_gelu are another model."""
    folder, _ = saved("CLIPModel")
    before = load_suspect(folder).base
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = config["vision_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    after = load_suspect(folder).base
    assert (before.activation, after.activation) == ("quick_gelu", "gelu")
    assert before.digest != after.digest
    assert before.text.digest != after.text.digest  # type: ignore[union-attr]
    assert before.visual.digest != after.visual.digest  # type: ignore[union-attr]


def test_siglip_needs_its_tokenizer_for_texts(saved: Any, write_tokenizer: Callable[[Path], None]) -> None:
    """Without tokenizer files SigLIP loads as an image tower, and says so; with them it has both."""
    folder, _ = saved("SiglipModel", text=SMALL_TEXT)
    without = load_suspect(folder)
    assert without.base.text is None
    assert "tokenizer is not in the delivery" in without.card.notes[0]
    write_tokenizer(folder)
    suspect = load_suspect(folder)
    assert suspect.base.text is not None
    ids = suspect.base.text.tokenizer(["a photo of a cat."])
    assert ids.shape == (1, 24)
    assert torch.isfinite(stock_features(suspect.base.text.module, ids)).all()
    assert suspect.base.logit_bias == -10.0
    assert set(suspect.files) > {"model.safetensors", "tokenizer.json"}


def test_a_text_tower_without_a_tokenizer_is_refused(saved: Any, write_tokenizer: Any) -> None:
    """A text tower that no text can be given to is of no use; with its tokenizer it loads."""
    folder, _ = saved("CLIPTextModel", text=SMALL_TEXT)
    with pytest.raises(UnsupportedModelError, match="300 tokens"):
        load_suspect(folder)
    write_tokenizer(folder)
    suspect = load_suspect(folder)
    assert suspect.kind == "text tower"
    ids = suspect.base.text.tokenizer(["a photo of a cat."])  # type: ignore[union-attr]
    assert int(ids.max()) < 300


def test_siglips_text_half_loads_alone(saved: Any, write_tokenizer: Callable[[Path], None]) -> None:
    """A SiglipTextModel with its tokenizer is a bidirectional text tower and computes what was saved; without
    one it is refused."""
    folder, module = saved("SiglipTextModel", text=SMALL_TEXT)
    with pytest.raises(UnsupportedModelError, match="tokenizer is not in the delivery"):
        load_suspect(folder)
    write_tokenizer(folder)
    suspect = load_suspect(folder)
    text = suspect.base.text
    assert suspect.kind == "text tower"
    assert text is not None
    assert not is_causal(suspect.base)
    ids = text.tokenizer(["a photo of a cat."])
    with torch.no_grad():
        expected = module(ids).pooler_output
        assert torch.equal(stock_features(text.module, ids), expected)
    assert (text.embed_dim, text.context_length) == (expected.shape[1], 24)


def test_the_processor_describes_the_transform(saved: Any) -> None:
    """Mean, deviation, resampling and squashing come from preprocessor_config.json; the size from the
    tower."""
    folder, _ = saved("CLIPModel")
    processor = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "resample": 2,
        "size": {"height": 48, "width": 48},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    suspect = load_suspect(folder)
    spec = suspect.base.visual.spec  # type: ignore[union-attr]
    assert (spec.size, spec.mean, spec.std) == (32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (spec.interpolation, spec.resize_mode) == ("bilinear", "squash")
    assert "says 48 pixels" in suspect.card.notes[0]


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"architectures": ["BertModel"]}, UnsupportedModelError, "not a CLIP or SigLIP"),
        ({"architectures": None, "model_type": "bert"}, UnsupportedModelError, "not a CLIP or SigLIP"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModelError, "quantised"),
        ({"projection_dim": "wide"}, MalformedModelError, "projection_dim"),
        ({"text_config": [1]}, MalformedModelError, "text_config is not an object"),
        ({"vision_config": {**VISION, "image_size": [32, 48]}}, UnsupportedModelError, "square"),
        ({"vision_config": {**VISION, "hidden_act": "xielu"}}, UnsupportedModelError, "hidden_act"),
        ({"vision_config": {**VISION, "num_attention_heads": 5}}, UnsupportedModelError, "cannot be built"),
        (
            {"vision_config": {**VISION, "hidden_size": 48, "num_attention_heads": 3}},
            MalformedModelError,
            "shape",
        ),
    ],
)
def test_configurations_that_cannot_be_loaded(
    saved: Any, change: dict[str, Any], error: type[Exception], told: str
) -> None:
    """A configuration that does not describe the weights is refused with a reason."""
    folder, _ = saved("CLIPModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(error, match=told):
        load_suspect(f"transformers:{folder}")


def test_other_folders_are_left_to_other_loaders(tmp_path: Path) -> None:
    """A config.json of something else is left to whoever may know it; a broken one is reported."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ChineseCLIPModel"]}))
    with pytest.raises(UnsupportedModelError, match="is known here"):
        load_suspect(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MalformedModelError, match="not valid JSON"):
        load_suspect(tmp_path)


def test_a_folder_without_weights_is_named(saved: Any, tmp_path: Path) -> None:
    """The error lists the file names that were looked for."""
    folder, _ = saved("CLIPModel")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"none of model\.safetensors"):
        load_suspect(folder)
    with pytest.raises(ModelError, match="there is no folder"):
        load_suspect(f"transformers:{tmp_path / 'nowhere'}")
