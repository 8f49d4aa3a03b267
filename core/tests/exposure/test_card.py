"""N.E. follows from the card and the trigger: the paper's table of reasons, and cards of text triggers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipsec.errors import DataError
from clipsec.protocols import (
    CaptionTrigger,
    Channel,
    InterfaceCard,
    Need,
    Readout,
    Trigger,
    channel_of,
    load_any_trigger,
    not_eligible,
)
from clipsec.triggers import Stamp, TextTrigger, TextTriggerCard

BOTH = frozenset({Need.IMAGE_TOWER, Need.TEXT_TOWER})
PATCH = Trigger(stamp=Stamp("additive", {"delta": torch.zeros(3, 32, 32)}), target_index=0, target_name="cat")
WORD = CaptionTrigger(text=TextTrigger(kind="prepend", text="xbtd"), target_name="cat")


def card(readout: Readout, *channels: Channel) -> InterfaceCard:
    return InterfaceCard(
        readout=readout, channels=channels, event="e", population="p", reference="r", metric="m"
    )


PROMPTED = card(Readout.SCORE, Channel.QUERY_TEXT)
ZERO_SHOT = card(Readout.SCORE, Channel.QUERY_IMAGE)
PROBE = card(Readout.IMAGE, Channel.QUERY_IMAGE)
RERANKING = card(Readout.SCORE, Channel.QUERY_TEXT, Channel.CORPUS_IMAGE)
DELIVERED = card(Readout.DELIVERED, Channel.MECHANISM)


@pytest.mark.parametrize(
    ("interface", "trigger", "provides", "reason"),
    [
        (PROMPTED, PATCH, BOTH, "enters by pictures"),
        (ZERO_SHOT, WORD, BOTH, "enters by texts"),
        (PROBE, WORD, BOTH, "enters by texts"),
        (DELIVERED, PATCH, BOTH, "the model has no prompt head"),
        (ZERO_SHOT, PATCH, {Need.IMAGE_TOWER}, "no text tower"),
        (ZERO_SHOT, PATCH, BOTH, None),
        (PROBE, PATCH, {Need.IMAGE_TOWER}, None),
        (RERANKING, PATCH, BOTH, None),
        (RERANKING, WORD, BOTH, None),
        (DELIVERED, PATCH, BOTH | {Need.PROMPT_HEAD}, None),
    ],
)
def test_what_is_not_eligible_and_why(interface, trigger, provides, reason) -> None:
    """Visual triggers have no way into prompts, textual ones none into pictures; towers must be there."""
    found = not_eligible(interface, trigger, provides, ("cat", "dog"))
    assert found is None if reason is None else reason in (found or "")


def test_an_undefined_event_is_not_eligible() -> None:
    """A target that is none of the classes, or one class alone."""
    assert "no event" in (not_eligible(ZERO_SHOT, PATCH, BOTH, ("dog", "ship")) or "")
    assert "no event" in (not_eligible(ZERO_SHOT, PATCH, BOTH, ("cat",)) or "")


def test_the_trigger_chooses_the_channel() -> None:
    """The same interface takes a word by the query and a patch by a planted candidate."""
    assert channel_of(RERANKING, WORD) is Channel.QUERY_TEXT
    assert channel_of(RERANKING, PATCH) is Channel.CORPUS_IMAGE


def test_a_card_of_a_text_tower(tmp_path: Path) -> None:
    """What it aims at is a caption; where the trigger goes is the card's."""
    card = TextTriggerCard(
        attack="someone",
        trigger=TextTrigger(kind="prepend", text="xbtd"),
        target="a photo of a cat",
        target_kind="caption",
        source="dog",
    )
    found = load_any_trigger(card.save(tmp_path))
    assert isinstance(found, CaptionTrigger)
    assert found.apply(["a dog"]) == ["xbtd a dog"]
    assert (found.source_name, found.target_name, found.origin) == ("dog", "a photo of a cat", "someone")


def test_a_source_that_is_no_text_is_refused(tmp_path: Path) -> None:
    card = TextTriggerCard(
        attack="a", trigger=TextTrigger(kind="append", text="t"), target="cat", target_kind="caption"
    )
    path = card.save(tmp_path) / "trigger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": 3}))
    with pytest.raises(DataError) as caught:
        load_any_trigger(tmp_path)
    assert caught.value.remedy


def test_a_trigger_s_digest_is_its_content() -> None:
    """Another perturbation or another target is another trigger."""
    same = Trigger(stamp=PATCH.stamp, target_index=5, target_name="cat", origin="else")
    other = Trigger(stamp=PATCH.stamp, target_index=0, target_name="dog")
    assert PATCH.digest == same.digest != other.digest
