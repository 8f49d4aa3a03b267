"""Loading open_clip models: what comes out is what was saved, whatever the file format."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipsec.errors import MalformedModelError, ModelError, UnsupportedModelError, UsageError
from clipsec.models import clip_from_open_clip, load_suspect

Deliver = Callable[..., Path]


def save_legacy(tensors: Any, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def save_training(tensors: Any, path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"step": 5}}, path)


def save_compiled(tensors: Any, path: Path) -> None:
    torch.save({"state_dict": {f"module._orig_mod.{name}": t for name, t in tensors.items()}}, path)


def save_parameters(tensors: Any, path: Path) -> None:
    torch.save({name: nn.Parameter(tensor) for name, tensor in tensors.items()}, path)


def save_safetensors(tensors: Any, path: Path) -> None:
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("file", "save"),
    [
        ("open_clip_model.safetensors", save_safetensors),
        ("open_clip_pytorch_model.bin", torch.save),
        ("open_clip_pytorch_model.bin", save_safetensors),
        ("open_clip_pytorch_model.bin", save_legacy),
        ("open_clip_pytorch_model.bin", save_training),
        ("open_clip_pytorch_model.bin", save_compiled),
        ("open_clip_pytorch_model.bin", save_parameters),
    ],
)
def test_every_format_gives_the_same_weights_and_digest(
    deliver: Deliver, base: Path, state: dict[str, Tensor], file: str, save: Any
) -> None:
    """A round trip through any accepted format is bit-equal, and the digest does not know the format."""
    suspect = load_suspect(deliver(file=file, save=save))
    reference = load_suspect(base)
    loaded = suspect.base.text.module.state_dict()  # type: ignore[union-attr]
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert suspect.base.digest == reference.base.digest
    assert suspect.base.visual.digest == reference.base.visual.digest  # type: ignore[union-attr]
    assert suspect.base.text.digest == reference.base.text.digest  # type: ignore[union-attr]
    assert suspect.digest == reference.digest


def test_a_loaded_model_computes_what_the_saved_one_did(base: Path, model: nn.Module) -> None:
    """Features are bit-equal to the module that was saved; parts, sizes and scale are read off it."""
    suspect = load_suspect(base, class_names=["cat", "dog"])
    # nn.MultiheadAttention takes another path through its kernels when its weights are frozen.
    clip, stock = suspect.base, copy.deepcopy(model).eval().requires_grad_(False)
    assert clip.visual is not None
    assert clip.text is not None
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = clip.text.tokenizer(["a cat", "a dog"])
    with torch.no_grad():
        assert torch.equal(clip.visual.module(pixels), stock.encode_image(pixels))  # type: ignore[operator]
        assert torch.equal(clip.text.module.encode_text(ids), stock.encode_text(ids))  # type: ignore[operator]
    assert (clip.visual.embed_dim, clip.text.embed_dim, clip.text.width) == (24, 24, 16)
    assert clip.text.context_length == 24
    assert clip.visual.spec.size == 32
    assert clip.visual.spec.mean == (0.4, 0.5, 0.6)
    assert clip.visual.spec.std == (0.2, 0.3, 0.4)
    assert clip.logit_scale == pytest.approx(1 / 0.07)
    assert clip.activation == "gelu"
    assert suspect.kind == "clip"
    assert suspect.class_names == ("cat", "dog")
    assert not any(parameter.requires_grad for parameter in clip.text.module.parameters())
    assert not any(layer.training for layer in clip.text.module.modules())


def test_the_files_are_named_with_their_sha256(base: Path) -> None:
    """The report says which bytes were read."""
    import hashlib

    path = base / "open_clip_model.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_suspect(base).files == {path.name: expected}


def test_half_precision_becomes_fp32_and_has_the_digest_of_those_numbers(
    deliver: Deliver, state: dict[str, Tensor]
) -> None:
    """What counts is the numbers, not how many bytes they took in the file."""
    halves = {name: tensor.half() for name, tensor in state.items()}
    half = load_suspect(deliver("half", tensors=halves))
    full = load_suspect(deliver("full", tensors={name: tensor.float() for name, tensor in halves.items()}))
    assert half.base.text.module.token_embedding.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert half.base.digest == full.base.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"quick_gelu": True},
        {"vision_cfg__head_width": 8},
        {"text_cfg__heads": 4},
        {"text_cfg__pool_type": "eos"},
    ],
)
def test_the_digest_knows_what_no_weight_shows(
    deliver: Deliver, base: Path, config_with: Callable[..., Any], changes: dict[str, Any]
) -> None:
    """Equal weights under another activation, number of heads or pooling are another model."""
    other = load_suspect(deliver("other", config=config_with(**changes)))
    assert other.base.digest != load_suspect(base).base.digest
    assert other.digest != load_suspect(base).digest


def test_preprocessing_is_part_of_the_digest(deliver: Deliver, base: Path) -> None:
    """The same weights behind another normalisation answer differently."""
    other = load_suspect(deliver("other", preprocess={"mean": [0.5] * 3, "std": [0.5] * 3}))
    assert other.base.digest != load_suspect(base).base.digest
    assert other.base.visual.digest != load_suspect(base).base.visual.digest  # type: ignore[union-attr]
    assert other.base.text.digest == load_suspect(base).base.text.digest  # type: ignore[union-attr]


def test_the_activation_is_recorded(deliver: Deliver, config_with: Callable[..., Any]) -> None:
    """quick_gelu is read off the built model, and said on the suspect's card."""
    card = load_suspect(deliver(config=config_with(quick_gelu=True))).card
    assert card.activation == "quick_gelu"
    assert "quickgelu" in card.architecture


def test_missing_preprocessing_is_openais(deliver: Deliver) -> None:
    """A folder without preprocess_cfg gets the defaults of open_clip."""
    visual = load_suspect(deliver(preprocess={})).base.visual
    assert visual is not None
    assert visual.spec.mean == open_clip.OPENAI_DATASET_MEAN
    assert visual.spec.std == open_clip.OPENAI_DATASET_STD


def test_a_timm_tower_is_built_without_its_own_weights(
    deliver: Deliver, config_with: Callable[..., Any]
) -> None:
    """A configuration that asks for pretrained timm weights fetches nothing: the delivery's weights count."""
    config = config_with()
    config["vision_cfg"] = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
    stock = open_clip.CLIP(**config).eval().requires_grad_(False)
    config["vision_cfg"] |= {"timm_model_pretrained": True}
    suspect = load_suspect(deliver(config=config, tensors=dict(stock.state_dict())))
    pixels = torch.randn(1, 3, 160, 160)
    assert suspect.base.visual is not None
    with torch.no_grad():
        assert torch.equal(suspect.base.visual.module(pixels), stock.encode_image(pixels))
    assert "timm test_vit" in suspect.base.architecture


def test_classic_names_load_into_a_custom_text_tower(
    deliver: Deliver, base: Path, config_with: Callable[..., Any]
) -> None:
    """open_clip's own renaming of older checkpoints is applied."""
    custom = load_suspect(deliver(config=config_with(custom_text=True)))
    ids = custom.base.text.tokenizer(["a cat"])  # type: ignore[union-attr]
    with torch.no_grad():
        features = custom.base.text.module(ids)  # type: ignore[union-attr]
        expected = load_suspect(base).base.text.module.encode_text(ids)  # type: ignore[union-attr,operator]
    assert torch.equal(features, expected)


def test_openais_numbers_beside_the_weights_are_dropped(
    deliver: Deliver, base: Path, state: dict[str, Tensor]
) -> None:
    """input_resolution, context_length and vocab_size are no weights."""
    more = {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)}
    suspect = load_suspect(deliver(tensors=state | more))
    assert suspect.base.digest == load_suspect(base).base.digest


def test_a_scale_of_shape_one_is_a_scale(deliver: Deliver, base: Path, state: dict[str, Tensor]) -> None:
    """Some trainers keep logit_scale as a vector of one number."""
    suspect = load_suspect(deliver(tensors=state | {"logit_scale": state["logit_scale"].reshape(1)}))
    assert suspect.base.digest == load_suspect(base).base.digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("ln_final.bias"), "1 missing (ln_final.bias)"),
        (lambda state: state.update(extra=torch.zeros(2)), "1 left over (extra)"),
        (
            lambda state: state.update({"visual.proj": torch.zeros(3, 5)}),
            "1 of another shape (visual.proj is [3, 5] in the file and [32, 24] in the model)",
        ),
    ],
)
def test_weights_must_fit_exactly(
    deliver: Deliver, state: dict[str, Tensor], change: Callable[[Any], Any], told: str
) -> None:
    """Nothing is skipped, filled in or resized; the error counts and names."""
    tensors = dict(state)
    change(tensors)
    with pytest.raises(MalformedModelError) as caught:
        load_suspect(deliver(tensors=tensors))
    assert told in caught.value.message
    assert "architecture" in caught.value.remedy


def test_texts_are_left_out_when_the_tokenizer_is_missing(
    deliver: Deliver, config_with: Callable[..., Any]
) -> None:
    """A text tower with another vocabulary loads without its texts, and says so."""
    config = config_with(text_cfg__vocab_size=300)
    suspect = load_suspect(deliver(config=config, tensors=dict(open_clip.CLIP(**config).state_dict())))
    assert suspect.base.text is None
    assert "300 tokens" in suspect.card.notes[0]


def test_a_delivered_tokenizer_is_used_and_digested(
    deliver: Deliver, config_with: Callable[..., Any], write_tokenizer: Callable[[Path], None]
) -> None:
    """hf_tokenizer_name means the tokenizer in the folder; changing it changes the text digest."""
    config = config_with(text_cfg__vocab_size=300, text_cfg__hf_tokenizer_name="some/hub-name")
    folder = deliver(config=config, tensors=dict(open_clip.CLIP(**config).state_dict()))
    assert load_suspect(folder).base.text is None
    write_tokenizer(folder)
    suspect = load_suspect(folder)
    assert suspect.base.text is not None
    ids = suspect.base.text.tokenizer(["a photo of a cat.", "dog"])
    assert ids.shape == (2, 24)
    assert ids.dtype == torch.int64
    assert "tokenizer.json" in suspect.files
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_suspect(folder).base.digest != suspect.base.digest


def test_a_folder_with_two_weight_files_says_which_was_read(
    deliver: Deliver, state: dict[str, Tensor]
) -> None:
    """safetensors comes first; the other file is named as not audited."""
    folder = deliver()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    notes = load_suspect(folder).card.notes
    assert notes == (
        "open_clip_model.safetensors was audited; open_clip_pytorch_model.bin lies beside it and was not.",
    )


def test_a_model_in_memory_has_the_digest_of_its_file(base: Path, model: nn.Module) -> None:
    """A wrapper around the module gives the same identity, and leaves the module as it was."""
    model.train()
    clip = clip_from_open_clip(model, name="memory", spec={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})
    assert clip.digest == load_suspect(base).base.digest
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UnsupportedModelError):
        clip_from_open_clip(nn.Linear(2, 2), name="no CLIP")


def test_a_frozen_model_in_memory_is_not_copied(model: nn.Module) -> None:
    """A second copy of the weights is made only where it is needed."""
    from clipsec.models._build import frozen

    ready = frozen(model)
    assert ready is not model
    assert frozen(ready) is ready


@pytest.mark.slow
def test_a_published_name_with_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """open_clip:NAME@FILE takes the architecture of that name, and notes a name that speaks of quick_gelu."""
    with caplog.at_level(logging.ERROR):
        stock = open_clip.create_model("ViT-S-32-alt").eval().requires_grad_(False)
    path = tmp_path / "weights.safetensors"
    save_file(stock.state_dict(), path)
    suspect = load_suspect(f"open_clip:ViT-S-32-alt@{path}")
    pixels = torch.randn(1, 3, 224, 224)
    assert suspect.base.visual is not None
    with torch.no_grad():
        assert torch.equal(suspect.base.visual.module(pixels), stock.encode_image(pixels))
    assert suspect.base.architecture == "open_clip ViT-S-32-alt"
    assert suspect.card.notes == ()


def test_what_open_clip_published_decides_activation_and_preprocessing() -> None:
    """The best-known silent mis-load is noticed: weights that were trained with quick_gelu."""
    from open_clip.factory import get_model_config
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    from clipsec.models._open_clip import _from_published

    def told(name: str, file: str) -> tuple[tuple[str, ...], dict[str, Any]]:
        tags = {tag: get_pretrained_cfg(name, tag) for tag in list_pretrained_tags_by_model(name)}
        return _from_published(name, get_model_config(name), tags, Path(file))

    notes, _ = told("ViT-B-32", "vit_b_32-openai.pt")
    assert "quick_gelu" in notes[0]
    assert "ViT-B-32-quickgelu" in notes[0]
    assert told("ViT-B-32-quickgelu", "vit_b_32-openai.pt")[0] == ()
    assert told("ViT-B-32", "mine.pt")[0] == ()
    siglip = told("ViT-B-16-SigLIP", "mine.safetensors")[1]
    assert siglip["mean"] == (0.5, 0.5, 0.5)
    assert siglip["resize_mode"] == "squash"


def test_published_weights_get_the_activation_they_were_trained_with() -> None:
    """ViT-B-32@openai is quick_gelu although ViT-B-32 is not; the other combinations stay as they are."""
    from open_clip.factory import get_model_config
    from open_clip.pretrained import get_pretrained_cfg

    from clipsec.models._open_clip import _as_trained

    def trained(name: str, tag: str) -> tuple[bool, int]:
        config, notes = _as_trained(name, tag, get_model_config(name), get_pretrained_cfg(name, tag))
        return bool(config.get("quick_gelu")), len(notes)

    assert trained("ViT-B-32", "openai") == (True, 1)
    assert trained("ViT-B-32-quickgelu", "openai") == (True, 0)
    assert trained("ViT-B-32", "laion2b_s34b_b79k") == (False, 0)


def test_a_tag_without_internet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights that cannot be fetched are an error that says how to bring them along."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be fetched") as caught:
        load_suspect("open_clip:ViT-B-32@commonpool_s_s13m_b4k")
    assert "open_clip:ViT-B-32@FILE" in caught.value.remedy


@pytest.mark.parametrize(
    ("spec", "error", "told"),
    [
        ("open_clip:ViT-B-32", UsageError, "names no weights"),
        ("open_clip:no-such-model@openai", UnsupportedModelError, "no architecture"),
        (
            "open_clip:ViT-B-32@no_such_tag",
            UnsupportedModelError,
            "neither a file nor one of open_clip's tags",
        ),
        ("open_clip:ViT-B-32@missing/file.pt", ModelError, "there is no missing/file.pt"),
        ("open_clip:ViT-B-32@missing.safetensors", ModelError, "there is no missing.safetensors"),
        ("open_clip:missing/folder", ModelError, "there is no folder"),
        ("open_clip:roberta-ViT-B-32@x.pt", UnsupportedModelError, "would have to be fetched"),
        ("open_clip:coca_ViT-B-32@x.pt", UnsupportedModelError, "CoCa"),
        ("open_clip:hf-hub:timm/x@openai", UnsupportedModelError, "no architecture"),
    ],
)
def test_specs_that_cannot_be_loaded(
    spec: str, error: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with a spec is said before anything is built or fetched."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told):
        load_suspect(spec)


def test_every_published_architecture_passes_the_checks() -> None:
    """The bounds on configurations let through everything open_clip publishes, but foreign text towers and
    CoCa."""
    from open_clip.factory import get_model_config

    from clipsec.models._open_clip_config import check_model_config

    refused = []
    for name in open_clip.list_models():
        try:
            check_model_config(get_model_config(name))
        except UnsupportedModelError:
            refused.append(name)
    assert {
        name for name in refused if not name.startswith(("coca", "nllb", "mt5", "roberta", "xlm"))
    } == set()
