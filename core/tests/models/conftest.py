"""Small random CLIPs of every family, as `ClipModel`s: real modules of the libraries, real tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from clipsec.models import ClipModel, ImageSpec, TextPart, VisualPart

CONTEXT = 32
EMBED = 24
WIDTH = 32
SIZE = 64
SPEC = ImageSpec(SIZE, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))

TEXT_FAMILIES = (
    "open_clip",
    "open_clip quickgelu",
    "open_clip custom",
    "open_clip custom eos",
    "transformers",
    "transformers legacy eos",
    "transformers text",
    "transformers text projected",
)
IMAGE_FAMILIES = (
    "open_clip",
    "open_clip quickgelu",
    "open_clip avg",
    "open_clip resnet",
    "open_clip timm cnn",
    "open_clip timm vit",
    "transformers",
    "transformers siglip",
)


def tokenizer() -> Callable[[Sequence[str]], Tensor]:
    """CLIP's own tokenizer at context length 32."""
    stock = open_clip.SimpleTokenizer(context_length=CONTEXT)
    return lambda texts: stock(list(texts), context_length=CONTEXT)


def shake(module: nn.Module) -> nn.Module:
    """Random biases, norms and running statistics, so that nothing is zero, one or the identity by
    construction."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or "mask" in name or "logit" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(0.5 + noise.square())
            elif tensor.dim() < 2 or "position" in name:
                tensor.add_(0.1 * noise)
    return module.eval().requires_grad_(False)


def make_clip(family: str) -> ClipModel:
    """A model of `family` with random weights, the same at every call."""
    torch.manual_seed(0)
    if family.startswith("open_clip"):
        return _open_clip(family)
    return _transformers(family)


def _open_clip(family: str) -> ClipModel:
    vision: dict[str, object] = {
        "image_size": SIZE,
        "layers": 2,
        "width": 48,
        "head_width": 16,
        "patch_size": 16,
    }
    text: dict[str, object] = {"context_length": CONTEXT, "width": WIDTH, "heads": 4, "layers": 3}
    if "avg" in family:
        vision |= {"pool_type": "avg", "ls_init_value": 0.5}
    if "resnet" in family:
        vision = {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}
    if "timm cnn" in family:
        vision = {"image_size": SIZE, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg"}
    if "timm vit" in family:
        vision = {"image_size": SIZE, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    if "eos" in family:
        text |= {"pool_type": "eos", "eos_id": 49407, "proj_bias": True, "ls_init_value": 0.5}
    kind = CustomTextCLIP if "custom" in family else CLIP
    model = shake(kind(EMBED, vision, text, quick_gelu="quickgelu" in family))  # type: ignore[arg-type]
    size = 160 if "timm vit" in family else SIZE
    spec = ImageSpec(size, SPEC.mean, SPEC.std)
    part = TextPart(
        module=model.text if kind is CustomTextCLIP else model,
        tokenizer=tokenizer(),
        context_length=CONTEXT,
        width=WIDTH,
        embed_dim=EMBED,
        library="open_clip",
        digest=f"text {family}",
    )
    visual = VisualPart(model.visual, spec, EMBED, "open_clip", f"visual {family}")
    activation = "quick_gelu" if "quickgelu" in family else "gelu"
    return ClipModel(f"tiny {family}", f"open_clip {family}", activation, family, visual, part, 20.0)


def _transformers(family: str) -> ClipModel:
    text: dict[str, object] = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "vocab_size": 49408,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": SIZE,
        "patch_size": 16,
    }
    text["projection_dim"] = EMBED
    if "legacy" in family:
        text["eos_token_id"] = 2
    visual: nn.Module | None = None
    if "siglip" in family:
        del text["projection_dim"]
        config = SiglipConfig(
            text_config=SiglipTextConfig(**text), vision_config=SiglipVisionConfig(**vision)
        )
        module: nn.Module = shake(SiglipModel(config))
        visual, embed = module, WIDTH
    elif "text" in family:
        projected = "projected" in family
        kind = CLIPTextModelWithProjection if projected else CLIPTextModel
        module, embed = shake(kind(CLIPTextConfig(**text))), EMBED if projected else WIDTH
    else:
        config = CLIPConfig(
            text_config=CLIPTextConfig(**text), vision_config=CLIPVisionConfig(**vision), projection_dim=EMBED
        )
        module = visual = shake(CLIPModel(config))
        embed = EMBED
    part = TextPart(
        module=module,
        tokenizer=tokenizer(),
        context_length=CONTEXT,
        width=WIDTH,
        embed_dim=embed,
        library="transformers",
        digest=f"text {family}",
    )
    image = (
        None
        if visual is None
        else VisualPart(visual, SPEC, 48 if "siglip" in family else EMBED, "transformers", f"visual {family}")
    )
    return ClipModel(f"tiny {family}", f"transformers {family}", "quick_gelu", family, image, part, 20.0)


@pytest.fixture(scope="session")
def clip_of() -> Callable[[str], ClipModel]:
    """A cached small random model by family."""
    made: dict[str, ClipModel] = {}

    def get(family: str) -> ClipModel:
        if family not in made:
            made[family] = make_clip(family)
        return made[family]

    return get


@pytest.fixture
def new_clip() -> Callable[[str], ClipModel]:
    """A small random model by family that nothing has been prepared from yet."""
    return make_clip


@pytest.fixture(params=TEXT_FAMILIES)
def text_clip(request: pytest.FixtureRequest, clip_of: Callable[[str], ClipModel]) -> ClipModel:
    """Each family with a causal CLIP text tower."""
    return clip_of(request.param)


@pytest.fixture(params=IMAGE_FAMILIES)
def image_clip(request: pytest.FixtureRequest, clip_of: Callable[[str], ClipModel]) -> ClipModel:
    """Each family with an image tower."""
    return clip_of(request.param)
