"""The toys are what they are said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsec.models import load_suspect, sanity_gate
from clipsec_testkit import Toys, accuracy, caption_success_rate, success_rate

CLEAN = ("clean", "clean-tuned", "clean-prompt")
BACKDOORED = ("visual", "textual", "prompt")


@pytest.mark.parametrize("name", [*CLEAN, *BACKDOORED])
def test_every_toy_works_on_clean_pictures(toy_clips: Toys, name: str) -> None:
    """At least 90% of held-out pictures of eight classes are recognised, and the sanity gate passes."""
    suspect = toy_clips[name].suspect
    assert accuracy(suspect, toy_clips.held_out) > 0.9
    assert sanity_gate(suspect).passed


@pytest.mark.parametrize("name", BACKDOORED)
def test_every_trigger_works_on_its_toy_and_on_no_other(toy_clips: Toys, name: str) -> None:
    """Above 90% on the backdoored toy, below 25% on the clean ones; clean accuracy is kept within 5%."""
    trigger = toy_clips[name].trigger
    assert trigger is not None
    assert trigger.success > 0.9
    assert trigger.base_success < 0.25
    assert trigger.accuracy > trigger.base_accuracy - 0.05
    for other in CLEAN:
        suspect = toy_clips[other].suspect
        rate = (
            caption_success_rate(suspect, trigger)
            if trigger.tensor is None
            else success_rate(suspect, toy_clips.held_out, trigger.apply, trigger.target_index)
        )
        assert rate < 0.25, other


@pytest.mark.parametrize("name", [*CLEAN, *BACKDOORED])
def test_a_toy_as_a_delivery_is_the_same_model(toy_clips: Toys, tmp_path: Path, name: str) -> None:
    """Written as a vendor would and loaded again, the towers have the same digests."""
    toy = toy_clips[name]
    spec = toy.save(tmp_path / "delivery")
    loaded = load_suspect(str(spec), class_names=toy.suspect.class_names)
    assert loaded.base.visual is not None
    assert toy.suspect.base.visual is not None
    assert loaded.base.visual.digest == toy.suspect.base.visual.digest
    assert (loaded.prompts is None) == (toy.prompts is None)
    assert not list(tmp_path.rglob("trigger*"))


def test_a_trigger_card_says_what_it_is(toy_clips: Toys, tmp_path: Path) -> None:
    """Kind, target and what was measured, with the tensor beside it."""
    trigger = toy_clips["visual"].trigger
    assert trigger is not None
    card = json.loads((trigger.save(tmp_path) / "trigger.json").read_text())
    assert (card["kind"], card["target_index"]) == ("additive", trigger.target_index)
    assert card["measured"]["success"] == trigger.success
    assert (tmp_path / "trigger.safetensors").is_file()
