"""One start as a scheduler problem: the search, the tests on held-out prompts, the landscapes."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from clipsec.errors import DetectionError
from clipsec.protocols import Context
from clipsec.scheduler import Backward, Encode, Problem
from clipsec_amdet._decision import Decision, Shares, decide, decide_paired, shares_of
from clipsec_amdet._landscape import convex_share, grid_points, search_directions
from clipsec_amdet._objective import insert, likeness, objective, oneness, paired_objective, place
from clipsec_amdet._plan import Plan

WEIGHT_DECAY = 1e-5
PAIRED_STEP = 0.25
"""With `paired`, the length of Adam's first step in lengths of the longest vector."""
RECENT = 20
"""Updates that the stopping rule averages over."""
CHUNK = 128
"""Rows of one request: bounds memory, not results."""


@attrs.frozen(eq=False)
class Found:
    """What one start found."""

    vectors: Tensor
    """`[k, D]`."""
    feature: Tensor
    """Mean hidden state at the position that is read, over held-out prompts, `[D]`."""
    losses: list[float]
    shares: Shares
    means: dict[str, float]
    """Mean assimilation and likenesses over held-out prompts; `gap`, how much more of one piece the suspect's
    are than the reference's."""
    decision: Decision


def run_start(context: Context, plan: Plan, start: int, advance: Callable[[int], None]) -> Problem:
    """A `Found`; stored as a unit of its own, so that a killed audit does not search it again."""
    name = f"start-{start:03d}"
    unit = context.units.load(name)
    if unit is None:
        noise = torch.randn(plan.options.vectors, plan.width, generator=context.generator("start", start))
        vectors, losses = yield from search(plan, noise, advance)
        shares, means, feature, centre = yield from measure_vectors(plan, vectors)
        if not plan.options.paired and decide(shares, plan.thresholds).margin > 0:
            generator = context.generator("landscape", start)
            convex = yield from convexity(plan, vectors, centre, generator)
            shares = attrs.evolve(shares, convex=convex)
        data = {"losses": losses, "shares": attrs.asdict(shares), "means": means}
        context.units.save(name, data, {"vectors": vectors, "feature": feature})
        unit = context.units.load(name)
        assert unit is not None
    advance(plan.options.steps)
    shares, means = Shares(**unit.data["shares"]), dict(unit.data["means"])
    if plan.options.paired:
        decision = decide_paired(means["gap"], plan.thresholds)
    else:
        decision = decide(shares, plan.thresholds)
    return Found(
        vectors=unit.tensors["vectors"],
        feature=unit.tensors["feature"],
        losses=list(unit.data["losses"]),
        shares=shares,
        means=means,
        decision=decision,
    )


def search(plan: Plan, noise: Tensor, advance: Callable[[int], None]) -> Problem:
    """Adam on the objective from `noise` `[k, D]`; returns the vectors and the loss before each update.

    Ends early only at the fixed stops, and only by the loss. Raises `DetectionError` when a loss is not a
    number.
    """
    options, prompts = plan.options, plan.prompts
    rate = options.learning_rate
    if options.paired:
        noise = shortened(noise, plan.longest)
        rate = PAIRED_STEP * plan.longest / plan.width**0.5
    vectors = noise.clone().requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=rate, weight_decay=WEIGHT_DECAY)
    losses: list[float] = []
    size = lonely_batch(options.starts * options.batch_size)
    for batch in plan.batches:
        rows, mask = prompts.rows(batch), prompts.mask(batch)
        inserted = insert(rows, vectors, prompts.at)
        hidden = yield Encode(plan.suspect_search, inserted, cache=False, micro_batch=size)
        anchor = yield Encode(plan.reference_search, inserted, cache=False, micro_batch=size)
        if options.paired:
            loss = paired_objective(hidden, anchor, mask)
        else:
            clean = yield Encode(plan.suspect_search, rows, row_keys=prompts.keys(batch), micro_batch=size)
            centre = place(hidden, mask).mean(dim=0) if options.positions == "end" else None
            loss = objective(hidden, clean, anchor, options.weight, mask, centre).mean()
        losses.append(loss.item())
        if not losses[-1] < float("inf"):
            raise DetectionError(
                "the loss of the search is not a number",
                remedy="Check the model's weights; search in float32 with --search-dtype float32.",
            )
        optimiser.zero_grad()
        yield Backward(loss)
        optimiser.step()
        if options.paired:
            with torch.no_grad():
                vectors.copy_(shortened(vectors, plan.longest))
        advance(len(losses))
        recent = losses[-RECENT:]
        if len(losses) in options.stops and sum(recent) / len(recent) < options.stop_loss:
            break
    return vectors.detach(), losses


def shortened(vectors: Tensor, longest: float) -> Tensor:
    """Vectors `[k, D]`, none of them longer than `longest`."""
    return vectors * (longest / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(max=1.0)


def lonely_batch(rows: int) -> int | None:
    """The micro-batch for searches that have no more than `rows` between them: the scheduler's own would be
    padded. None from 17 rows on."""
    return None if rows > 16 else 1 << (rows - 1).bit_length()


def measure_vectors(plan: Plan, vectors: Tensor) -> Problem:
    """The first three tests on the held-out prompts: `Shares`, the means behind them, the mean hidden state
    at the position that is read `[D]`, and the mean `place` of the prompts `[D]`."""
    prompts, at_end = plan.prompts, plan.options.positions == "end"
    places, references, same, anchored, read = [], [], [], [], []
    first: tuple[Tensor, Tensor | None, Tensor] | None = None
    for index in plan.held_out.split(CHUNK):
        rows, mask = insert(prompts.rows(index), vectors, prompts.at), prompts.mask(index)
        hidden = yield Encode(plan.suspect, rows, cache=False)
        anchor = yield Encode(plan.reference, rows, cache=False)
        ends = hidden[torch.arange(len(index)), prompts.read_at(index)]
        first = first or (hidden[:1], None if mask is None else mask[:1], ends[:1])
        if at_end:
            same.append(torch.cosine_similarity(ends, first[2], dim=-1))
        else:
            both = None if mask is None or first[1] is None else mask & first[1]
            same.append(likeness(hidden, first[0], both))
        places.append(place(hidden, mask))
        references.append(place(anchor, mask))
        anchored.append(likeness(hidden, anchor, mask))
        read.append(ends)
    centres, alike, anchoring = (torch.cat(each) for each in (places, same, anchored))
    centre = centres.mean(dim=0)
    collapse = centres @ centre if at_end else centres.square().sum(dim=-1)
    if not bool(torch.isfinite(torch.stack([collapse, alike, anchoring])).all()):
        raise DetectionError(
            "hidden states of the suspect or the reference are not finite",
            remedy="Check both models' weights.",
        )
    shares = shares_of(collapse, alike, anchoring, plan.thresholds)
    means = {
        "assimilation": float(collapse.mean()),
        "likeness_to_first": float(alike[1:].mean()),
        "likeness_to_reference": float(anchoring.mean()),
        "gap": float(oneness(centres) - oneness(torch.cat(references))),
    }
    return shares, means, torch.cat(read).mean(dim=0), centre


def convexity(plan: Plan, vectors: Tensor, centre: Tensor, generator: torch.Generator) -> Problem:
    """The mean convex share over several landscapes, each with a held-out prompt and a random direction of
    its own; in the precision of decisions."""
    options, shares = plan.options, []
    for number in range(options.directions):
        index = plan.held_out[number % len(plan.held_out)].reshape(1)
        noise = torch.randn(vectors.shape, generator=generator)
        surface = yield from landscape(plan, vectors, centre, index, noise)
        shares.append(convex_share(surface))
    return sum(shares) / len(shares)


def landscape(plan: Plan, vectors: Tensor, centre: Tensor, index: Tensor, noise: Tensor) -> Problem:
    """The loss of one prompt on a grid around the vectors: `[points, points]`, float64.

    Along one side the direction in which the loss falls, along the other `noise` made orthogonal to it.
    """
    options, prompts = plan.options, plan.prompts
    rows, mask = prompts.rows(index), prompts.mask(index)
    clean = yield Encode(plan.suspect, rows, row_keys=prompts.keys(index))

    def loss_at(points: Tensor, *, gradient: bool = False) -> Problem:
        inserted = insert(rows.expand(len(points), -1, -1), points, prompts.at)
        size = 1 if gradient else None
        hidden = yield Encode(plan.suspect, inserted, cache=False, micro_batch=size)
        anchor = yield Encode(plan.reference, inserted, cache=False, micro_batch=size)
        wide = None if mask is None else mask.expand(len(points), -1)
        # Second differences are compared with 1e-6, so nothing is added to what the towers round.
        towards = centre.double() if options.positions == "end" else None
        return objective(hidden.double(), clean.double(), anchor.double(), options.weight, wide, towards)

    leaf = vectors.clone().requires_grad_()
    loss = yield from loss_at(leaf[None], gradient=True)
    yield Backward(loss.sum())
    assert leaf.grad is not None
    down, across = search_directions(leaf.grad, noise)
    values = []
    for points in grid_points(vectors, down, across, options.reach, options.points).split(CHUNK):
        values.append((yield from loss_at(points)))
    return torch.cat(values).reshape(options.points, options.points)
