"""Classification through learned prompts: as delivered, and as a victim would tune them on the model."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from attrs import validators
from torch import Tensor

from clipsec.exposure import encode_pictures
from clipsec.models import SharedPrefixText, embed_words
from clipsec.protocols import Channel, Context, InterfaceCard, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Backward, Encode, Problem, Tower
from clipsec_dife._cases import bank_of, held_out_of, of_others, target_of
from clipsec_dife._facts import AS_CLEAN, OTHERS, Facts, Options, too_few

COOP = "arXiv:2109.01134"


class Delivered(Facts):
    """Classification through the delivery's own prompts, where a mechanism of prompts and trigger works.

    The clean reference answers through its own prompts, or zero-shot when it has none.
    """

    summary: ClassVar[str] = "the delivered prompts classify a triggered picture as the target"
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.DELIVERED,
        channels=(Channel.MECHANISM,),
        event="the picture is classified as the target",
        population=OTHERS,
        reference=AS_CLEAN,
        metric="TS",
    )

    def measure(self, context: Context) -> Problem:
        target, cases = target_of(context), of_others(context, target_of(context))
        head = context.suspect.head(context.decision_dtype)
        pictures = yield from encode_pictures(context, cases, stamped=True)
        answers = (yield Encode(head, pictures)).argmax(dim=1)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            said = (yield Encode(head, everything)).argmax(dim=1)
            utility = (said == held_out_of(context).label_tensor()).int().tolist()
        return Measurement(
            events=tuple((answers == target).int().tolist()),
            utility=tuple(utility),
            index={"held out": cases},
        )


@attrs.frozen(kw_only=True)
class TunedOptions(Options):
    """Options of prompt tuning. CoOp's own: SGD 0.002 with a cosine, up to 200 epochs, 16 shots, 16 words."""

    shots: int = attrs.field(default=16, validator=validators.ge(1))
    """Pictures of each class. Paper (CoOp): 16."""
    steps: int = attrs.field(default=60, validator=validators.ge(1))
    """Updates, each on all shots."""
    learning_rate: float = attrs.field(default=0.01, validator=validators.gt(0))
    """Adam's, falling to 0 by a cosine."""
    words: str = "a photo of a"
    """What the context vectors start from."""


class PromptTuned(Facts):
    """A victim tunes CoOp prompts on clean pictures with the model under test, and deploys them.

    Both towers stay frozen. Each update sees all shots, through features that are computed once; the text
    tower runs and is differentiated by the scheduler.
    """

    summary: ClassVar[str] = (
        "prompts that a victim tunes on the model classify a triggered picture as the target"
    )
    options: ClassVar[type] = TunedOptions
    references: ClassVar[tuple[str, ...]] = (*Facts.references, COOP)
    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_IMAGE,),
        event="the tuned classifier says the target",
        population=OTHERS,
        reference=AS_CLEAN,
        metric="TS",
    )

    def measure(self, context: Context) -> Problem:
        target, bank = target_of(context), bank_of(context)
        shots = _shots(context)
        features = yield from encode_pictures(context, shots, of=bank)
        prompts = yield from self._tuned(context, features, bank.label_tensor()[shots])
        cases = of_others(context, target)
        pictures = yield from encode_pictures(context, cases, stamped=True)
        utility: Sequence[int] = ()
        if not context.triggered:
            everything = yield from encode_pictures(context)
            said = (everything @ prompts.T).argmax(dim=1)
            utility = (said == held_out_of(context).label_tensor()).int().tolist()
        return Measurement(
            events=tuple(((pictures @ prompts.T).argmax(dim=1) == target).int().tolist()),
            utility=tuple(utility),
            index={"shots": shots, "held out": cases},
        )

    def _tuned(self, context: Context, features: Tensor, labels: Tensor) -> Generator[Any, Any, Tensor]:
        """Normalised text features of the tuned prompts `[C, E]`, stored for the other condition."""
        clip, options = context.suspect.base, context.options
        key = hashlib.sha256(features.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        name = f"prompts-{key[:24]}"
        if (kept := context.units.load(name)) is not None:
            return kept.tensors["prompts"]
        ctx = embed_words(clip, options.words).requires_grad_()
        text = SharedPrefixText(
            clip, context.suspect.class_names, len(ctx), context.decision_dtype, context.suspect.device
        )
        tower = Tower(key=text.key, fn=text, label="text of prompts", device=context.suspect.device)
        optimiser = torch.optim.Adam([ctx], lr=options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
        for _ in range(options.steps):
            # One row: the context vectors of all prompts.
            prompts = (yield Encode(tower, ctx[None], micro_batch=1))[0]
            loss = F.cross_entropy(clip.logit_scale * features @ F.normalize(prompts, dim=-1).T, labels)
            optimiser.zero_grad()
            yield Backward(loss)
            optimiser.step()
            schedule.step()
        found = F.normalize((yield Encode(tower, ctx.detach()[None], micro_batch=1))[0], dim=-1)
        context.units.save(name, {}, {"prompts": found})
        return found


def _shots(context: Context) -> list[int]:
    """Rows of the labelled pictures: at most `shots` of each class."""
    bank, rows = bank_of(context), []
    for label in range(len(context.suspect.class_names)):
        own = [row for row, other in enumerate(bank.labels) if other == label]
        order = torch.randperm(len(own), generator=context.generator("shots", label))
        rows += sorted(own[i] for i in order[: context.options.shots].tolist())
    if len({bank.labels[row] for row in rows}) < 2:
        raise too_few("the labelled pictures show fewer than two classes")
    return rows
