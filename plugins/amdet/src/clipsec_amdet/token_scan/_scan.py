"""The search as scheduler problems: every token alone, sequences grown from the best, both towers in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.errors import DetectionError
from clipsec.scheduler import Encode, Problem, Tower
from clipsec.triggers import captured
from clipsec_amdet.token_scan._plan import SITES, Captions, Plan
from clipsec_amdet.token_scan._pull import insert_ids, moves, pull

CHUNK = 512
"""Sequences of one request: bounds memory, not results."""
CPU_BATCH = 256
"""Short texts are small rows: on a CPU a call of 256 takes 0.6 of the time of eight calls of 32."""


@attrs.frozen(eq=False)
class Pulls:
    """What sequences do, by site: `pull` of the suspect beyond the reference and the other way round."""

    suspect: Tensor
    """`[sites, n]`."""
    reference: Tensor
    """`[sites, n]`: the paired null."""

    def of(self, null: bool) -> Tensor:
        """The stronger site, `[n]`."""
        return (self.reference if null else self.suspect).max(dim=0).values


@attrs.frozen(eq=False)
class Candidate:
    """One sequence on the held-out captions."""

    ids: tuple[int, ...]
    site: str
    pull: float
    """How far the one tower takes captions beyond the other (`_pull.pull`)."""
    captured: float
    """Share of captions that it takes to where it takes the others."""
    captured_other: float
    """The same in the other tower."""
    move: Tensor
    """`[E]`, the mean way in the one tower."""


@attrs.frozen(eq=False)
class Found:
    """The best of each length, `suspect` those that work in the suspect, `null` those that work in the
    reference; the strongest first."""

    suspect: tuple[Candidate, ...]
    null: tuple[Candidate, ...]


def encode(tower: Tower, ids: Tensor, *, again: bool = False) -> Problem:
    """Unit features `[n, E]` of token ids `[n, L]`; `again`: another suspect's audit may ask for them."""
    size = min(CPU_BATCH, 1 << (len(ids) - 1).bit_length()) if tower.device.type == "cpu" else None
    features = yield Encode(tower, ids, cache=again, micro_batch=size)
    if not bool(torch.isfinite(features).all()):
        raise DetectionError(
            "text features of the suspect or the reference are not finite",
            remedy="Check both models' weights; search in float32 with --search-dtype float32.",
        )
    return F.normalize(features, dim=-1)


def measure(towers: tuple[Tower, Tower], captions: Captions, sequences: Tensor) -> Problem:
    """`Pulls` of sequences `[n, k]` on captions; the towers are the suspect's and the reference's."""
    plain = []
    for tower in towers:
        plain.append((yield from encode(tower, captions.ids)))
    parts: list[Tensor] = []
    for chunk in sequences.split(CHUNK):
        sites = []
        for site in SITES:
            rows = insert_ids(captions.ids, chunk, captions.at(site)).flatten(0, 1)
            ways = []
            for number, (tower, without) in enumerate(zip(towers, plain, strict=True)):
                found = yield from encode(tower, rows, again=number == 1 and sequences.shape[1] == 1)
                ways.append(moves(found.unflatten(0, (len(chunk), len(captions))), without))
            sites.append(torch.stack([pull(ways[0], ways[1]), pull(ways[1], ways[0])]))
        parts.append(torch.stack(sites))
    both = torch.cat(parts, dim=2)
    return Pulls(both[:, 0], both[:, 1])


def search(plan: Plan, advance: Callable[[float, str], None]) -> Problem:
    """`Found`: all tokens alone, then longer sequences, then the best of each length on held-out captions.

    The search for what works in the reference alone is the same in every step: its result is the null. It is
    made without the tokens of what was found in the suspect: a trigger beside a word takes away what the word
    means, and would be found as something that works in the reference alone.
    """
    towers = (plan.suspect_search, plan.reference_search)
    singles = plan.tokens[:, None]
    parts = []
    for number, chunk in enumerate(singles.split(CHUNK)):
        parts.append((yield from measure(towers, plan.scanned, chunk)))
        advance(0.6 * (number + 1) * CHUNK / (len(singles) + CHUNK), "scanning single tokens")
    alone = Pulls(
        torch.cat([part.suspect for part in parts], dim=1),
        torch.cat([part.reference for part in parts], dim=1),
    )
    finalists: dict[bool, tuple[Candidate, ...]] = {}
    for null in (False, True):
        scores, drift = alone.of(null), plan.drift
        if null:
            used = {token for each in finalists[False] for token in each.ids}
            out = torch.tensor([token in used for token in plan.tokens.tolist()])
            scores, drift = scores.masked_fill(out, -torch.inf), drift.masked_fill(out, -torch.inf)
        chosen = [best(singles, scores, plan.options.finalists)]
        pool = make_pool(plan.tokens, scores, drift, plan.options.pool)
        beam = best(singles, scores, plan.options.beam)
        for length in range(2, plan.options.length + 1):
            grown = grow(pool[:, None] if length == 2 else beam, pool)
            scores = (yield from measure(towers, plan.scanned, grown)).of(null)
            beam = best(grown, scores, plan.options.beam)
            chosen.append(beam[: plan.options.finalists])
        advance(0.95 if null else 0.8, "growing sequences")
        finalists[null] = yield from confirm(plan, chosen, null)
    return Found(finalists[False], finalists[True])


def make_pool(tokens: Tensor, scores: Tensor, drift: Tensor, size: int) -> Tensor:
    """The tokens that sequences are made of: by what they do alone, and by how far they were trained."""
    strongest = tokens[scores.topk(min(size // 2, len(tokens))).indices].tolist()
    trained = tokens[drift.topk(min(size, len(tokens))).indices].tolist()
    return torch.tensor(list(dict.fromkeys([*strongest, *trained]))[:size])


def grow(beam: Tensor, pool: Tensor) -> Tensor:
    """All sequences `[*, k + 1]` with one token of the pool before or behind one of the beam `[n, k]`."""
    n, k = beam.shape
    old = beam[:, None].expand(-1, len(pool), -1).reshape(-1, k)
    new = pool.repeat(n)[:, None]
    return torch.unique(torch.cat([torch.cat([old, new], 1), torch.cat([new, old], 1)]), dim=0)


def best(sequences: Tensor, scores: Tensor, count: int) -> Tensor:
    """The `count` sequences with the highest scores, the highest first."""
    return sequences[scores.topk(min(count, len(scores))).indices]


def confirm(plan: Plan, chosen: Sequence[Tensor], null: bool) -> Problem:
    """Candidates for sequences of each length, measured on captions that the search did not see, in the
    precision of decisions; the strongest first."""
    towers = [plan.suspect, plan.reference]
    if null:
        towers.reverse()
    captions = plan.held_out
    plain = []
    for tower in towers:
        plain.append((yield from encode(tower, captions.ids)))
    found = []
    for sequence in (row for rows in chosen for row in rows):
        sites = []
        for site in SITES:
            ids = insert_ids(captions.ids, sequence[None], captions.at(site))[0]
            ours = yield from encode(towers[0], ids)
            theirs = yield from encode(towers[1], ids)
            move = moves(ours, plain[0])
            sites.append(
                Candidate(
                    ids=tuple(sequence.tolist()),
                    site=site,
                    pull=float(pull(move, moves(theirs, plain[1]))),
                    captured=float(captured(ours, plain[0]).double().mean()),
                    captured_other=float(captured(theirs, plain[1]).double().mean()),
                    move=move,
                )
            )
        found.append(max(sites, key=lambda each: each.pull))
    return tuple(sorted(found, key=lambda each: -each.pull))
