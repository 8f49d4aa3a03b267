"""The detector: searches the smallest collapsing patch of suspect and reference, decides once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.errors import NotApplicableError
from clipsec.models import Suspect
from clipsec.protocols import Context, Need
from clipsec.scheduler import Done, Encode, Gather, Problem
from clipsec.store import UnitStore, content_key
from clipsec_decree._decision import Start, decide
from clipsec_decree._objective import pl1, similarity
from clipsec_decree._options import DecreeOptions
from clipsec_decree._plan import Plan, check_reference, make_plan, same_image_tower
from clipsec_decree._search import Searched, clean_features, search, stamped_features
from clipsec_decree._verdict import Found, make_verdict, same_verdict


class Decree:
    """DECREE (Feng et al., CVPR 2023): in a backdoored image tower a small patch gives all pictures one
    feature, in a clean one only a large patch does. No labels, classes or text tower are needed."""

    summary: ClassVar[str] = "the smallest patch that gives all pictures one feature, in an image tower"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.IMAGE_POOL})
    options: ClassVar[type] = DecreeOptions
    references: ClassVar[tuple[str, ...]] = (
        "Feng et al., Detecting Backdoors in Pre-trained Encoders, CVPR 2023, arXiv 2303.15180",
    )
    by_default: ClassVar[bool] = False
    """Until a threshold is calibrated."""
    # Patience and lowest weight are those published for small pictures. The visual toy needs a patch over 16%
    # of the picture, its reference over 14%.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"rule": "paired", "max_pictures": 160, "patience": 10, "lowest_weight": 1e-5},
        "tolerance": 0.05,
        "weakness": "the toys' trigger changes every pixel a little, which no small patch imitates",
    }

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`; each start is a unit of work of its own.

        With a reference its starts run beside the suspect's, and are shared by all suspects on it. Raises
        `NotApplicableError` when the rule asks for a reference and there is none, or one whose pictures have
        another size; `EmptyPoolError` with too few pictures.
        """
        options: DecreeOptions = context.options
        reference = context.reference
        if reference is not None:
            if same_image_tower(context.suspect, reference):
                return same_verdict()
            check_reference(context.suspect, reference)
        elif options.rule == "paired":
            raise NotApplicableError(
                "the rule `paired` compares with a clean image tower, and none was given",
                remedy="Name the clean model that the suspect was made from with --reference, or leave rule "
                "at `published`.",
            )
        plan = make_plan(context)
        sides = [context.suspect] if reference is None else [context.suspect, reference]
        tell = _Progress(context, len(sides) * options.starts)
        problems = [
            ((side, start), _start(context, plan, sides[side], start, tell, shared=side == 1))
            for side in range(len(sides))
            for start in range(options.starts)
        ]
        done: list[Done] = yield Gather(problems, max_live=len(problems))
        found: list[Found] = [each.unwrap() for each in done]
        ours, theirs = found[: options.starts], found[options.starts :]
        decision = decide(options, [each.start for each in ours], [each.start for each in theirs])
        tower = context.suspect.image_tower(context.decision_dtype)
        clean = yield from clean_features(tower, plan.held_out, plan.held_out_keys)
        answers = yield from _answers(context, plan, ours[decision.smallest])
        return make_verdict(context, plan, decision, ours, theirs, float(similarity(clean)), answers)


def _start(
    context: Context, plan: Plan, side: Suspect, start: int, tell: _Progress, *, shared: bool
) -> Problem:
    """A `Found`; stored, so that no killed audit, and for a reference no other one, searches it again."""
    store, name = _place(context, plan, side, start, shared=shared)
    unit = store.load(name)
    if unit is None:
        searched: Searched = yield from search(
            side.image_tower(context.search_dtype),
            plan.pixels,
            plan.batches[start],
            plan.options,
            context.generator("start", start),
            tell.of((shared, start), plan.options.steps),
        )
        features = yield from stamped_features(
            side.image_tower(context.decision_dtype), plan.held_out, searched.mask, searched.pattern
        )
        measured = Start(
            pl1=pl1(searched.mask),
            similarity=float(similarity(features)),
            works=searched.works,
            ended=searched.ended,
        )
        data = {"start": attrs.asdict(measured), "history": [list(each) for each in searched.history]}
        store.save(name, data, {"mask": searched.mask, "pattern": searched.pattern})
        unit = store.load(name)
        assert unit is not None
    tell.of((shared, start), plan.options.steps)(plan.options.steps)
    return Found(
        start=Start(**unit.data["start"]),
        mask=unit.tensors["mask"],
        pattern=unit.tensors["pattern"],
        updates=len(unit.data["history"]),
    )


def _place(context: Context, plan: Plan, side: Suspect, start: int, *, shared: bool) -> tuple[UnitStore, str]:
    """Where a start's result is kept: with the verdict, or for a reference by all that decides it."""
    name = f"start-{start:03d}"
    if not shared:
        return context.units, name
    options = {
        field: value
        for field, value in attrs.asdict(plan.options).items()
        if field not in ("rule", "threshold", "starts", "tolerance")
    }
    key = content_key(
        decree=1,
        tower=side.image_tower(context.search_dtype).key,
        decision=side.image_tower(context.decision_dtype).key,
        pool=plan.pool_digest,
        options={**options, "learning_rates": list(plan.options.learning_rates)},
        seed=context.seed,
    )
    return context.shared, f"decree-{key}-{name}"


def _answers(context: Context, plan: Plan, found: Found) -> Problem:
    """The classes that stamped held-out pictures are given to, `[k]`; None for a suspect without classes."""
    suspect = context.suspect
    if len(suspect.class_names) < 2:
        return None
    features = yield from stamped_features(
        suspect.image_tower(context.decision_dtype), plan.held_out, found.mask, found.pattern
    )
    logits: Tensor = yield Encode(suspect.head(context.decision_dtype), features, cache=False)
    return torch.argmax(logits, dim=1)


class _Progress:
    """The updates of all starts together."""

    def __init__(self, context: Context, starts: int) -> None:
        self._context, self._starts, self._done = context, starts, dict[object, float]()

    def of(self, start: object, steps: int) -> Any:
        """What a start calls with the number of its updates so far."""

        def advance(updates: int) -> None:
            self._done[start] = updates / steps
            share = sum(self._done.values()) / self._starts
            self._context.progress(min(1.0, share), "searching the smallest mask")

        return advance
