"""What an exposure matrix is made of: the clean reference, the pictures, triggers that fit, notes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from clipsec.data import LabelledSet
from clipsec.errors import UsageError
from clipsec.exposure import identical_branches, named_classes
from clipsec.models import Suspect
from clipsec.protocols import READS, CaptionTrigger, Need, Readout, Trigger, derived_seed
from clipsec.results import TriggerRecord
from clipsec.runner._interfaces import ChosenInterface

HELD_OUT_SHARE = 0.5
AnyTrigger = Trigger | CaptionTrigger


def identical_readout(suspect: Suspect, reference: Suspect, each: ChosenInterface) -> bool:
    """Whether what the interface reads is the same in both, bit for bit."""
    if each.card.readout is Readout.DELIVERED:
        return suspect.digest == reference.digest
    same = identical_branches(suspect, reference)
    needed = {Need.IMAGE_TOWER: "visual", Need.TEXT_TOWER: "textual"}
    return all(needed[need] in same for need in READS[each.card.readout])


def reference_of(suspect: Suspect, reference: Suspect | None) -> tuple[Suspect | None, str]:
    """The clean model, with the suspect's class names, and whose it is."""
    if reference is None:
        if suspect.prompts is None:
            return None, "none"
        own = Suspect(
            name=suspect.base_name or suspect.base.name,
            kind="clip",
            base=suspect.base,
            class_names=suspect.class_names,
            base_name=suspect.base_name,
            device=suspect.device,
        )
        return own, "own base"
    if reference.digest == suspect.digest or (
        suspect.prompts is None and len(identical_branches(suspect, reference)) == 2
    ):
        raise UsageError(
            "the reference is the suspect itself, bit for bit: nothing would be compared",
            remedy="Name the public base that the suspect was made from, or a clean model like it.",
        )
    ours, theirs = suspect.base.visual, reference.base.visual
    if ours is not None and theirs is not None and ours.spec.size != theirs.spec.size:
        raise UsageError(
            f"the reference {reference.name} takes pictures of {theirs.spec.size} pixels, {suspect.name} of "
            f"{ours.spec.size}",
            remedy="Name the public base that the suspect was made from, or a clean model built like it.",
        )
    if reference.prompts is None and reference.class_names != suspect.class_names:
        reference.class_names = suspect.class_names
        reference.__dict__.pop("digest", None)
    if reference.class_names != suspect.class_names:
        raise UsageError(
            f"the reference {reference.name} has other classes than {suspect.name}",
            remedy="Name a clean model with the same classes in the same order, or the public base.",
        )
    return reference, "named"


def pictures_of(
    suspect: Suspect, labelled: LabelledSet | None, held_out: LabelledSet | None, seed: int
) -> tuple[LabelledSet | None, LabelledSet | None]:
    """What a downstream user has and what is measured on, in the suspect's order of classes."""
    if labelled is None:
        return None, None if held_out is None else held_out.for_classes(suspect.class_names)
    ours = labelled.for_classes(suspect.class_names)
    if len(set(ours.labels)) < 2:
        raise UsageError(
            f"{labelled.name} has pictures of {len(set(ours.labels))} of the model's classes",
            remedy="The class folders must carry the model's class names.",
        )
    if held_out is not None:
        return ours, held_out.for_classes(suspect.class_names)
    generator = torch.Generator().manual_seed(derived_seed(seed, "held out"))
    return ours.split(HELD_OUT_SHARE, generator=generator)


def fitting(suspect: Suspect, trigger: AnyTrigger) -> AnyTrigger:
    """The trigger with its target's position in this model. A target it does not have makes N.E. cells; a
    caption stands for the one class that it names.

    Raises `UsageError` for a trigger on pictures of another size.
    """
    visual = suspect.base.visual
    if isinstance(trigger, Trigger) and visual is not None and trigger.size not in (None, visual.spec.size):
        raise UsageError(
            f"the trigger is for pictures of {trigger.size} pixels, {suspect.name} takes {visual.spec.size}",
            remedy="Give the card that belongs to this model.",
        )
    names = suspect.class_names
    if isinstance(trigger, CaptionTrigger) and trigger.target_name not in names:
        named = named_classes(trigger.target_name, names)
        if len(named) == 1:
            trigger = attrs.evolve(trigger, target_name=names[named[0]])
    if trigger.target_name in names:
        return attrs.evolve(trigger, target_index=names.index(trigger.target_name))
    return trigger


def record_of(trigger: AnyTrigger, recovered: bool) -> TriggerRecord:
    what = f"'{trigger.text.text}'" if isinstance(trigger, CaptionTrigger) else trigger.stamp.kind
    return TriggerRecord(
        name=f"{what} to {trigger.target_name}",
        origin=trigger.origin,
        recovered=recovered,
        enters=trigger.enters,
        target=trigger.target_name,
        digest=trigger.digest,
    )


def notes_of(
    role: str, recovered: Sequence[AnyTrigger], test: LabelledSet | None, suspect: Suspect
) -> tuple[str, ...]:
    """What a reader of the matrix has to know; `recovered` are the triggers that a detector found."""
    notes = []
    if recovered:
        notes.append(
            "the triggers were recovered by a detector; the attacker's own may do more, and by other uses"
        )
    if any(isinstance(trigger, CaptionTrigger) for trigger in recovered):
        notes.append(
            "a detector of texts names a caption as the target; the class whose prompt the suspect puts "
            "nearest to it stands for it here"
        )
    if role == "own base":
        notes.append(
            "the reference is the delivery's own base answering zero-shot: what somebody put into the towers "
            "cannot be seen against it; name the public base with --reference"
        )
    if role == "none":
        notes.append("there is no clean reference, so no cell can be concluded: name it with --reference")
    if test is not None and (missing := len(suspect.class_names) - len(set(test.labels))):
        notes.append(f"{missing} of {len(suspect.class_names)} classes have no held-out picture")
    return tuple(notes)
