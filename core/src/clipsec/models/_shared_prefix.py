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
from torch import Tensor

from clipsec.errors import UnsupportedModelError, UsageError
from clipsec.models._attention import attend
from clipsec.models._prepare import agree, outside_inference, tower_key, warn_fallback
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
    context = ids[:, 1 : 1 + n_ctx]
    if (weights is not None and not weights.truncatable) or not bool((context == context[:, :1]).all()):
        raise UnsupportedModelError(
            f"the text tower of {clip.name} cannot carry CoOp's prompts (SOS, context, name, EOT)",
            remedy="CoOp and CoCoOp deliveries need a causal CLIP text tower as their base.",
        )
    # A tokenizer cuts a long text silently and puts the end token last: the name alone tells the true length.
    expected = ends_alone + n_ctx
    too_long = [name for name, end in zip(names, expected) if int(end) >= part.context_length]
    if too_long or not torch.equal(ends, expected):
        raise UsageError(
            f"the class name {(too_long or names)[0]!r} and {n_ctx} context vectors do not fit into "
            f"{part.context_length} tokens",
            remedy="Shorten the class name (and retrain), or check the class-names file for a stray line.",
        )
    return PromptTokens(ids, n_ctx, ends)


CHUNK_TOKENS = 96
"""Own tokens of neighbouring classes that attend in one masked product. Larger chunks score more pairs that
the mask then drops, smaller ones are more and smaller calls; 64 to 128 is flat for 25 to 100 classes (width
256, two kinds of CPU load)."""


@attrs.frozen(eq=False)
class _Chunk:
    """A run of neighbouring classes in the packed row."""

    start: int
    """First token; 0 for the first chunk, which the prefix belongs to."""
    stop: int
    classes: slice
    mask: Tensor
    """Which keys (prefix, then this chunk's tokens) each token may look at, `[tokens, keys]`."""
    end_mask: Tensor
    """The same for the end tokens only, `[classes, keys]`."""


@attrs.frozen(eq=False)
class _Row:
    """One row of the packed layout: the prefix, then every class's own tokens, nothing padded."""

    prefix: int
    start_id: Tensor
    """`[1]`, the start token."""
    ids: Tensor
    """Own tokens of all classes, `[T]`."""
    positions: Tensor
    """The position each of them has in its prompt, `[T]`."""
    ends: Tensor
    """Where each class's end token is in the row, `[C]`."""
    chunks: tuple[_Chunk, ...]


def _lay_out(tokens: PromptTokens, device: torch.device) -> _Row:
    suffixes = [tokens.suffix(index) for index in range(len(tokens.ids))]
    prefix = tokens.prefix
    lengths = torch.tensor([len(suffix) for suffix in suffixes])
    stops = prefix + lengths.cumsum(0)
    owner = torch.arange(len(suffixes)).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(int(length)) for length in lengths]) + prefix
    chunks = []
    first = 0
    while first < len(suffixes):
        begin = int(stops[first] - lengths[first])
        last = max(first + 1, int((stops - begin <= CHUNK_TOKENS).sum()))
        chunks.append(_chunk(prefix, begin, owner, positions, stops[first:last], first, device))
        first = last
    return _Row(
        prefix,
        tokens.ids[0, :1].to(device),
        torch.cat(suffixes).to(device),
        positions.to(device),
        (stops - 1).to(device),
        tuple(chunks),
    )


def _chunk(
    prefix: int, begin: int, owner: Tensor, positions: Tensor, stops: Tensor, first: int, device: torch.device
) -> _Chunk:
    stop = int(stops[-1])
    own = slice(begin - prefix, stop - prefix)
    same_class = owner[own, None] == owner[None, own]
    mask = same_class & (positions[own, None] >= positions[None, own])
    mask = torch.cat([torch.ones(len(mask), prefix, dtype=torch.bool), mask], dim=1)
    end_mask = mask[stops - 1 - begin]
    if first == 0:
        causal = torch.ones(prefix, mask.shape[1], dtype=torch.bool).tril()
        mask, begin = torch.cat([causal, mask]), 0
    classes = slice(first, first + len(stops))
    return _Chunk(begin, stop, classes, mask.to(device), end_mask.to(device))


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

    @outside_inference
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
        self._row = _lay_out(self.tokens, device)
        self._first = None if self._weights is None else _first_layer(self._weights, self._row)
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
        if self._weights is None or self._first is None:
            return self._stock_rows(ctx)
        return _run(self._weights, self._row, self._first, ctx.to(self.dtype))

    @property
    def tokens_per_context(self) -> int:
        """Tokens one context costs: the shared prefix and every class's own."""
        return self.tokens.prefix + len(self._row.ids)

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
        row = _lay_out(two, stock.device)
        shared = _run(ready, row, _first_layer(ready, row), ctx)[0]
    return agree(shared, stock)


@attrs.frozen(eq=False)
class _FirstLayer:
    """What the classes' own tokens bring into the first block, which no context has reached yet:
    constants."""

    own: Tensor
    """Embeddings with positions, `[T, width]`."""
    own_qkv: Tensor
    """Their queries, keys and values there, `[T, 3 width]`."""


@torch.no_grad()
def _first_layer(weights: TextWeights, row: _Row) -> _FirstLayer:
    own = weights.embed(row.ids) + weights.positional_embedding[row.positions]
    block = weights.blocks[0]
    return _FirstLayer(own, block.qkv(block.ln1(own)))


def _run(weights: TextWeights, row: _Row, first: _FirstLayer, ctx: Tensor) -> Tensor:
    """`ctx [n, n_ctx, width] -> [n, classes, E]`."""
    n = len(ctx)
    start = weights.embed(row.start_id).expand(n, 1, -1)
    prefix = torch.cat([start, ctx], dim=1) + weights.positional_embedding[: row.prefix]
    x = torch.cat([prefix, first.own.expand(n, -1, -1)], dim=1)
    for index, block in enumerate(weights.blocks[:-1]):
        if index == 0:
            qkv = torch.cat([block.qkv(block.ln1(prefix)), first.own_qkv.expand(n, -1, -1)], dim=1)
        else:
            qkv = block.qkv(block.ln1(x))
        x = _finish_block(weights, block, row, x, qkv)
    return read_out(weights, _last_block(weights, weights.blocks[-1], row, x)).float()


def _finish_block(weights: TextWeights, block: Block, row: _Row, x: Tensor, qkv: Tensor) -> Tensor:
    n, length, width = x.shape
    q, k, v = qkv.view(n, length, 3, weights.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = [
        attend(q[:, :, chunk.start : chunk.stop], _keys(k, row, chunk), _keys(v, row, chunk), mask=chunk.mask)
        for chunk in row.chunks
    ]
    x = x + block.out(torch.cat(mixed, dim=2).transpose(1, 2).reshape(n, length, width))
    return block.mlp(x, ACTIVATIONS[weights.activation])


def _last_block(weights: TextWeights, block: Block, row: _Row, x: Tensor) -> Tensor:
    """Only the end tokens ask, project and pass the MLP: `x [n, L, width] -> [n, classes, width]`."""
    n, length, width = x.shape
    query, key_value = block.split_query()
    normed = block.ln1(x)
    k, v = key_value(normed).view(n, length, 2, weights.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    q = query(normed[:, row.ends]).view(n, len(row.ends), weights.heads, -1).transpose(1, 2)
    mixed = [
        attend(q[:, :, chunk.classes], _keys(k, row, chunk), _keys(v, row, chunk), mask=chunk.end_mask)
        for chunk in row.chunks
    ]
    out = block.out(torch.cat(mixed, dim=2).transpose(1, 2).reshape(n, -1, width))
    return block.mlp(x[:, row.ends] + out, ACTIVATIONS[weights.activation])


def _keys(k: Tensor, row: _Row, chunk: _Chunk) -> Tensor:
    """Keys (or values) a chunk may look at: the prefix's and its own, `[n, H, keys, d]`."""
    if chunk.start == 0:
        return k[:, :, : chunk.stop]
    return torch.cat([k[:, :, : row.prefix], k[:, :, chunk.start : chunk.stop]], dim=2)
