"""What a finding leaves to measure exposure with: triggers on pictures, or words that go into captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F

from clipsec.models import (
    ZERO_SHOT_TEMPLATE,
    ClipModel,
    Suspect,
    encode_texts,
    is_causal,
    pad_with_end,
    text_ends,
)
from clipsec.models._shared_prefix import clean_name
from clipsec.models._text_tower import text_part
from clipsec.protocols import CaptionTrigger, FoundTokens, Trigger, found_tokens, found_triggers
from clipsec.results import Verdict
from clipsec.triggers import TextTrigger

_KINDS = {"start": "prepend", "end": "append"}


def recovered_triggers(
    verdict: Verdict, folder: Path | str, suspect: Suspect
) -> tuple[Trigger | CaptionTrigger, ...]:
    """The triggers on pictures of a finding, the most suspicious class first; of a finding of tokens the
    strongest sequence that can be written as text.

    `folder` is what the artifacts' paths count from (the run's). Empty when it has neither: vectors (AMDET)
    are no text, and pieces of words are other tokens when they are written. Raises `StoreError` for a file
    that is gone or was changed since, `DataError` for one that holds no trigger.
    """
    pictures = found_triggers(verdict, folder)
    if pictures:
        return pictures
    for found in found_tokens(verdict, folder):
        # Users write texts, not tokens: a sequence that does not read back as what was found is another.
        if found.ids and found.text.strip() and reads_back(suspect.base, found):
            return (as_trigger(found, suspect),)
    return ()


def as_trigger(found: FoundTokens, suspect: Suspect) -> CaptionTrigger:
    """Tokens as a trigger in captions. Detectors of texts name a caption as the target; the class that the
    suspect puts it nearest to, without any trigger, stands for it."""
    trigger = CaptionTrigger(
        text=TextTrigger(kind=_KINDS[found.site], text=found.text.strip()),
        target_name=found.target,
        origin=found.origin,
    )
    if not suspect.class_names or not found.target:
        return trigger
    return attrs.evolve(trigger, target_name=nearest_class(suspect, found.target))


def nearest_class(suspect: Suspect, caption: str) -> str:
    """The class whose prompt has the highest cosine with a caption, in the suspect's text tower."""
    prompts = [ZERO_SHOT_TEMPLATE.format(clean_name(name)) for name in suspect.class_names]
    with torch.no_grad():
        features = F.normalize(encode_texts(suspect.base, [*prompts, caption]), dim=-1)
    return suspect.class_names[int((features[:-1] @ features[-1]).argmax())]


def reads_back(clip: ClipModel, found: FoundTokens) -> bool:
    """Whether the tokenizer makes of the text the tokens that were found, and nothing else."""
    row = pad_with_end(clip, text_part(clip).tokenizer([found.text]))
    first, end = int(is_causal(clip)), int(text_ends(clip, row)[0])
    read: Sequence[int] = row[0, first:end].tolist()
    return tuple(read) == found.ids
