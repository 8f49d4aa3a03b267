"""Which weights are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from clipsec.models import TrainableClip

_TABLES = ("token_embedding.weight", "positional_embedding", "position_embedding.weight")
_PROJECTIONS = ("text_projection", "text_projection.weight")


def _projection_and_embeddings(model: TrainableClip) -> dict[str, nn.Parameter]:
    named = model.text_parameters()
    return {name: weight for name, weight in named.items() if name.endswith(_TABLES + _PROJECTIONS)}


SCOPES: Mapping[str, Callable[[TrainableClip], dict[str, nn.Parameter]]] = {
    "text": TrainableClip.text_parameters,
    "projection-embedding": _projection_and_embeddings,
    "both": lambda model: model.text_parameters() | model.image_parameters(),
    "visual": TrainableClip.image_parameters,
}
"""Of open_clip's ViT-B/32: 149, 3, 301 and 152 tensors, as the paper counts them."""


def trained_parameters(model: TrainableClip, scope: str) -> dict[str, nn.Parameter]:
    """The weights of a scope, by their names in the model's file. The logit scale is in none."""
    return SCOPES[scope](model)


def trains(model: TrainableClip, tower: str, scope: str) -> bool:
    """Whether a scope holds weights of the `image` or the `text` tower."""
    own = model.image_parameters() if tower == "image" else model.text_parameters()
    chosen = {id(weight) for weight in trained_parameters(model, scope).values()}
    return any(id(weight) in chosen for weight in own.values())
