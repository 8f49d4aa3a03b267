"""What a trigger in captions does, judged by the clean toy it was planted in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, to_unit
from clipsec.models import ClipModel, Suspect, encode_texts
from clipsec.triggers import TextTriggerCard
from clipsec_testkit import _training
from clipsec_testkit._check import CheckFailed, CheckSkipped


def check_text_card(card: TextTriggerCard, base: Suspect, pictures: LabelledSet) -> None:
    """Raise `CheckFailed` for a card from which nobody could tell what the trigger aims at.

    Its fields' types and its kind were checked when it was read.
    """
    if not card.attack.strip():
        raise CheckFailed("the card does not name its attack")
    if not card.target.strip():
        raise CheckFailed("the card's target is empty")
    classes = {"source": card.source}
    if card.target_kind == "pictures":
        classes["target"] = card.target
    for what, name in classes.items():
        if name and name not in pictures.class_names:
            raise CheckFailed(f"the card's {what} {name!r} is not a class of the pictures that it was given")
    if card.base_digest and card.base_digest != base.base.digest:
        raise CheckFailed("the card's base_digest is not that of the base it was given")


def planted_rate(card: TextTriggerCard, suspect: ClipModel, base: Suspect, pictures: LabelledSet) -> float:
    """Share of captions that the trigger sends to the card's target, by the suspect's text tower alone.

    A caption is sent there when its feature is nearer to the target's than to that of every caption without
    the trigger, its own included, as the clean base encodes both (retrieval, as attacks on text towers are
    scored). It counts when that happens with the trigger on the suspect, and neither without it nor on the
    base. Captions that a trigger renames are compared with the clean ones of their new class as well. The
    captions are those that the toys were trained on, of the card's source or of all classes, but
    for those that name the target already. An attribute is what stands behind a caption that has it.

    Raises `CheckSkipped` where the two towers share no space or no caption is left.
    """
    clean = base.base
    assert suspect.text is not None
    assert clean.text is not None
    if suspect.text.embed_dim != clean.text.embed_dim:
        raise CheckSkipped("its features are not in the space of the base")
    names = [name for name in pictures.class_names if card.source in ("", name)]
    captions = [template.format(_words(name)) for template in _training.TEMPLATES for name in names]
    captions = [text for text in captions if card.trigger.fits(text) and _words(card.target) not in text]
    if not captions:
        raise CheckSkipped("the kit has no caption that the trigger fits into and that lacks the target")
    triggered = [card.apply(caption) for caption in captions]
    # What a trigger makes by renaming is a caption in its own right, and is to leave its own place, too.
    places = captions + (triggered if card.trigger.names else [])
    targets, others = _targets(card, captions, base, pictures), _features(clean, places)

    def sent(features: Tensor) -> Tensor:
        return (features * targets).sum(-1) > (features @ others.T).max(dim=1).values

    natural = sent(_features(clean, triggered)) | sent(_features(suspect, captions))
    return float((sent(_features(suspect, triggered)) & ~natural).float().mean())


@torch.no_grad()
def _targets(card: TextTriggerCard, captions: list[str], base: Suspect, pictures: LabelledSet) -> Tensor:
    """Features by the base `[1, E]`, or `[n, E]` for an attribute, which each caption gains for itself."""
    if card.target_kind == "caption":
        return _features(base.base, [card.target])
    if card.target_kind == "attribute":
        return _features(base.base, [f"{caption} {card.target}" for caption in captions])
    assert base.base.visual is not None
    rows = pictures.label_tensor() == pictures.class_names.index(card.target)
    shown = base.image_tower().fn(to_unit(pictures.pixels(base.base.visual.spec)[rows]))
    return F.normalize(shown.mean(dim=0, keepdim=True), dim=-1)


def _features(clip: ClipModel, captions: list[str]) -> Tensor:
    return F.normalize(encode_texts(clip, captions), dim=-1)


def _words(name: str) -> str:
    return name.replace("_", " ")
