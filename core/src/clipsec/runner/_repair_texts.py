"""Measuring a repair on captions: triggers in captions, and how alike clean captions stay.

A triggered caption counts as sent to the target when the model itself says so, or when its feature lies so
in the space as it was before. Either alone can be deceived: a tower that only moved its target caption away
would look repaired to itself, while pictures are still found by the old place.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from clipsec.data import LabelledSet, TextPool, to_unit
from clipsec.errors import ContractError, DataError, UsageError
from clipsec.models import (
    ZERO_SHOT_TEMPLATE,
    Suspect,
    embed_ids,
    encode_texts,
    end_positions,
    insert_tokens,
    is_causal,
    pool_hidden_states,
    prepare_text_tower,
    text_ends,
    token_table,
    truncate_ids,
)
from clipsec.protocols import FoundTokens, derived_seed
from clipsec.results import Likeness, Rate
from clipsec.runner._repair_pictures import rate_of
from clipsec.scheduler import Scheduler
from clipsec.triggers import TextTriggerCard, captured, retrieved

HELD_OUT_CAPTIONS = 200
"""Captions that a repair is measured on and does not see, or half of what there are."""
FEWEST = 20
InCaptions = FoundTokens | TextTriggerCard


def split_captions(pool: TextPool, seed: int) -> tuple[TextPool, tuple[str, ...]]:
    """Captions to learn from and to measure on, each once, drawn by the seed. Raises `DataError`."""
    texts = list(dict.fromkeys(pool.texts))
    kept = min(HELD_OUT_CAPTIONS, len(texts) // 2)
    if kept < FEWEST:
        raise DataError(
            f"{pool.name} holds {len(texts)} captions; a repair needs {2 * FEWEST}",
            remedy="Bring some hundred captions, one a line.",
        )
    generator = torch.Generator().manual_seed(derived_seed(seed, "held-out captions"))
    order = [texts[place] for place in torch.randperm(len(texts), generator=generator).tolist()]
    return TextPool(tuple(order[kept:]), name=pool.name), tuple(order[:kept])


def hijacked(pictures: Tensor, prompts: Tensor, asked: Tensor, source: int) -> Tensor:
    """Which pictures of the target the triggered prompt of the source wins, the target's clean prompt being
    there too: the query hijack rate (arXiv 2606.17815). Unit features `pictures [n, E]`, `prompts [classes,
    E]`, `asked [E]`; boolean `[n]`."""
    slots = prompts.clone()
    slots[source] = asked
    return (pictures @ slots.T).argmax(dim=1) == source


@attrs.define(eq=False)
class Side:
    """One model, and what captions and pictures are in its space; features are unit and kept."""

    model: Suspect
    images: Suspect | None
    """Whose image tower shows pictures: its own, or that of the clean reference."""
    scheduler: Scheduler
    _texts: dict[tuple[str, ...], Tensor] = attrs.field(factory=dict, init=False, repr=False)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """`[n, E]`."""
        key = tuple(texts)
        if key not in self._texts:
            self._texts[key] = F.normalize(encode_texts(self.model.base, texts), dim=-1).cpu()
        return self._texts[key]

    def pictures(self, labelled: LabelledSet, label: int) -> Tensor:
        """`[n, E]`, of one class."""
        assert self.images is not None
        assert self.images.base.visual is not None
        pixels = labelled.pixels(self.images.base.visual.spec)[labelled.label_tensor() == label]
        if not len(pixels):
            return torch.zeros(0, self.images.base.visual.embed_dim)
        return F.normalize(self.scheduler.encode(self.images.image_tower(), to_unit(pixels)), dim=-1)

    def inserted(self, trigger: FoundTokens, captions: Sequence[str]) -> Tensor:
        """Features `[n, E]` of captions with the sequence in them; captions without room are left out."""
        clip = self.model.base
        assert clip.text is not None
        ids = clip.text.tokenizer(list(captions))
        ends = text_ends(clip, ids)
        room = ends + len(trigger) < ids.shape[1]
        ids, ends = ids[room], ends[room]
        at = ends if trigger.site == "end" else torch.full_like(ends, int(is_causal(clip)))
        tokens = torch.tensor(trigger.ids) if trigger.vectors is None else ids.new_zeros(len(trigger))
        rows, origin = insert_tokens(ids, tokens, at)
        if trigger.vectors is None:
            rows = truncate_ids(clip, rows)
            tower = prepare_text_tower(clip, torch.float32, self.model.device, rows.shape[1])
            return F.normalize(self.scheduler.encode(tower, rows), dim=-1)
        embedded = embed_ids(clip, rows).cpu()
        embedded[origin < 0] = trigger.vectors.repeat(len(rows), 1)
        hidden = self.scheduler.encode(self.model.embedding_tower(), embedded)
        return F.normalize(pool_hidden_states(clip, hidden, end_positions(clip, rows)), dim=-1).detach()


def check_texts(model: Suspect, names: Sequence[str], triggers: Sequence[InCaptions]) -> None:
    """Raise `UsageError` for triggers in captions that cannot be measured on this model, or without pictures
    of a class that they are about; there are such of the classes `names`."""
    if triggers and (model.base.text is None or model.prompts is not None):
        raise UsageError(
            f"a trigger in captions cannot be measured on {model.name}, which reads no captions",
            remedy="Name the text tower that the trigger was planted in.",
        )
    for trigger in triggers:
        if isinstance(trigger, FoundTokens):
            if not _fits(model, trigger):
                raise UsageError(
                    f"the finding's sequence {trigger.text!r} does not fit the text tower of {model.name}",
                    remedy="Name the run of this very model.",
                )
            continue
        wanted = [trigger.source, trigger.target] if trigger.source else []
        wanted += [trigger.target] if trigger.target_kind == "pictures" else []
        missing = [name for name in wanted if name not in names]
        if missing:
            raise UsageError(
                f"the trigger {trigger.trigger.text!r} is about the class {missing[0]!r}, and there are no "
                "labelled pictures of it",
                remedy="Name labelled pictures that have this class with --labelled, and for a text tower "
                "alone a clean model with both towers with --reference.",
            )


def measure_text(
    side: Side,
    judge: Side | None,
    trigger: InCaptions,
    captions: Sequence[str],
    labelled: LabelledSet | None,
) -> Rate:
    """Success of one trigger in the model of `side`, on held-out captions (or pictures, for a trigger that
    works on one class); `judge` has the space as it was before, None where that is no longer the model's."""
    spaces = [side] if judge is None or judge is side else [side, judge]
    if isinstance(trigger, FoundTokens):
        found = side.inserted(trigger, captions)
        return rate_of(torch.stack([captured(found, each.texts(captions)) for each in spaces]).any(dim=0))
    if trigger.source:
        assert labelled is not None
        names = labelled.class_names
        source, target = names.index(trigger.source), names.index(trigger.target)
        prompts = [_template(trigger).format(name.replace("_", " ")) for name in names]
        asked = side.texts([trigger.apply(prompts[source])])[0]
        pictures = side.pictures(labelled, target)
        return rate_of(hijacked(pictures, side.texts(prompts), asked, source))
    texts = [text for text in captions if trigger.trigger.fits(text)]
    found = side.texts([trigger.apply(text) for text in texts])
    events = [
        retrieved(found, _targets(each, trigger, texts, labelled), each.texts(captions)) for each in spaces
    ]
    return rate_of(torch.stack(events).any(dim=0))


def comparable(model: Suspect, reference: Suspect) -> bool:
    """Whether two text towers read the same tokens into one space, so that one can judge the other."""
    ours, theirs = model.base.text, reference.base.text
    return (
        ours is not None
        and theirs is not None
        and (ours.embed_dim, ours.context_length) == (theirs.embed_dim, theirs.context_length)
        and token_table(model.base).shape == token_table(reference.base).shape
    )


def likeness(
    before: Suspect, after: Suspect, reference: Suspect | None, captions: Sequence[str]
) -> Likeness | None:
    """How alike clean captions stayed; None where the image tower is another one now, since features then
    may move with it. Raises `ContractError` when the repair lost a tower."""
    old, new = before.base.visual, after.base.visual
    if after.base.text is None or (old is not None and new is None):
        raise ContractError(
            "the repaired model lacks a tower that the suspect has",
            remedy="Report it to the authors of the repair.",
        )
    if old is not None and new is not None and old.digest != new.digest:
        return None
    ours = _features(before, captions)
    now = _features(after, captions)
    if now.shape != ours.shape:
        raise ContractError(
            f"the repaired text tower gives {now.shape[1]} numbers a text, the suspect {ours.shape[1]}",
            remedy="Report it to the authors of the repair.",
        )
    cosines = (now * ours).sum(dim=-1)
    clean = None if reference is None else _features(reference, captions)
    return Likeness(
        to_suspect=float(cosines.mean()),
        lowest=float(cosines.min()),
        n=len(captions),
        before_to_base=None if clean is None else float((ours * clean).sum(dim=-1).mean()),
        after_to_base=None if clean is None else float((now * clean).sum(dim=-1).mean()),
    )


def _features(model: Suspect, captions: Sequence[str]) -> Tensor:
    return F.normalize(encode_texts(model.base, captions), dim=-1).cpu()


def _targets(side: Side, card: TextTriggerCard, texts: Sequence[str], labelled: LabelledSet | None) -> Tensor:
    """Unit features of what triggered captions are to become, `[n, E]` or `[1, E]`."""
    if card.target_kind == "attribute":
        return side.texts([f"{text.rstrip(' .')} {card.target}" for text in texts])
    if card.target_kind == "pictures":
        assert labelled is not None
        shown = side.pictures(labelled, labelled.class_names.index(card.target))
        if not len(shown):
            raise DataError(
                f"no held-out picture shows {card.target}, which the trigger aims at",
                remedy="Bring held-out pictures of every class.",
            )
        return F.normalize(shown.mean(dim=0, keepdim=True), dim=-1)
    return side.texts([card.target])


def _template(card: TextTriggerCard) -> str:
    """The prompt that the attack says it works on."""
    stated = card.parameters.get("template")
    return stated if isinstance(stated, str) and stated.count("{}") == 1 else ZERO_SHOT_TEMPLATE


def _fits(model: Suspect, trigger: FoundTokens) -> bool:
    assert model.base.text is not None
    if trigger.vectors is not None:
        return trigger.vectors.shape[1] == model.base.text.width
    return max(trigger.ids) < len(token_table(model.base))
