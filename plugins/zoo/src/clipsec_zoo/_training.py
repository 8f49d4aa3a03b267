"""Training of a text tower (and a linear image projection) against the features of a frozen image tower."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ._cache import atomic_path, digest_file, stage_key
from ._pairs import Example
from ._texts import same_text_key, tokenise, vocabulary_of, wording

__all__ = ["Recipe", "contrastive_loss", "train", "training_stage"]


@attrs.frozen
class Recipe:
    """Everything that decides a training run; part of the key of its checkpoint."""

    width: int
    layers: int
    heads: int
    context_length: int
    embed_dim: int
    quick_gelu: bool
    projection: str
    """What is trained on top of the image features: `none` (they are used as they are), `linear`, or `mlp`
    (two layers); the words of open_clip's `timm_proj`."""
    steps: int
    batch: int
    """Pictures drawn a step; each brings a text, or shares that of another."""
    more_pictures: int
    """For each drawn picture with class words, so many further pictures of the same words: they cost no
    text."""
    learning_rate: float
    weight_decay: float
    warm_up: float
    """Share of the steps in which the rate climbs; then it falls along a cosine (one cycle)."""
    set_balance: float
    """0: every picture is drawn equally often; 1: every set."""
    within_set: float
    """Weight of the loss that contrasts a picture with the texts of its own set only."""
    text_to_image: float
    """Weight of the loss from texts to pictures."""
    feature_noise: float
    """Dropout on image features before the projection."""
    dropout: float
    """Dropout on token embeddings."""
    largest_scale: float
    """The logit scale is kept below this."""
    seed: int = 0


class _Towers(nn.Module):
    def __init__(self, recipe: Recipe, vocabulary: int, feature_width: int, spread: Tensor) -> None:
        super().__init__()
        from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer

        self.text = TextTransformer(
            context_length=recipe.context_length,
            vocab_size=vocabulary,
            width=recipe.width,
            heads=recipe.heads,
            layers=recipe.layers,
            output_dim=recipe.embed_dim,
            act_layer=QuickGELU if recipe.quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        )
        self.head = _head(recipe, feature_width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.spread: Tensor
        self.register_buffer("spread", spread)
        self.noise = recipe.feature_noise
        self.dropout = recipe.dropout

    def images(self, features: Tensor) -> Tensor:
        if self.head is not None:
            # Trained on features of unit spread, delivered on raw ones: the weight takes the division in.
            features = self.head(F.dropout(features / self.spread, self.noise, self.training))
        return F.normalize(features, dim=-1)

    def texts(self, tokens: Tensor) -> Tensor:
        # Prompts of class words are a third as long as captions: four groups of like length halve the work.
        lengths = tokens.argmax(dim=-1) + 1
        order = lengths.argsort()
        parts = [self._group(tokens[rows, : int(lengths[rows].max())]) for rows in order.chunk(4)]
        return torch.cat(parts)[order.argsort()]

    def _group(self, tokens: Tensor) -> Tensor:
        text: Any = self.text
        length = tokens.shape[1]
        x = F.dropout(text.token_embedding(tokens), self.dropout, self.training)
        x = x + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        x = text.ln_final(x)
        # The end token has the largest id, also in the compact vocabulary (which keeps the order).
        x = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ text.text_projection
        return F.normalize(x.float(), dim=-1)


def _head(recipe: Recipe, feature_width: int) -> nn.Module | None:
    """The head of open_clip's timm towers, so that its weights carry the same names there."""
    if recipe.projection == "none":
        return None
    if recipe.projection == "linear":
        return nn.Sequential(OrderedDict(proj=nn.Linear(feature_width, recipe.embed_dim, bias=False)))
    from timm.layers import Mlp

    mlp: nn.Module = Mlp(feature_width, 2 * recipe.embed_dim, recipe.embed_dim, bias=(True, False))
    return nn.Sequential(OrderedDict(mlp=mlp))


def contrastive_loss(
    images: Tensor, texts: Tensor, owner: Tensor, scale: Tensor, same_set: Tensor, recipe: Recipe
) -> Tensor:
    """The in-batch loss with several positives.

    `images` [b, E] and `texts` [t, E] have unit norm; `owner` [b] is the text of each picture; `same_set` [b,
    t] says which texts come from the picture's own set. Pictures to texts: cross-entropy over all texts, plus
    `within_set` times that over the texts of the same set. Texts to pictures: minus the log of the
    probability that falls on any of a text's pictures.
    """
    logits = scale * images @ texts.T
    loss = F.cross_entropy(logits, owner)
    if recipe.within_set:
        loss = loss + recipe.within_set * F.cross_entropy(logits.masked_fill(~same_set, -1e4), owner)
    if recipe.text_to_image:
        own = F.one_hot(owner, len(texts)).bool()
        hit = logits.masked_fill(~own, -1e4).logsumexp(dim=0) - logits.logsumexp(dim=0)
        loss = loss - recipe.text_to_image * hit.mean()
    return loss


def train(
    recipe: Recipe,
    examples: Sequence[Example],
    features: Tensor,
    vocabulary: Tensor,
    checkpoint: Path,
    key: str,
    *,
    save_every: int = 50,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, Tensor]:
    """Train, or go on from the checkpoint with this key; return the trained tensors.

    `features` is fp16 [n, views, width] in the order of `examples`; `vocabulary` the sorted CLIP token ids
    that get a row. Every step draws from its own seed, so an interrupted run ends in the same place as one
    that was not.

    The result has open_clip's names for the text tower (`token_embedding.weight` with one row a vocabulary
    id), `logit_scale`, and `visual.head.*` when the recipe has a projection.
    """
    torch.manual_seed(recipe.seed)
    projected = recipe.projection != "none"
    spread = features[:, 0].float().std(dim=0).clamp_min(1e-3) if projected else torch.ones(1)
    model = _Towers(recipe, len(vocabulary), features.shape[-1], spread)
    decayed = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim >= 2 and "embedding" not in n)]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6)
    first = _resume(model, optimiser, checkpoint, key)
    batches = _Batches(recipe, examples, vocabulary)
    model.train()
    for step in range(first, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _cycle(step / recipe.steps, recipe.warm_up)
        torch.manual_seed(recipe.seed * 1_000_003 + step + 1)
        chosen, tokens, owner, same_set = batches.at(step)
        view = torch.randint(features.shape[1], (len(chosen),))
        with torch.autocast("cpu", torch.bfloat16):
            texts = model.texts(tokens)
        images = model.images(features[chosen, view].float())
        loss = contrastive_loss(images, texts, owner, model.logit_scale.exp(), same_set, recipe)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(recipe.largest_scale))
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(model, optimiser, checkpoint, key, step + 1)
        if progress is not None:
            progress(step + 1, recipe.steps, float(loss.detach()))
    return _delivered(model)


def training_stage(
    recipe: Recipe, examples: Sequence[Example], features: Tensor, work: Path, say: Callable[[str], None]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Train, or go on in `work`, under a key of the recipe, the texts and the feature files that lie there;
    returns the vocabulary and the trained tensors."""
    vocabulary = vocabulary_of(examples, recipe.context_length)
    key = stage_key(
        recipe=attrs.asdict(recipe),
        features=[digest_file(path) for path in sorted((work / "features").glob("*.safetensors"))],
        texts=[[example.source, *example.texts] for example in examples],
        version=1,
    )

    def progress(step: int, steps: int, loss: float) -> None:
        if step % 10 == 0:
            say(f"step {step}/{steps} loss {loss:.3f}")

    place = work / "training.safetensors"
    return vocabulary, train(recipe, examples, features, vocabulary, place, key, progress=progress)


def _cycle(at: float, warm_up: float) -> float:
    if at < warm_up:
        return max(0.02, at / warm_up)
    return 0.5 * (1 + math.cos(math.pi * (at - warm_up) / (1 - warm_up)))


def _delivered(model: _Towers) -> dict[str, Tensor]:
    tensors = {
        name: tensor.detach().clone()
        for name, tensor in model.text.state_dict().items()
        if name != "attn_mask"
    }
    if model.head is not None:
        head = {name: tensor.detach().clone() for name, tensor in model.head.state_dict().items()}
        first = next(iter(head))
        head[first] /= model.spread
        tensors |= {f"visual.head.{name}": tensor for name, tensor in head.items()}
    tensors["logit_scale"] = model.logit_scale.detach().clone()
    return tensors


class _Batches:
    """Which pictures and which words a step sees: a function of the step alone."""

    def __init__(self, recipe: Recipe, examples: Sequence[Example], vocabulary: Tensor) -> None:
        self.recipe, self.examples, self.vocabulary = recipe, examples, vocabulary
        sources = sorted({example.source.split("/")[-1] for example in examples})
        self.source = torch.tensor([sources.index(example.source.split("/")[-1]) for example in examples])
        counts = torch.bincount(self.source).double()
        self.weights = counts[self.source] ** -recipe.set_balance
        self.alike: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            if example.kind == "class":
                self.alike.setdefault(same_text_key(example.texts[0]), []).append(index)

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures [b], tokens of their texts [t, length], each picture's text [b], texts of its own
        set [b, t]."""
        draw = random.Random(self.recipe.seed * 1_000_003 + step)
        columns: dict[str, int] = {}
        texts: list[str] = []
        chosen, owner = [], []
        for index in torch.multinomial(self.weights, self.recipe.batch, replacement=False).tolist():
            example = self.examples[index]
            said = wording(example, draw)
            key = same_text_key(said if example.kind == "caption" else example.texts[0])
            if key not in columns:
                columns[key] = len(texts)
                texts.append(said)
            alike = self.alike[key] if example.kind == "class" else []
            more = [draw.choice(alike) for _ in range(self.recipe.more_pictures if alike else 0)]
            chosen += [index, *more]
            owner += [columns[key]] * (1 + len(more))
        tokens = tokenise(texts, self.recipe.context_length)
        tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1].contiguous()
        pictures, owners = torch.tensor(chosen), torch.tensor(owner)
        member = torch.zeros(len(texts), int(self.source.max()) + 1, dtype=torch.bool)
        member[owners, self.source[pictures]] = True
        return pictures, torch.searchsorted(self.vocabulary, tokens), owners, member.T[self.source[pictures]]


def _save(model: nn.Module, optimiser: torch.optim.Optimizer, path: Path, key: str, step: int) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimiser.state[parameter]
        tensors[f"p.{name}"] = parameter.detach().contiguous()
        tensors[f"m.{name}"] = state["exp_avg"].contiguous()
        tensors[f"v.{name}"] = state["exp_avg_sq"].contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"key": key, "step": str(step)})


def _resume(model: nn.Module, optimiser: torch.optim.Optimizer, path: Path, key: str) -> int:
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return 0
            step = int(metadata["step"])
            for name, parameter in model.named_parameters():
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(f"p.{name}"))
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"m.{name}"),
                    "exp_avg_sq": file.get_tensor(f"v.{name}"),
                }
    except (SafetensorError, OSError):
        return 0
    return step
