"""Text towers from their embeddings on: input embeddings -> hidden states.

For detectors that search an input which no text needs to have: the rows are what enters the first block,
token embeddings with positions, and may hold anything in place of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipsec.errors import NotApplicableError, UsageError
from clipsec.models._prepare import agree, outside_inference, tower_key
from clipsec.models._prepare_blocks import run_block
from clipsec.models._text_tower import stock_features, text_part, text_weights
from clipsec.models._text_weights import TextWeights
from clipsec.models._types import ClipModel
from clipsec.scheduler import Tower

_CHECK_TEXTS = ("a photo of a cat.", "the quick brown fox jumps over a lazy dog")


def embedding_weights(clip: ClipModel) -> TextWeights:
    """The weights view of the text tower; `NotApplicableError` when there is none (a stock module hides its
    embeddings)."""
    weights = text_weights(clip)
    if weights is None:
        raise NotApplicableError(
            f"the text tower of {clip.name} cannot be run from its embeddings",
            remedy="Use a CLIP or SigLIP text tower of open_clip or transformers.",
        )
    return weights


def is_causal(clip: ClipModel) -> bool:
    """Whether tokens see earlier ones only (CLIP), so that a text can be cut after what is read of it; False
    for towers that attend in both directions (SigLIP). Raises `NotApplicableError` like
    `prepare_embedding_tower`."""
    return embedding_weights(clip).truncatable


def end_positions(clip: ClipModel, ids: Tensor) -> Tensor:
    """Where the tower reads the feature of each row: token ids `[n, L]` -> int64 `[n]`."""
    return embedding_weights(clip).end_positions(ids)


def pad_with_end(clip: ClipModel, ids: Tensor) -> Tensor:
    """Token ids `[n, L]` with the end token at every position after it, as transformers' CLIP tokenizer pads.

    open_clip pads with 0. For the feature of a causal tower this is the same, for the hidden states at the
    padding it is not, and image generators read those too. Bidirectional towers get their ids back: their
    padding is part of the text.
    """
    weights = embedding_weights(clip)
    if not weights.truncatable:
        return ids
    ends = weights.end_positions(ids)[:, None]
    after = torch.arange(ids.shape[1], device=ids.device) > ends
    return torch.where(after, ids.gather(1, ends), ids)


@torch.no_grad()
def embed_ids(clip: ClipModel, ids: Tensor) -> Tensor:
    """What enters the first block: token ids `[n, L]` -> token plus position embeddings `[n, L, width]`,
    fp32."""
    weights = embedding_weights(clip)
    ids = ids.to(weights.token_embedding.device)
    return (weights.embed(ids) + weights.positional_embedding[: ids.shape[1]]).float()


@torch.no_grad()
def token_table(clip: ClipModel) -> Tensor:
    """The embedding of every token of the vocabulary, without positions: `[vocabulary, width]`, fp32, on the
    CPU. Raises `NotApplicableError` like `prepare_embedding_tower`."""
    return embedding_weights(clip).token_embedding.detach().float().cpu().clone()


def decode_ids(clip: ClipModel, ids: Sequence[int]) -> str:
    """The text of some tokens, for people; their numbers where the tokenizer cannot say it."""
    decode = getattr(text_part(clip).tokenizer, "decode", None)
    text = "" if decode is None else str(decode(list(ids))).strip()
    return text or " ".join(f"#{number}" for number in ids)


def pool_hidden_states(clip: ClipModel, hidden: Tensor, ends: Tensor) -> Tensor:
    """Hidden states `[n, L, width]` read at `ends` `[n]` and projected -> features `[n, E]`, as the tower
    itself ends; differentiable in `hidden`."""
    return _pool(embedding_weights(clip), hidden, ends)


def run_hidden(weights: TextWeights, x: Tensor) -> Tensor:
    """Input embeddings `[n, L, width]` -> hidden states after the final norm `[n, L, width]`
    (transformers' `last_hidden_state`)."""
    for block in weights.blocks:
        x = run_block(block, x, weights.heads, weights.activation, causal=weights.causal)
    return weights.final(x)


@outside_inference
def prepare_embedding_tower(clip: ClipModel, dtype: torch.dtype, device: torch.device | str) -> Tower:
    """A frozen text tower without its embedding layer: input embeddings `[n, L, width]`, positions included
    (see `embed_ids`) -> hidden states after the final norm `[n, L, width]` fp32.

    For a causal tower `L` may be any length up to the context: hidden states do not depend on later tokens.
    A bidirectional tower needs its full context length. Compared with the stock module on two texts.

    Raises `NotApplicableError` when there is no text tower or it cannot be run from its embeddings,
    `UsageError` out of the tower for rows of another shape.
    """
    weights, part, device = embedding_weights(clip), text_part(clip), torch.device(device)
    if not _agrees_with_stock(weights, clip):
        raise NotApplicableError(
            f"the hidden states of the text tower of {clip.name} do not lead to its own features",
            remedy="Report it: the tower is built in a way that is not covered.",
        )
    ready = weights.prepared(dtype, device)
    shortest = 1 if weights.truncatable else part.context_length

    def hidden(rows: Tensor) -> Tensor:
        if rows.shape[2] != part.width or not shortest <= rows.shape[1] <= part.context_length:
            raise UsageError(
                f"rows of {list(rows.shape[1:])} for a text tower of {shortest} to {part.context_length} "
                f"tokens and width {part.width}",
                remedy="Make the rows with embed_ids; only a causal tower's may be cut.",
            )
        return run_hidden(ready, rows).float()

    return Tower(
        key=tower_key("text from embeddings", part.digest, dtype=dtype),
        fn=hidden,
        label=f"text {clip.name} from embeddings {str(dtype).removeprefix('torch.')}",
        device=device,
        dtype=dtype,
    )


@torch.no_grad()
def same_text_tower(one: ClipModel, other: ClipModel) -> bool:
    """Whether two text towers compute the same from every text: equal bit for bit in all weights, and in what
    the weights do not show. The library that saved them does not matter. A projection that only one of them
    has (transformers' CLIPTextModel has none) is left out.

    Raises `NotApplicableError` like `prepare_embedding_tower`.
    """
    a, b = embedding_weights(one), embedding_weights(other)
    if _facts(a) != _facts(b):
        return False
    parts = [_tensors(a), _tensors(b)]
    if a.projection is None or b.projection is None:
        parts = [{name: t for name, t in part.items() if not name.startswith("projection")} for part in parts]
    ours, theirs = parts
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _facts(weights: TextWeights) -> tuple[object, ...]:
    norms = [weights.final, *(norm for block in weights.blocks for norm in (block.ln1, block.ln2))]
    return (weights.activation, weights.heads, weights.causal, tuple(norm.eps for norm in norms))


def _tensors(weights: TextWeights) -> dict[str, Tensor]:
    found = {"tokens": weights.token_embedding, "positions": weights.positional_embedding}
    parts = {"final": weights.final, "projection": weights.projection}
    for number, block in enumerate(weights.blocks):
        names = ("ln1", "qkv", "out", "ln2", "fc1", "fc2")
        parts |= {f"block {number} {name}": getattr(block, name) for name in names}
    for name, part in parts.items():
        for leaf in ("weight", "bias"):
            tensor = getattr(part, leaf, None)
            if tensor is not None:
                found[f"{name} {leaf}"] = tensor
    return found


def _pool(weights: TextWeights, hidden: Tensor, ends: Tensor) -> Tensor:
    rows = torch.arange(len(hidden), device=hidden.device)
    read = hidden[rows, ends.to(hidden.device)]
    if weights.projection is None:
        return read
    return weights.projection.prepared(hidden.dtype, hidden.device)(read)


def _agrees_with_stock(weights: TextWeights, clip: ClipModel) -> bool:
    part = text_part(clip)
    ids = part.tokenizer(list(_CHECK_TEXTS))
    with torch.no_grad():
        stock = stock_features(part.module, ids)
        ready = weights.prepared(torch.float32, stock.device)
        hidden = run_hidden(ready, embed_ids(clip, ids).to(stock.device))
    return agree(_pool(ready, hidden, weights.end_positions(ids)), stock)
