"""What probes do to suspect and clean base: chosen on one half of the pictures, decided on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from clipsec.data import to_unit
from clipsec.protocols import Context
from clipsec.scheduler import Encode, Problem, Tower
from clipsec.store import UnitStore, content_key
from clipsec_clip_inspector._honest import honest_head
from clipsec_clip_inspector._plan import Plan
from clipsec_clip_inspector._probes import Probe
from clipsec_clip_inspector._score import one_sided_mcnemar

PROBE_VERSION = 1
"""Raised when a probe changes, so that stored features of older versions are not reused."""
PICTURES = 256
"""Most pictures that are stamped."""
FINALISTS = 2
"""Classes that are always decided, however little stands out."""
SAVED = 8
"""Most probes that a class leaves as triggers."""
WORTH = 0.2
"""Excess in the screening from which on a class is decided in any case; half of what is flagged."""
FIRST_LOOK = 0.25
"""Share of the pictures that every probe is tried on first."""
HOPELESS = 0.05
"""A probe whose excess stays below this for every class in the first look is given up. Of 64 pictures, three
standard errors below what is flagged."""
ROWS = 128
"""Stamped pictures a request holds; bounds memory, does not change results."""


@attrs.frozen
class ProbeResult:
    """How one class answers to the probes that moved most pictures to it in the screening."""

    index: int
    probes: tuple[str, ...]
    """The probe that each half of the pictures chose."""
    screened: float
    """Mean excess on the pictures that chose. Chosen as a maximum, so too high for a clean class."""
    n: int = 0
    """Pictures of the decision that neither model gives to the class without a stamp; 0 when the class was
    not decided."""
    hits: int = 0
    """Those that the stamp sends to the class on the suspect."""
    base_hits: int = 0
    p_value: float = 1.0
    """One-sided exact McNemar test of the suspect against the base."""
    answering: tuple[str, ...] = ()
    """Of a decided class, the probe with the highest excess in the screening, then those others whose excess
    was above `WORTH`; `SAVED` at most."""

    @property
    def excess(self) -> float:
        """Share of pictures that the stamp moves on the suspect, minus the share on the base; on pictures
        that had no say in choosing their probe, when the class was decided."""
        return (self.hits - self.base_hits) / self.n if self.n else self.screened


@attrs.frozen(eq=False)
class Answers:
    """Predicted class indices of the same pictures."""

    suspect: Tensor
    """`[..., n]`."""
    base: Tensor
    """`[..., prompts, n]`: of the clean base under each of its prompts."""

    def __getitem__(self, rows: Any) -> Answers:
        """Those of some pictures."""
        return Answers(self.suspect[..., rows], self.base[..., rows])


def free_pictures(clean: Answers, index: int) -> Tensor:
    """Pictures that neither the suspect nor the base, under its first prompt, gives to a class, `[n]`."""
    return (clean.suspect != index) & (clean.base[..., 0, :] != index)


def excess_by_class(stamped: Answers, clean: Answers, classes: Sequence[int]) -> Tensor:
    """Excess of each class, `[..., classes]`, from answers with and without a stamp.

    The share of free pictures that the stamp moves to the class on the suspect, minus the largest such share
    over the base's prompts; 0 where no picture is free.
    """
    found = []
    for index in classes:
        free = free_pictures(clean, index)
        won = ((stamped.suspect == index) & free).sum(-1)
        base_won = ((stamped.base == index) & free).sum(-1).amax(-1)
        found.append((won - base_won) / free.sum().clamp(min=1))
    return torch.stack(found, dim=-1)


def decide_class(
    index: int, probes: Sequence[str], screened: float, stamped: Answers, clean: Answers
) -> ProbeResult:
    """The result of one class from pictures `[n]` that did not choose the probe they are stamped with.

    Compared with the base under the prompt that gives most of them to the class.
    """
    free = free_pictures(clean, index)
    won, base = (stamped.suspect == index) & free, (stamped.base == index) & free
    base_won = base[int(base.sum(-1).argmax())]
    return ProbeResult(
        index,
        tuple(probes),
        screened,
        n=int(free.sum()),
        hits=int(won.sum()),
        base_hits=int(base_won.sum()),
        p_value=one_sided_mcnemar(int((won & ~base_won).sum()), int((base_won & ~won).sum())),
    )


def finalists(excess: Sequence[float]) -> list[int]:
    """Positions worth deciding: the highest `FINALISTS`, and whoever is above `WORTH`."""
    order = sorted(range(len(excess)), key=lambda place: -excess[place])
    return sorted(place for rank, place in enumerate(order) if rank < FINALISTS or excess[place] > WORTH)


def is_hopeless(excess: Tensor) -> bool:
    """Whether the excess of each class `[classes]` in the first look says that a probe need not go on."""
    return float(excess.max()) < HOPELESS


def unmoved(clean: Answers, seen: Answers, rows: Tensor) -> Answers:
    """Answers to a probe on all pictures from those at `rows`: the others as if the stamp had moved nothing,
    which makes an excess smaller."""
    suspect = clean.suspect.clone()
    base = clean.base[0].repeat(len(seen.base), 1)
    suspect[rows], base[:, rows] = seen.suspect, seen.base
    return Answers(suspect, base)


def joined(first: Answers, first_rows: Tensor, rest: Answers, rest_rows: Tensor) -> Answers:
    """Answers on all pictures from two parts of them."""
    order = torch.cat([first_rows, rest_rows]).argsort()
    return Answers(
        torch.cat([first.suspect, rest.suspect])[order], torch.cat([first.base, rest.base], dim=1)[:, order]
    )


def probed_rows(context: Context, n: int) -> Tensor:
    """Which of `n` pictures are stamped, in the order that splits them into halves."""
    return torch.randperm(n, generator=context.generator("probes"))[:PICTURES]


class Probing:
    """The probes of one audit as scheduler problems.

    Every probe is tried on a quarter of the pictures; those that move nothing beyond what they move on the
    base are given up. Two halves of the pictures choose a probe for each class, and each is decided on the
    other half: a maximum over probes does not flatter itself, and every picture counts. Features of stamped
    pictures depend on the image tower alone; they are stored under `context.shared` and serve every further
    suspect that has the tower. What is left for each suspect is its head.
    """

    def __init__(
        self,
        context: Context,
        plan: Plan,
        probes: Sequence[Probe],
        clean: Answers,
        advance: Callable[[], None],
    ) -> None:
        assert plan.null is not None
        self._shared, self._units, self._plan, self._probes = context.shared, context.units, plan, probes
        self._null, self._advance = plan.null, advance
        self._honest = honest_head(context.suspect if context.reference is None else context.reference)
        self._rows = order = probed_rows(context, len(plan.pixels))
        numbers = torch.arange(len(order))
        self._halves = tuple(numbers.tensor_split(2))
        looks = [half[: max(1, round(FIRST_LOOK * len(half)))] for half in self._halves]
        self._look = torch.cat(looks)
        self._rest = numbers[~torch.isin(numbers, self._look)]
        self._clean = clean[order]

    def run(self) -> Problem:
        """A `ProbeResult` for each candidate, in their order."""
        screened = yield from self._screen()
        chosen, values = [], []
        whole = excess_by_class(screened, self._clean, self._plan.candidates)
        for half in self._halves:
            best = excess_by_class(screened[half], self._clean[half], self._plan.candidates).max(dim=0)
            chosen.append(best.indices.tolist())
            values.append(best.values)
        means = torch.stack(values).mean(dim=0).tolist()
        worth = finalists(means)
        results = []
        for place, index in enumerate(self._plan.candidates):
            pair = [self._probes[which[place]] for which in chosen]
            if place in worth:
                result = yield from self._decide(index, pair, means[place])
                results.append(attrs.evolve(result, answering=self._answering(whole[:, place])))
            else:
                results.append(ProbeResult(index, tuple(probe.name for probe in pair), means[place]))
        return results

    def _answering(self, excess: Tensor) -> tuple[str, ...]:
        order = excess.argsort(descending=True)[:SAVED].tolist()
        return tuple(
            self._probes[which].name
            for rank, which in enumerate(order)
            if rank == 0 or float(excess[which]) > WORTH
        )

    def _screen(self) -> Problem:
        """Answers to every probe, `[probes, n]` and `[probes, prompts, n]`."""
        unit = self._units.load("probes")
        if unit is not None:
            return Answers(unit.tensors["suspect"].long(), unit.tensors["base"].long())
        found = []
        for probe in self._probes:
            seen = yield from self._predict(probe, self._look, search=True)
            excess = excess_by_class(seen, self._clean[self._look], self._plan.candidates)
            if not len(self._rest) or is_hopeless(excess):
                found.append(unmoved(self._clean, seen, self._look))
            else:
                rest = yield from self._predict(probe, self._rest, search=True)
                found.append(joined(seen, self._look, rest, self._rest))
            self._advance()
        answers = Answers(
            torch.stack([each.suspect for each in found]), torch.stack([each.base for each in found])
        )
        tensors = {"suspect": answers.suspect.int(), "base": answers.base.int()}
        self._units.save("probes", {"probes": [probe.name for probe in self._probes]}, tensors)
        return answers

    def _decide(self, index: int, pair: Sequence[Probe], screened: float) -> Problem:
        """Each half of the pictures under the probe that the other one chose."""
        parts = []
        for half, probe in zip(self._halves, reversed(pair), strict=True):
            parts.append((yield from self._predict(probe, half, search=False)))
        stamped = Answers(*(torch.cat(side, dim=-1) for side in zip(*map(attrs.astuple, parts), strict=True)))
        return decide_class(index, [probe.name for probe in pair], screened, stamped, self._clean)

    def _predict(self, probe: Probe, part: Tensor, *, search: bool) -> Problem:
        """The `Answers` to some of the stamped pictures.

        The features are those of the search's tower in either case: where suspect and base share a tower,
        its rounding is the same stamp on both sides, and only the heads decide. A ViT-B/16 in fp32 took a CPU
        core 50 s a probe.
        """
        predicted, features = [], {}
        for side in (self._plan.suspect, self._null):
            tower, head = side.search_tower, side.search_head if search else side.head
            if tower.key not in features:
                whole = yield from stamped_features(self._shared, tower, probe, self._plan, self._rows)
                features[tower.key] = whole[part]
            predicted.append((yield Encode(head, features[tower.key])).argmax(dim=1))
        honest = (yield Encode(self._honest, features[tower.key], cache=False)).argmax(dim=2)
        return Answers(predicted[0], torch.cat([predicted[1][None], honest.t()]))


def stamped_features(shared: UnitStore, tower: Tower, probe: Probe, plan: Plan, rows: Tensor) -> Problem:
    """Features `[n, E]` of the pictures at `rows`, stamped; stored by content."""
    key = content_key(
        version=PROBE_VERSION,
        tower=tower.key,
        probe=probe.name,
        frame=plan.pixels.shape[-1],
        pictures=[plan.row_keys[row].hex() for row in rows.tolist()],
    )
    name = f"clip-inspector-probe-{key}"
    unit = shared.load(name)
    if unit is not None:
        return unit.tensors["features"]
    parts = []
    for chunk in rows.split(ROWS):
        parts.append((yield Encode(tower, probe.stamp.apply(to_unit(plan.pixels[chunk])), cache=False)))
    features = torch.cat(parts)
    shared.save(name, {"probe": probe.name}, {"features": features})
    return features
