"""Prompt-learner text features with the prefix computed once: SOS, context vectors, class name, ".", EOT.

CoOp (Zhou et al. 2022, section 3.2) and CoCoOp (section 3.2) put the same context vectors before every
class name. In a causal tower the tokens of that prefix do not depend on the name, so their keys and values
are computed once a row and shared by all classes; and tokens after the end token are never computed. Both
are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.errors import UnsupportedModelError, UsageError
from clipsec.models._attention import attend
from clipsec.models._prepare import agree, tower_key, warn_fallback
from clipsec.models._prepare_blocks import ACTIVATIONS, Block
from clipsec.models._text_tower import (
    StockText,
    encode_embeddings,
    read_out,
    stock_features,
    text_part,
    text_weights,
)
from clipsec.models._text_weights import TextWeights
from clipsec.models._types import ClipModel, TextPart


@attrs.frozen(eq=False)
class PromptTokens:
    """The token ids of "X X ... X NAME." for every class, as CoOp's authors build them."""

    ids: Tensor
    """`[classes, context_length]`."""
    n_ctx: int
    ends: Tensor
    """Position of each class's end token, `[classes]`."""

    @property
    def prefix(self) -> int:
        """Tokens shared by all classes: SOS and the context."""
        return 1 + self.n_ctx

    def suffix(self, index: int) -> Tensor:
        """The ids after the context, end token included, of one class."""
        return self.ids[index, self.prefix : int(self.ends[index]) + 1]


def clean_name(name: str) -> str:
    """A class name as it goes into a prompt: underscores become spaces (CoOp's rule)."""
    return name.replace("_", " ")


def tokenize_prompts(clip: ClipModel, class_names: Sequence[str], n_ctx: int) -> PromptTokens:
    """Token ids of "X ... X NAME.", where the `n_ctx` placeholders X stand for the context vectors.

    Raises `UsageError` when a name does not fit into the context, `UnsupportedModelError` when the tower or
    its tokenizer cannot carry CoOp's prompts (SigLIP: no start token, bidirectional).
    """
    part = text_part(clip)
    if not class_names:
        raise UsageError("there are no class names", remedy="Give at least one class name.")
    if n_ctx < 1:
        raise UsageError(f"{n_ctx} context vectors", remedy="A prompt learner has at least one.")
    names = [clean_name(name) for name in class_names]
    placeholders = " ".join(["X"] * n_ctx)
    ids = part.tokenizer([f"{placeholders} {name}." for name in names])
    alone = part.tokenizer([f"{name}." for name in names])
    weights = text_weights(clip)
    ends_of = (lambda rows: rows.argmax(dim=-1)) if weights is None else weights.end_positions
    ends, ends_alone = ends_of(ids), ends_of(alone)
    # A tokenizer cuts a long text silently and puts the end token last, so the length is taken from the
    # name alone.
    too_long = [name for name, end in zip(names, ends_alone) if int(end) + 1 + n_ctx > part.context_length]
    if too_long:
        raise UsageError(
            f"the class name {too_long[0]!r} and {n_ctx} context vectors do not fit into "
            f"{part.context_length} tokens",
            remedy="Shorten the class name (and retrain), or check the class-names file for a stray line.",
        )
    context = ids[:, 1 : 1 + n_ctx]
    causal = weights is None or weights.truncatable
    if not causal or not bool((context == context[:, :1]).all()) or not torch.equal(ends, ends_alone + n_ctx):
        raise UnsupportedModelError(
            f"the text tower of {clip.name} cannot carry CoOp's prompts (SOS, context, name, EOT)",
            remedy="CoOp and CoCoOp deliveries need a causal CLIP text tower as their base.",
        )
    return PromptTokens(ids, n_ctx, ends)


@attrs.frozen(eq=False)
class _Packed:
    """All classes' own tokens in one row without padding, sorted by length so that equal lengths lie
    together."""

    ids: Tensor
    """`[T]`."""
    positions: Tensor
    """Position of each token in its prompt, `[T]`."""
    buckets: tuple[tuple[int, int, int], ...]
    """(first token, classes, tokens a class) for each length."""
    ends: Tensor
    """Index of each class's end token in the packed row, classes in sorted order, `[C]`."""
    unsort: Tensor
    """Sorted order -> the caller's order, `[C]`."""


def _pack(tokens: PromptTokens, device: torch.device) -> _Packed:
    suffixes = [tokens.suffix(index) for index in range(len(tokens.ids))]
    lengths = torch.tensor([len(suffix) for suffix in suffixes])
    order = lengths.argsort(stable=True)
    buckets = []
    start = 0
    for length, classes in zip(*(column.tolist() for column in lengths.unique(return_counts=True))):
        buckets.append((start, classes, length))
        start += classes * length
    ends = lengths[order].cumsum(0) - 1
    positions = torch.cat([torch.arange(int(lengths[i])) for i in order]) + tokens.prefix
    ids = torch.cat([suffixes[int(i)] for i in order])
    unsort = order.argsort()
    return _Packed(ids.to(device), positions.to(device), tuple(buckets), ends.to(device), unsort.to(device))


class SharedPrefixText:
    """Text features of every class for given context vectors.

        text = SharedPrefixText(clip, class_names, n_ctx=4, dtype=torch.float32, device="cpu")
        text(ctx)                 # ctx [n, n_ctx, width] -> [n, classes, E]: CoCoOp, one context a picture
        text(ctx)                 # ctx [n_ctx, width]    -> [classes, E]:    CoOp, shared context
        text.class_specific(ctx)  # ctx [classes, n_ctx, width] -> [classes, E]

    Features are fp32 and not normalised; differentiable with respect to `ctx` (any floating dtype, cast to
    `dtype`). Equal to the stock module on the full-length prompts to rounding; checked on two classes when
    made, and run on the stock module with a `PreparationWarning` if they disagree.
    """

    def __init__(
        self,
        clip: ClipModel,
        class_names: Sequence[str],
        n_ctx: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        device = torch.device(device)
        part = text_part(clip)
        self.tokens = tokenize_prompts(clip, class_names, n_ctx)
        self.class_names = tuple(class_names)
        weights = text_weights(clip)
        if weights is not None and not _agrees_with_stock(weights, part, self.tokens):
            warn_fallback(f"prompts on {clip.name}", "the shared prefix disagrees with the stock module")
            weights = None
        self._weights = None if weights is None else weights.prepared(dtype, device)
        self._stock = StockText(part, device) if weights is None else None
        self._packed = _pack(self.tokens, device)
        self._ids = self.tokens.ids.to(device)
        self.dtype = dtype if weights is not None else torch.float32
        self.width = part.width
        kind = "stock prompts" if weights is None else "prompts"
        self.key = tower_key(kind, part.digest, n_ctx, *self.class_names, dtype=self.dtype)

    def __call__(self, ctx: Tensor) -> Tensor:
        """`ctx [n, n_ctx, width] -> [n, classes, E]`, or `[n_ctx, width] -> [classes, E]`; fp32."""
        if ctx.dim() == 2:
            return self(ctx[None])[0]
        self._check_ctx(ctx)
        if self._weights is None:
            return self._stock_rows(ctx)
        start = self._ids[0, :1]
        return _run_shared(self._weights, self._packed, self.tokens.prefix, start, ctx.to(self.dtype))

    def class_specific(self, ctx: Tensor) -> Tensor:
        """`ctx [classes, n_ctx, width]`, one context a class (CoOp's CSC) -> `[classes, E]`; fp32."""
        self._check_ctx(ctx)
        if len(ctx) != len(self._ids):
            raise UsageError(
                f"{len(ctx)} class-specific contexts for {len(self._ids)} classes",
                remedy="Give one context a class, in the order of the class names.",
            )
        if self._stock is not None:
            return self._stock.with_embeddings(self._embed(ctx, self._stock_table(ctx)), self._ids).float()
        assert self._weights is not None
        length = int(self.tokens.ends.max()) + 1
        ids = self._ids[:, :length]
        x = self._embed(ctx.to(self.dtype), self._weights.embed(ids))
        return encode_embeddings(self._weights, x, self._weights.end_positions(ids)).float()

    def _embed(self, ctx: Tensor, embedded: Tensor) -> Tensor:
        return torch.cat([embedded[:, :1], ctx, embedded[:, self.tokens.prefix :]], dim=1)

    def _stock_table(self, ctx: Tensor) -> Tensor:
        assert self._stock is not None
        return self._stock.embed(self._ids).to(ctx.dtype)

    def _stock_rows(self, ctx: Tensor) -> Tensor:
        assert self._stock is not None
        table = self._stock_table(ctx)
        prompts = (self._embed(row.expand(len(table), -1, -1), table) for row in ctx)
        return torch.stack([self._stock.with_embeddings(x, self._ids) for x in prompts]).float()

    def _check_ctx(self, ctx: Tensor) -> None:
        if ctx.dim() != 3 or tuple(ctx.shape[1:]) != (self.tokens.n_ctx, self.width):
            raise UsageError(
                f"context of shape {list(ctx.shape)}, expected [n, {self.tokens.n_ctx}, {self.width}]",
                remedy="Check that the prompts were learned on this base model.",
            )


def _agrees_with_stock(weights: TextWeights, part: TextPart, tokens: PromptTokens) -> bool:
    """The shortest and the longest class, with the placeholder's own embedding as context, against the
    stock module."""
    pick = torch.stack([tokens.ends.argmin(), tokens.ends.argmax()])
    two = PromptTokens(tokens.ids[pick], tokens.n_ctx, tokens.ends[pick])
    with torch.no_grad():
        stock = stock_features(part.module, two.ids)
        ready = weights.prepared(torch.float32, stock.device)
        ctx = ready.embed(two.ids[:1, 1 : two.prefix])
        shared = _run_shared(ready, _pack(two, stock.device), two.prefix, two.ids[0, :1], ctx)[0]
    return agree(shared, stock)


def _run_shared(weights: TextWeights, packed: _Packed, prefix: int, start: Tensor, ctx: Tensor) -> Tensor:
    """`ctx [n, n_ctx, width] -> [n, classes, E]`: one row is the prefix followed by all classes' own
    tokens."""
    n = len(ctx)
    positions = weights.positional_embedding
    sos = weights.embed(start).expand(n, 1, -1)
    own = weights.embed(packed.ids) + positions[packed.positions]
    x = torch.cat([torch.cat([sos, ctx], dim=1) + positions[:prefix], own.expand(n, -1, -1)], dim=1)
    for block in weights.blocks[:-1]:
        x = _run_block(weights, block, packed, prefix, x)
    x = _run_last_block(weights, weights.blocks[-1], packed, prefix, x)
    return read_out(weights, x)[:, packed.unsort].float()


def _run_block(weights: TextWeights, block: Block, packed: _Packed, prefix: int, x: Tensor) -> Tensor:
    n, length, width = x.shape
    qkv = block.qkv(block.ln1(x)).view(n, length, 3, weights.heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    shared_k, shared_v = k[:, :, :prefix], v[:, :, :prefix]
    mixed = [attend(q[:, :, :prefix], shared_k, shared_v, causal=True)]
    for first, classes, tokens in packed.buckets:
        here = slice(prefix + first, prefix + first + classes * tokens)
        mixed.append(_attend_suffix(q[:, :, here], k[:, :, here], v[:, :, here], shared_k, shared_v, tokens))
    x = x + block.out(torch.cat(mixed, dim=2).transpose(1, 2).reshape(n, length, width))
    return block.mlp(x, ACTIVATIONS[weights.activation])


def _attend_suffix(
    q: Tensor, k: Tensor, v: Tensor, shared_k: Tensor, shared_v: Tensor, tokens: int
) -> Tensor:
    """Each class's tokens attend to the shared prefix and, causally, to their own: `[n, H, classes *
    tokens, d]`.

    Two products instead of one over concatenated keys: the prefix's keys are never copied per class.
    """
    n, heads, total, d = q.shape
    own = (n, heads, total // tokens, tokens, d)
    q = q * d**-0.5
    to_shared = (q @ shared_k.transpose(-1, -2)).view(*own[:4], -1)
    to_own = q.reshape(own) @ k.reshape(own).transpose(-1, -2)
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
    scores = torch.cat([to_shared, to_own.masked_fill(future, float("-inf"))], dim=-1)
    weights = F.softmax(scores, dim=-1)
    prefix = shared_k.shape[2]
    from_shared = weights[..., :prefix].reshape(n, heads, total, prefix) @ shared_v
    return from_shared + (weights[..., prefix:] @ v.reshape(own)).reshape(n, heads, total, d)


def _run_last_block(weights: TextWeights, block: Block, packed: _Packed, prefix: int, x: Tensor) -> Tensor:
    """Only the end tokens ask, project and pass the MLP: `x [n, L, width] -> [n, classes, width]` (sorted
    order)."""
    n, length, width = x.shape
    query, key_value = block.split_query()
    normed = block.ln1(x)
    ends = packed.ends + prefix
    q = query(normed[:, ends]).view(n, len(ends), weights.heads, -1).transpose(1, 2)
    kv = key_value(normed).view(n, length, 2, weights.heads, -1)
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    shared_k, shared_v = k[:, :, :prefix], v[:, :, :prefix]
    mixed = []
    done = 0
    for first, classes, tokens in packed.buckets:
        here = slice(prefix + first, prefix + first + classes * tokens)
        asked = q[:, :, done : done + classes]
        mixed.append(_attend_end(asked, k[:, :, here], v[:, :, here], shared_k, shared_v, tokens))
        done += classes
    out = block.out(torch.cat(mixed, dim=2).transpose(1, 2).reshape(n, len(ends), width))
    return block.mlp(x[:, ends] + out, ACTIVATIONS[weights.activation])


def _attend_end(q: Tensor, k: Tensor, v: Tensor, shared_k: Tensor, shared_v: Tensor, tokens: int) -> Tensor:
    """One query a class, at its last token, so there is nothing to mask: `[n, H, classes, d]`."""
    n, heads, classes, d = q.shape
    own = (n, heads, classes, tokens, d)
    q = q * d**-0.5
    to_own = (q[..., None, :] @ k.reshape(own).transpose(-1, -2)).squeeze(-2)
    weights = F.softmax(torch.cat([q @ shared_k.transpose(-1, -2), to_own], dim=-1), dim=-1)
    prefix = shared_k.shape[2]
    from_own = (weights[..., None, prefix:] @ v.reshape(own)).squeeze(-2)
    return weights[..., :prefix] @ shared_v + from_own
