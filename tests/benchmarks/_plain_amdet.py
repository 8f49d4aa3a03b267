"""AMDET's published procedure written plainly over the libraries' stock modules: no batching beyond the
search's own ten prompts, weights not frozen, full token length, fp32.

Source: arXiv 2512.00343 as far as its released code shows it. It is the yardstick of `amdet_published`, so it
must stay naive: do not tune it. Nothing here is shared with the detector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

UPDATES_AN_EPOCH, EPOCHS, BATCH = 320, 2, 10
LEARNING_RATE, WEIGHT_DECAY, WEIGHT = 0.08, 1e-5, 0.1
TESTED_BELOW, LEFT_BELOW = -0.76, -0.85
HELD_OUT = 800
ALIKE, ALIKE_SHARE = 0.8, 0.8
SAME, SAME_SHARE = 0.92, 0.995
DIFFERENT, DIFFERENT_SHARE = 0.0, 0.95
POINTS, REACH = 50, 10.0
CONVEX, CONVEX_SHARE = 1e-6, 0.8
SEED = 42

Stack = Callable[[Tensor], Tensor]
"""Input embeddings `[n, T, D]` -> hidden states after the final norm `[n, T, D]`."""


def transformers_stack(module: nn.Module) -> tuple[Callable[[Tensor], Tensor], Stack]:
    """Embedding layer and stack of a stock CLIPTextModel, with or without projection; a copy, not frozen."""
    tower = copy.deepcopy(module).text_model.requires_grad_(True)

    def stack(rows: Tensor) -> Tensor:
        hidden = tower.encoder(inputs_embeds=rows, attention_mask=None, is_causal=True).last_hidden_state
        return tower.final_layer_norm(hidden)

    return lambda ids: tower.embeddings(input_ids=ids).detach(), stack


def open_clip_stack(module: nn.Module) -> Stack:
    """The stack of a stock open_clip CLIP; a copy, not frozen."""
    tower = copy.deepcopy(module).requires_grad_(True)
    return lambda rows: tower.ln_final(tower.transformer(rows, attn_mask=tower.attn_mask))


def put_in(rows: Tensor, vector: Tensor) -> Tensor:
    """`[n, T, D]` with `vector` `[D]` behind the start token; the last token falls off."""
    return torch.cat([rows[:, :1], vector.expand(len(rows), 1, -1), rows[:, 1:-1]], dim=1)


def alike(hidden: Tensor) -> Tensor:
    """Mean cosine over all pairs of tokens of each row: `[n, T, D]` -> `[n]`."""
    unit = F.normalize(hidden, dim=-1)
    return (unit @ unit.transpose(1, 2)).mean(dim=(1, 2))


def cosine(hidden: Tensor, other: Tensor) -> Tensor:
    """Mean cosine at equal positions: `[n, T, D]` twice -> `[n]`."""
    return F.cosine_similarity(hidden, other, dim=-1).mean(dim=1)


@attrs.frozen(eq=False)
class Pair:
    """A suspect and its clean reference, and the prompts as the suspect embeds them."""

    suspect: Stack
    reference: Stack
    train: Tensor
    """`[n, T, D]`."""
    clean: Tensor
    """The suspect's hidden states of `train`, nothing put in."""
    held_out: Tensor
    """`[800, T, D]`."""

    def loss(self, rows: Tensor, clean: Tensor, vector: Tensor) -> Tensor:
        """`-A + 0.1 S + 0.1 D`, the mean over the rows."""
        inserted = put_in(rows, vector)
        hidden = self.suspect(inserted)
        away = cosine(clean, hidden) + cosine(self.reference(inserted), hidden)
        return (WEIGHT * away - alike(hidden)).mean()


@attrs.frozen(eq=False)
class Check:
    """A moment at which the search is tested."""

    update: int
    """Updates that were done."""
    mean: float
    """The lagging mean of the loss."""
    vector: Tensor


def search(pair: Pair, losses: list[float]) -> Iterator[Check]:
    """Every check of a search, as it comes up; the search goes on when the next one is asked for, so a caller
    whose tests all pass stops asking. Appends the loss of each update to `losses`.

    At every second update with the mean of the loss below -0.76 there is a check; below -0.85 the epoch is
    left. The mean is that of the released code: a sum of what was seen over the updates that two whole epochs
    would have had by then.
    """
    generator = torch.Generator().manual_seed(SEED)
    vector = torch.randn(pair.train.shape[2], generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([vector], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(pair.train), generator=generator)
        for number in range(UPDATES_AN_EPOCH):
            batch = order[number * BATCH : (number + 1) * BATCH]
            loss = pair.loss(pair.train[batch], pair.clean[batch], vector)
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            mean = sum(losses) / (number + 1 + epoch * UPDATES_AN_EPOCH)
            if number % 2 == 1 and mean < TESTED_BELOW:
                yield Check(len(losses), mean, vector.detach().clone())
                if mean < LEFT_BELOW:
                    break


def feature_one_by_one(pair: Pair, rows: Tensor) -> Tensor:
    """Clean hidden states, a prompt at a time: `[n, T, D]` -> `[n, T, D]`."""
    with torch.no_grad():
        return torch.cat([pair.suspect(row[None]) for row in rows])


def share_alike(pair: Pair, vector: Tensor, rows: Tensor) -> float:
    """First test, a prompt at a time: the share whose tokens became alike."""
    with torch.no_grad():
        values = [alike(pair.suspect(put_in(row[None], vector))).item() for row in rows]
    return sum(value > ALIKE for value in values) / len(values)


def share_same(pair: Pair, vector: Tensor, rows: Tensor) -> float:
    """Second test, a prompt at a time: the share that became like the first row, which is never counted."""
    with torch.no_grad():
        first, *others = (pair.suspect(put_in(row[None], vector)) for row in rows)
        values = [cosine(hidden, first).item() for hidden in others]
    return sum(value > SAME for value in values) / len(rows)


def share_different(pair: Pair, vector: Tensor, rows: Tensor) -> float:
    """Third test, a prompt at a time through both stacks: the share that the reference sends elsewhere."""
    hits = 0
    with torch.no_grad():
        for row in rows:
            inserted = put_in(row[None], vector)
            hits += cosine(pair.suspect(inserted), pair.reference(inserted)).item() < DIFFERENT
    return hits / len(rows)


def directions(pair: Pair, vector: Tensor, row: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions `[D]` of the landscape: down the gradient, and a random one orthogonal to it."""
    leaf = vector.clone().requires_grad_()
    pair.loss(row, clean, leaf).backward()
    assert leaf.grad is not None
    down = -F.normalize(leaf.grad, dim=0)
    across = torch.randn(len(vector))
    return down, F.normalize(across - (across @ down) * down, dim=0)


def surface_losses(
    pair: Pair,
    vector: Tensor,
    row: Tensor,
    clean: Tensor,
    axes: tuple[Tensor, Tensor],
    points: Sequence[int],
) -> Tensor:
    """Losses of some of the 2,500 points of the landscape, one by one and each with the graph that nobody
    needs: `[len(points)]`."""
    steps = torch.linspace(-REACH, REACH, POINTS)
    losses = []
    for point in points:
        place = vector + steps[point // POINTS] * axes[0] + steps[point % POINTS] * axes[1]
        losses.append(pair.loss(row, clean, place).item())
    return torch.tensor(losses, dtype=torch.float64)


def share_convex(pair: Pair, vector: Tensor) -> float:
    """Fourth test: the share of positive curvatures over the whole landscape of the first held-out prompt."""
    row = pair.held_out[:1]
    clean = feature_one_by_one(pair, row)
    axes = directions(pair, vector, row, clean)
    z = surface_losses(pair, vector, row, clean, axes, range(POINTS**2)).reshape(POINTS, POINTS)
    values = []
    for i in range(1, POINTS - 1):
        for j in range(1, POINTS - 1):
            xx = z[i + 1, j] - 2 * z[i, j] + z[i - 1, j]
            yy = z[i, j + 1] - 2 * z[i, j] + z[i, j - 1]
            xy = (z[i + 1, j + 1] - z[i + 1, j - 1] - z[i - 1, j + 1] + z[i - 1, j - 1]) / 4
            hessian = torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])])
            if bool((hessian != 0).any()):
                values += torch.linalg.eigvalsh(hessian).tolist()
    return sum(value > CONVEX for value in values) / len(values) if values else 0.0
