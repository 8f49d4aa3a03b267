"""The repair: fine-tunes the delivered prompts on the triggers that were found, and on those found anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from clipsec.data import LabelledSet, to_unit
from clipsec.errors import NotApplicableError
from clipsec.models import PromptLearner, prepare_prompt_head, save_prompts
from clipsec.protocols import Context, Need, Trigger, found_triggers
from clipsec.scheduler import Encode, Gather, Problem
from clipsec.triggers import Stamp
from clipsec_clip_inspector._finetune import Part, Stamped, Tuned, finetune, score_of
from clipsec_clip_inspector._inversion import invert
from clipsec_clip_inspector._options import SearchOptions
from clipsec_clip_inspector._probes import probes
from clipsec_clip_inspector._repair_options import RepairOptions

SEARCH_BATCH, SEARCH_STEPS, SEARCH_RATE = 32, 32, 0.1
"""A search of a round is as long as the paper's inversion: one pass over 1,000 pictures."""
PATIENCE = 0.01
"""Accuracy on the validation pictures that an epoch may lose and still be the best."""


class PromptFinetune:
    """Repair of CLIP-Inspector (arXiv 2604.09101): only the prompts are trained, on clean pictures and on the
    same pictures with the found trigger, all with their true labels.

    Ours besides the paper: the probes of clip-inspector-plus on further copies of the pictures, a search for
    what still works, repeated a few times (`rounds`), and an epoch that is chosen on pictures set apart.
    """

    summary: ClassVar[str] = "fine-tunes learned prompts until the found trigger does nothing"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.IMAGE_TOWER, Need.TEXT_TOWER, Need.PROMPT_HEAD, Need.CLASS_NAMES, Need.LABELS}
    )
    options: ClassVar[type] = RepairOptions
    references: ClassVar[tuple[str, ...]] = ("arXiv:2604.09101",)
    conformance: ClassVar[Mapping[str, Any]] = {"repairs": "prompt", "options": {"epochs": 5, "rounds": 1}}

    def repair(self, context: Context) -> Problem:
        """A scheduler problem that returns the folder of the repaired delivery.

        Raises `NotApplicableError` for models without learned prompts and findings without a trigger.
        """
        prompts, options, visual = context.suspect.prompts, context.options, context.suspect.base.visual
        if prompts is None or visual is None or context.labelled is None or context.output is None:
            raise NotApplicableError(
                f"{context.suspect.name} has no learned prompts that could be trained",
                remedy="This repair is for prompt-tuned models (CoOp, CoCoOp).",
            )
        triggers = triggers_for(context)
        broad = options.probes and options.control == "right"
        generic = generic_stamps(triggers, visual.spec.size) if broad else ()
        train_set, validation_set = context.labelled, None
        if options.stop_success is not None:
            train_set, validation_set = context.labelled.split(
                options.validation, generator=context.generator("validation")
            )
        learner = PromptLearner(context.suspect.base, prompts, dtype=context.search_dtype)
        stamped = yield from stamped_features(context, train_set, generic, context.search_dtype)
        floor = 0.0
        if validation_set is not None:
            first = yield from features_of(context, validation_set, triggers)
            floor = score_of(learner, first).accuracy - PATIENCE
        rounds: list[Tuned] = []
        for number in range(options.rounds + 1 if triggers else 1):
            if number > 0:
                found = yield from search_again(context, learner, train_set, triggers, number)
                triggers = (*triggers, *found)
            train = (yield from features_of(context, train_set, triggers)).with_generic(stamped)
            validation = None
            if validation_set is not None:
                validation = yield from features_of(context, validation_set, triggers)
            tuned = finetune(
                learner,
                train,
                validation,
                options,
                context.suspect.base.logit_scale,
                context.generator("batches", number),
                floor=floor,
            )
            learner = PromptLearner(context.suspect.base, tuned.prompts, dtype=context.search_dtype)
            rounds.append(tuned)
        return save_prompts(
            context.output,
            learner.state(),
            base=context.suspect.base_spec or context.suspect.base_name,
            epoch=sum(tuned.best for tuned in rounds),
            clip=context.suspect.base,
            extra={"repair": [[attrs.asdict(score) for score in tuned.history] for tuned in rounds]},
        )


def triggers_for(context: Context) -> tuple[Trigger, ...]:
    """What the control stamps on pictures; see `RepairOptions.control`.

    Raises `NotApplicableError` when the finding holds no such trigger.
    """
    assert context.finding is not None
    assert context.finding_folder is not None
    control = context.options.control
    if control == "clean":
        return ()
    found = found_triggers(context.finding, context.finding_folder, flagged=control != "wrong")
    if control == "wrong":
        flagged = {row.index for row in context.finding.evidence if row.flagged}
        found = tuple(each for each in found if each.target_index not in flagged)[-1:]
    if not found:
        whose = "of a class that it does not flag" if control == "wrong" else "of its target"
        raise NotApplicableError(
            f"the finding holds no trigger {whose} that this control can use",
            remedy="Audit with clip-inspector-plus, or with clip-inspector and schedule=full.",
        )
    if control == "noise":
        generator = context.generator("noise")
        visual = context.suspect.base.visual
        assert visual is not None
        found = tuple(aimed(noise(visual.spec.size, radius(each), generator), each) for each in found)
    return found


def generic_stamps(found: Sequence[Trigger], size: int) -> tuple[Trigger, ...]:
    """Every probe of clip-inspector-plus for pictures of `size` pixels, aimed at each class that a found
    trigger aims at."""
    first = {trigger.target_index: trigger for trigger in reversed(found)}
    return tuple(
        attrs.evolve(trigger, stamp=probe.stamp, origin="prompt-finetune")
        for trigger in first.values()
        for probe in probes(size)
    )


def aimed(delta: Tensor, like: Trigger) -> Trigger:
    """An additive trigger that aims at the class of another."""
    return attrs.evolve(like, stamp=Stamp("additive", {"delta": delta}), origin="prompt-finetune")


def delta_of(trigger: Trigger) -> Tensor:
    """`[3, size, size]` in pixel units, of an additive trigger."""
    return trigger.stamp.tensors["delta"]


def radius(trigger: Trigger) -> float:
    """Largest change of an additive trigger; for other kinds, which have none, CLIP-Inspector's default."""
    return (
        float(delta_of(trigger).abs().max()) if trigger.stamp.kind == "additive" else SearchOptions().epsilon
    )


def noise(size: int, bound: float, generator: torch.Generator) -> Tensor:
    """Random signs times `bound`, `[3, size, size]`: noise of this l-infinity norm."""
    return bound * (2.0 * torch.randint(0, 2, (3, size, size), generator=generator) - 1.0)


def features_of(context: Context, labelled: LabelledSet, triggers: Sequence[Trigger]) -> Problem:
    """A `Part`: image features of the pictures, clean and under each trigger, in fp32, through the
    scheduler's cache, so that no picture is encoded twice."""
    visual = context.suspect.base.visual
    assert visual is not None
    pixels = to_unit(labelled.pixels(visual.spec))
    clean = yield Encode(context.suspect.image_tower(context.decision_dtype), pixels)
    stamped = yield from stamped_features(context, labelled, triggers, context.decision_dtype)
    return Part(clean, stamped.features, labelled.label_tensor(), stamped.targets, stamped.base)


def stamped_features(
    context: Context, labelled: LabelledSet, triggers: Sequence[Trigger], dtype: torch.dtype
) -> Problem:
    """`Stamped`: features of the pictures under each trigger, and what the base says of them."""
    suspect = context.suspect
    assert suspect.base.visual is not None
    tower, head = suspect.image_tower(dtype), suspect.zero_shot_head(dtype)
    pixels = to_unit(labelled.pixels(suspect.base.visual.spec)) if triggers else None
    features, base = [], []
    for trigger in triggers:
        features.append((yield Encode(tower, trigger.apply(pixels))))
        base.append((yield Encode(head, features[-1])))
    return Stamped(tuple(features), tuple(trigger.target_index for trigger in triggers), tuple(base))


def search_again(
    context: Context, learner: PromptLearner, labelled: LabelledSet, triggers: Sequence[Trigger], number: int
) -> Problem:
    """For each target, what works best on the prompts as they are now: a list of `Trigger`."""
    suspect, dtype = context.suspect, context.search_dtype
    assert suspect.base.visual is not None
    pixels = labelled.pixels(suspect.base.visual.spec)
    generator = context.generator("search", number)
    rows = torch.cat(
        [
            torch.randperm(len(pixels), generator=generator)
            for _ in range(math.ceil(SEARCH_STEPS * SEARCH_BATCH / len(pixels)))
        ]
    )
    head = prepare_prompt_head(suspect.base, learner.state(), dtype, suspect.device)
    epsilon = context.options.epsilon
    first = {trigger.target_index: trigger for trigger in reversed(triggers)}
    searches = [
        (
            target,
            invert(
                suspect.image_tower(dtype),
                head,
                pixels,
                target,
                batches=rows.split(SEARCH_BATCH)[:SEARCH_STEPS],
                epsilon=radius(trigger) if epsilon is None else epsilon,
                learning_rate=SEARCH_RATE,
            ),
        )
        for target, trigger in first.items()
    ]
    context.progress(number / (context.options.rounds + 1), f"round {number} of {context.options.rounds}")
    answers = yield Gather(searches)
    return [aimed(done.unwrap().delta, first[done.tag]) for done in answers]
