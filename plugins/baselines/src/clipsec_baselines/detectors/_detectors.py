"""The detectors: every class a scheduler problem of its own, a size for each, one outlier test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.protocols import Context, Need
from clipsec.scheduler import Gather, Problem
from clipsec_baselines.detectors import _evidence, _mask, _pixels
from clipsec_baselines.detectors._decision import ClassSize
from clipsec_baselines.detectors._options import NeuralCleanseOptions, PixelBackdoorOptions
from clipsec_baselines.detectors._plan import Plan, make_plan
from clipsec_baselines.detectors._schedule import CostRules, Rules
from clipsec_baselines.detectors._search import Found, Trigger, clean_predictions, predictions, search
from clipsec_baselines.detectors._verdict import make_verdict

CONCURRENT_ROWS = 64
"""Rows of all live searches together. More than the scheduler packs into one call would only delay the first
finished class, and a finished class is what survives a kill."""

Tensors = dict[str, Tensor]


@attrs.frozen(eq=False)
class _Method:
    """What tells the two baselines apart."""

    size_name: str
    random: Callable[[tuple[int, int, int], torch.Generator], Trigger]
    even: Callable[[tuple[int, int, int]], Trigger]
    from_zero: bool
    result: Callable[[Tensors], Tensors]
    """The found tensors as what is stored, stamped and shown."""
    stamp: Callable[[Tensor, Tensors], Tensor]
    size: Callable[[Tensors], float]
    picture: Callable[[Tensors], Tensor]
    meaning: str
    """Of the tensors."""
    seen: str
    """What the picture shows."""


class _SmallestTrigger:
    """What both detectors do."""

    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER, Need.CLASS_NAMES, Need.IMAGE_POOL})
    by_default: ClassVar[bool] = False
    _method: ClassVar[_Method]

    def detect(self, context: Context) -> Problem:
        """A scheduler problem that returns the `Verdict`.

        Each class is a unit of work of its own: stored as soon as it is done, loaded on resume. Its tensors
        are written as evidence at once, so that only the live classes' are in memory.
        """
        plan = make_plan(context)
        clean = yield from clean_predictions(plan.tower, plan.head, plan.pixels, plan.row_keys)
        advance = _progress(context, plan)
        problems = [
            (target, self._class(context, plan, target, clean, advance)) for target in plan.candidates
        ]
        live = max(1, CONCURRENT_ROWS // context.options.batch_size)
        answers = yield Gather(problems, max_live=live)
        measured = [done.unwrap() for done in answers]
        return make_verdict(
            plan,
            context.options,
            [result for result, _ in measured],
            {result.index: artifacts for result, artifacts in measured},
            self._method.size_name,
        )

    def _class(
        self, context: Context, plan: Plan, target: int, clean: Tensor, advance: Callable[[int], None]
    ) -> Problem:
        """`ClassSize` and artifacts of one class."""
        method, name = self._method, f"class-{target:04d}"
        unit = context.units.load(name)
        if unit is not None:
            advance(sum(map(len, plan.rounds)))
            tensors, given, rounds = dict(unit.tensors), unit.tensors["given"], unit.data["rounds"]
            del tensors["given"]
        else:
            found: Found = yield from search(
                plan.search_tower,
                plan.search_head,
                plan.pixels,
                target,
                trigger=self._start(context, plan, target),
                rules=make_rules(context.options, from_zero=method.from_zero),
                rounds=plan.rounds,
                learning_rate=context.options.learning_rate,
                on_step=advance,
            )
            tensors, rounds = method.result(found.tensors), found.rounds
            given = yield from predictions(
                plan.tower, plan.head, plan.pixels, lambda images: method.stamp(images, tensors)
            )
            data = {"class": plan.class_names[target], "kept": found.kept, "rounds": rounds}
            context.units.save(name, data, {**tensors, "given": given})
        eligible = clean != target
        result = ClassSize(
            index=target,
            size=method.size(tensors),
            hits=int((eligible & (given == target)).sum()),
            n=int(eligible.sum()),
            last_cost=rounds[-1][1],
            cost_moved=rounds[-1][1] != rounds[0][1],
            rounds=len(rounds),
        )
        return result, _evidence.save_evidence(
            context,
            target,
            plan.class_names[target],
            tensors,
            method.picture(tensors),
            method.meaning,
            method.seen,
        )

    def _start(self, context: Context, plan: Plan, target: int) -> Trigger:
        shape = (3, int(plan.pixels.shape[2]), int(plan.pixels.shape[3]))
        if context.options.schedule == "published":
            return self._method.random(shape, context.generator("trigger", target))
        return self._method.even(shape)


class NeuralCleanse(_SmallestTrigger):
    """Neural Cleanse (Wang et al., S&P 2019): for every class the smallest mask and pattern that send all
    pictures to it; a class with an abnormally small mask is the backdoor's target."""

    summary: ClassVar[str] = "baseline: the smallest mask for every class, an outlier test across classes"
    options: ClassVar[type] = NeuralCleanseOptions
    references: ClassVar[tuple[str, ...]] = ("doi:10.1109/SP.2019.00031", "arXiv:2604.09101")
    # What clipsec-testkit is to run it with: a pool just large enough for a verdict, and 40 updates. It finds
    # the visual toy, but k = 2 also flags a natural class now and then; see docs/baselines.md.
    conformance: ClassVar[Mapping[str, Any]] = {
        "detects": frozenset({"visual"}),
        "options": {"max_pictures": 96, "epochs": 5},
        "tolerance": 0.05,
        "weakness": "k = 2 among eight classes flags natural ones; see docs/baselines.md",
    }
    _method: ClassVar[_Method] = _Method(
        size_name="mask_l1",
        random=_mask.MaskTrigger.random,
        even=_mask.MaskTrigger.even,
        from_zero=True,
        result=lambda tensors: tensors,
        stamp=_mask.stamp_mask,
        size=_mask.mask_size,
        picture=_evidence.mask_picture,
        meaning=_mask.MEANING,
        seen="the mask, and what it lets through of the pattern",
    )


class PixelBackdoor(_SmallestTrigger):
    """Pixel-Backdoor (Tao et al., CVPR 2022): for every class the fewest changed pixels that send all
    pictures to it; a class that needs abnormally few is the backdoor's target."""

    summary: ClassVar[str] = "baseline: the fewest pixels for every class, an outlier test across classes"
    options: ClassVar[type] = PixelBackdoorOptions
    references: ClassVar[tuple[str, ...]] = ("doi:10.1109/CVPR52688.2022.01301", "arXiv:2604.09101")
    # The toys' triggers change every pixel a little, which few pixels cannot imitate; see docs/baselines.md.
    conformance: ClassVar[Mapping[str, Any]] = {
        "options": {"max_pictures": 64, "epochs": 2},
        "tolerance": 0.05,
        "weakness": "the toys' triggers change every pixel a little, which few pixels cannot imitate",
    }
    _method: ClassVar[_Method] = _Method(
        size_name="perturbed_pixels",
        random=_pixels.PixelTrigger.random,
        even=_pixels.PixelTrigger.even,
        from_zero=False,
        result=_pixels.as_delta,
        stamp=_pixels.stamp_delta,
        size=_pixels.delta_size,
        picture=_evidence.pixels_picture,
        meaning=_pixels.MEANING,
        seen="the perturbed pixels, and the change on mid grey",
    )


def make_rules(options: NeuralCleanseOptions | PixelBackdoorOptions, *, from_zero: bool) -> Rules:
    """The schedule that the options ask for; both count in rounds, which `make_rounds` cuts."""
    stops = isinstance(options, NeuralCleanseOptions) and options.early_stop
    return Rules(
        cost=CostRules(
            initial=options.initial_cost,
            from_zero=from_zero,
            patience=options.patience,
            multiplier=options.multiplier,
        ),
        success_threshold=options.success_threshold,
        settle=1 if options.schedule == "published" else options.patience,
        stop_patience=5 * options.patience if stops else None,
    )


def _progress(context: Context, plan: Plan) -> Callable[[int], None]:
    """Counts finished batches and tells the context."""
    done, what = 0, f"inverting {len(plan.candidates)} classes"

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        context.progress(done / plan.steps, what)

    return advance
