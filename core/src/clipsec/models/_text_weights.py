"""A library-neutral view of a CLIP text transformer's weights.

Read from open_clip's classic CLIP (the weights lie on the model itself), its CustomTextCLIP.text
(`TextTransformer`), and transformers' CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, SiglipModel and
SiglipTextModel.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from clipsec.errors import UnsupportedModelError
from clipsec.models._prepare import freeze
from clipsec.models._prepare_blocks import (
    Affine,
    Block,
    Norm,
    read_activation,
    read_linear,
    read_norm,
    read_open_clip_block,
    read_transformers_block,
)


@attrs.frozen(eq=False, kw_only=True)
class TextWeights:
    """A text transformer: token ids -> one feature read at one position."""

    token_embedding: Tensor
    """`[vocabulary, width]`."""
    positional_embedding: Tensor
    """`[context_length, width]`."""
    blocks: tuple[Block, ...]
    final: Norm
    projection: Affine | None
    activation: str
    heads: int
    causal: bool
    pooling: str
    """Where the feature is read: `argmax` (the largest id: CLIP's end token), `eos` (the first token equal to
    `eos_id`) or `last` (the last position, padding or not: SigLIP)."""
    eos_id: int = -1

    @property
    def context_length(self) -> int:
        """The most tokens a text may have."""
        return self.positional_embedding.shape[0]

    @property
    def width(self) -> int:
        """Width of the token embeddings and of the residual stream."""
        return self.positional_embedding.shape[1]

    @property
    def truncatable(self) -> bool:
        """Whether tokens after the end token cannot matter, so that cutting them off is exact.

        True for causal towers read at the end token. SigLIP's tower attends in both directions and is read
        at the last position, so its padding is part of the input it was trained on.
        """
        return self.causal and self.pooling in ("argmax", "eos")

    def end_positions(self, ids: Tensor) -> Tensor:
        """Where each row's feature is read: `ids [n, L]` -> int64 `[n]`.

        `argmax` is also transformers' rule for configurations whose `eos_token_id` is the historic, wrong 2.
        """
        if self.pooling == "argmax":
            return ids.argmax(dim=-1)
        if self.pooling == "eos":
            return ids.eq(self.eos_id).int().argmax(dim=-1)
        return torch.full((ids.shape[0],), ids.shape[1] - 1, dtype=torch.int64, device=ids.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions: `ids [..., L]` -> `[..., L, width]`."""
        return nn.functional.embedding(ids, self.token_embedding)

    def prepared(self, dtype: torch.dtype, device: torch.device) -> TextWeights:
        """Frozen, cast once, on `device`."""
        quick = self.activation == "quick_gelu"
        return attrs.evolve(
            self,
            token_embedding=freeze(self.token_embedding, dtype, device),
            positional_embedding=freeze(self.positional_embedding, dtype, device),
            blocks=tuple(block.prepared(dtype, device, quick_gelu=quick) for block in self.blocks),
            final=self.final.prepared(dtype, device),
            projection=None if self.projection is None else self.projection.prepared(dtype, device),
        )


def read_text_weights(module: nn.Module) -> TextWeights:
    """The view of any supported text module.

    Raises `UnsupportedModelError` when the module is built in a way this view does not cover (CoCa's class
    token, query-key norms, masks over padding, text towers that are not CLIP's); callers then use the stock
    module.
    """
    for candidate in module.modules():
        if _has(candidate, "token_embedding", "transformer", "ln_final", "positional_embedding"):
            return _read_open_clip(candidate)
        if _has(candidate, "embeddings", "encoder", "final_layer_norm"):
            return _read_transformers(candidate, module)
    raise UnsupportedModelError(
        f"no CLIP text transformer in a {type(module).__name__}",
        remedy="Use a text tower of open_clip's or transformers' CLIP or SigLIP.",
    )


def _read_open_clip(tower: nn.Module) -> TextWeights:
    pooling = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", "argmax")
    eos_id: int = getattr(tower, "text_eos_id", getattr(tower, "eos_id", -1))
    causal = getattr(tower, "attn_mask", None) is not None
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        raise _not_covered("a class token or a padding mask (CoCa)")
    if pooling not in ("argmax", "eos", "last"):
        raise _not_covered(f"pooling {pooling!r}")
    blocks = tower.get_submodule("transformer").get_submodule("resblocks")
    first: nn.Module = next(blocks.children())
    return TextWeights(
        token_embedding=tower.get_submodule("token_embedding").get_parameter("weight"),
        positional_embedding=tower.get_parameter("positional_embedding"),
        blocks=tuple(read_open_clip_block(block) for block in blocks.children()),
        final=read_norm(tower.get_submodule("ln_final")),
        projection=_projection(getattr(tower, "text_projection", None)),
        activation=read_activation(first.get_submodule("mlp.gelu")),
        heads=first.get_submodule("attn").num_heads,  # type: ignore[arg-type]
        causal=causal,
        pooling=pooling,
        eos_id=eos_id if pooling == "eos" else -1,
    )


def _read_transformers(tower: nn.Module, owner: nn.Module) -> TextWeights:
    layers = list(tower.get_submodule("encoder.layers").children())
    config = layers[0].get_submodule("self_attn").config
    head = getattr(tower, "head", None)
    siglip = isinstance(head, nn.Linear)
    eos_id = getattr(tower, "eos_token_id", None)
    projection = head if siglip else _find(owner, "text_projection")
    return TextWeights(
        token_embedding=tower.get_submodule("embeddings.token_embedding").get_parameter("weight"),
        positional_embedding=tower.get_submodule("embeddings.position_embedding").get_parameter("weight"),
        blocks=tuple(read_transformers_block(layer) for layer in layers),
        final=read_norm(tower.get_submodule("final_layer_norm")),
        projection=_projection(projection),
        activation=read_activation(config.hidden_act),  # type: ignore[union-attr,arg-type]
        heads=config.num_attention_heads,  # type: ignore[union-attr,arg-type]
        causal=not siglip,
        pooling="last" if siglip else ("argmax" if eos_id in (2, None) else "eos"),
        eos_id=eos_id if isinstance(eos_id, int) else -1,
    )


def _projection(value: object) -> Affine | None:
    if value is None:
        return None
    if isinstance(value, nn.Module):
        return read_linear(value)
    if isinstance(value, Tensor):
        return Affine(value.detach().t())
    raise _not_covered(f"a text projection of type {type(value).__name__}")


def _find(owner: nn.Module, name: str) -> nn.Module | None:
    matches = [module for path, module in owner.named_modules() if path.rpartition(".")[2] == name]
    return matches[0] if matches else None


def _has(module: nn.Module, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _not_covered(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the text tower uses {what}", remedy="It runs on its stock module; nothing needs to be done."
    )
