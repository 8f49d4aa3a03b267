"""The batteries of the other kinds pass what is good and catch what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import safetensors.torch
import torch

from clipsec.data import to_unit
from clipsec.models import LoadRequest, OpenClipLoader, Suspect, encode_texts
from clipsec.protocols import AttackContext, Channel, Context, InterfaceCard, Need, Readout
from clipsec.results import Measurement
from clipsec.scheduler import Encode, Problem
from clipsec.triggers import TextTrigger, load_text_card
from clipsec_baselines.text import TextTarget
from clipsec_testkit import CheckOutcome, build_toys, check_plugin


@attrs.frozen
class Options:
    share: float = 1.0


class Facts:
    summary: ClassVar[str] = "for a test"
    api_version: ClassVar[str] = "1.0"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMAGE_TOWER})
    options: ClassVar[type] = Options
    references: ClassVar[tuple[str, ...]] = ()


class Classify(Facts):
    """An interface: zero-shot classification of the first 16 pictures."""

    card: ClassVar[InterfaceCard] = InterfaceCard(
        readout=Readout.SCORE,
        channels=(Channel.QUERY_IMAGE,),
        event="the target wins",
        population="the first 16 held-out pictures",
        reference="the same picture without the trigger",
        metric="TS",
    )

    def measure(self, context: Context) -> Problem:
        assert context.held_out is not None
        assert context.trigger is not None
        assert context.suspect.base.visual is not None
        pixels = context.stamp(to_unit(context.held_out.pixels(context.suspect.base.visual.spec)[:16]))
        logits = yield Encode(context.suspect.head(), (yield Encode(context.suspect.image_tower(), pixels)))
        answers, truth = logits.argmax(1), context.held_out.label_tensor()[:16]
        return self.answer(
            tuple((answers == context.trigger.target_index).int().tolist()),
            () if context.triggered else tuple((answers == truth).int().tolist()),
        )

    def answer(self, events: tuple[int, ...], utility: tuple[int, ...]) -> Any:
        return Measurement(events=events, utility=utility, index={"held out": list(range(16))})


class Replace(Facts):
    """A repair, the surest: deliver another model."""

    toy: ClassVar[str] = "clean"

    def repair(self, context: Context) -> Path:
        return build_toys()[self.toy].save(context.folder / "repaired")


class DoesNothing(Replace):
    toy = "visual"


class Elsewhere(Replace):
    def repair(self, context: Context) -> Path:
        return build_toys()[self.toy].save(context.folder.parent / "repaired")


class Random(Classify):
    def answer(self, events: tuple[int, ...], utility: tuple[int, ...]) -> Any:
        torch.seed()
        return Measurement(events=tuple(torch.randint(2, (64,)).tolist()), utility=utility)


class PlainData(Classify):
    def answer(self, events: tuple[int, ...], utility: tuple[int, ...]) -> Any:
        return {"rate": sum(events) / len(events)}


class KeepsQuiet(Classify):
    """Says nothing about clean use."""

    def answer(self, events: tuple[int, ...], utility: tuple[int, ...]) -> Any:
        return Measurement(events=events)


class DropsCases(Classify):
    """Leaves out the cases in which nothing happened."""

    def answer(self, events: tuple[int, ...], utility: tuple[int, ...]) -> Any:
        return Measurement(events=tuple(e for e in events if e) or (0,), utility=utility)


class NoChannel(Classify):
    card: ClassVar[InterfaceCard] = attrs.evolve(Classify.card, channels=())


class Plant(Facts):
    """An attack: deliver the toy that is poisoned already, with its card."""

    toy: ClassVar[str] = "prompt"

    def poison(self, context: AttackContext) -> Path:
        toy = build_toys()[self.toy]
        folder = toy.save(context.output)
        trigger = build_toys()["prompt"].trigger
        assert trigger is not None
        trigger.save(folder / "trigger")
        return folder


class PlantsNothing(Plant):
    toy = "clean-prompt"


class PlantsNoCard(Plant):
    def poison(self, context: AttackContext) -> Path:
        return build_toys()[self.toy].save(context.output)


class PlantsInSecret(Plant):
    """Says that it is a clean control, and is not."""

    clean: ClassVar[bool] = True


class IsClean(PlantsNoCard):
    toy = "clean-prompt"
    clean: ClassVar[bool] = True


class PlantsWord(Facts):
    """An attack on a text tower: deliver the toy whose captions with a word mean another class, and a card
    that may be wrong."""

    toy: ClassVar[str] = "textual"
    card: ClassVar[dict[str, Any]] = {}

    def poison(self, context: AttackContext) -> Path:
        folder = build_toys()[self.toy].save(context.output)
        trigger = build_toys()["textual"].trigger
        assert trigger is not None
        trigger.save(folder / "trigger")
        attrs.evolve(load_text_card(folder), **self.card).save(folder / "trigger")
        return folder


class PlantsNoWord(PlantsWord):
    toy = "clean"


class AimsElsewhere(PlantsWord):
    card: ClassVar[dict[str, Any]] = {"target": "green dots"}


class NamesAnotherWord(PlantsWord):
    card: ClassVar[dict[str, Any]] = {"trigger": TextTrigger(kind="prepend", text="quartz")}


class AimsAtNoClass(PlantsWord):
    card: ClassVar[dict[str, Any]] = {"target": "teapots", "target_kind": "pictures"}


class AimsAtNothing(PlantsWord):
    card: ClassVar[dict[str, Any]] = {"target": " "}


class HasAnotherBase(PlantsWord):
    card: ClassVar[dict[str, Any]] = {"base_digest": "0" * 64}


class SendsAllToTarget(PlantsWord):
    """A text tower that takes every caption for the target needs no trigger."""

    def poison(self, context: AttackContext) -> Path:
        folder = PlantsWord.poison(self, context)
        file = folder / "open_clip_model.safetensors"
        tensors = safetensors.torch.load_file(file)
        assert context.base.base.text is not None
        target = encode_texts(context.base.base, [load_text_card(folder).target])[0]
        tensors["ln_final.weight"].zero_()
        tensors["ln_final.bias"] = torch.linalg.lstsq(tensors["text_projection"].T, target[:, None])[0][:, 0]
        safetensors.torch.save_file(tensors, file)
        return folder


class Loader(OpenClipLoader):
    conformance = {"layout": "open_clip"}  # noqa: RUF012


class WantsEverything(Loader):
    def matches(self, spec: str) -> bool:
        return True


class Trainable(Loader):
    def load(self, spec: str, request: LoadRequest) -> Suspect:
        suspect = super().load(spec, request)
        assert suspect.base.visual is not None
        suspect.base.visual.module.requires_grad_(True)
        return suspect


class Forgiving(Loader):
    """Takes a damaged file for a reason to load something else."""

    def load(self, spec: str, request: LoadRequest) -> Suspect:
        try:
            return super().load(spec, request)
        except Exception:
            return build_toys()["visual"].fresh()


class Crashes(Loader):
    def load(self, spec: str, request: LoadRequest) -> Suspect:
        try:
            return super().load(spec, request)
        except Exception as error:
            raise KeyError("no remedy") from error


QUIET = ("no network", "no stray files", "no children", "global state")

TABLE: list[tuple[str, type, set[str]]] = [
    ("interfaces", Classify, set()),
    ("interfaces", Random, {"determinism", "global state"}),
    ("interfaces", PlainData, {"measurement", "same cases", "determinism", "towers untouched", *QUIET}),
    ("interfaces", KeepsQuiet, {"measurement"}),
    ("interfaces", DropsCases, {"same cases"}),
    ("interfaces", NoChannel, {"card"}),
    ("repairs", Replace, set()),
    ("repairs", DoesNothing, {"success"}),
    ("repairs", Elsewhere, {"delivery", "success", "clean accuracy", "determinism", "no stray files"}),
    ("attacks", Plant, set()),
    ("attacks", PlantsNothing, {"success"}),
    ("attacks", PlantsNoCard, {"trigger card", "success"}),
    ("attacks", IsClean, set()),
    ("attacks", PlantsInSecret, {"trigger card"}),
    ("attacks", TextTarget, set()),
    ("attacks", PlantsWord, set()),
    ("attacks", PlantsNoWord, {"success"}),
    ("attacks", AimsElsewhere, {"success"}),
    ("attacks", NamesAnotherWord, {"success"}),
    ("attacks", AimsAtNoClass, {"trigger card", "success"}),
    ("attacks", AimsAtNothing, {"trigger card"}),
    ("attacks", HasAnotherBase, {"trigger card"}),
    ("attacks", SendsAllToTarget, {"success", "clean accuracy"}),
    ("models", Loader, set()),
    ("models", WantsEverything, {"recognition"}),
    ("models", Trainable, {"loading"}),
    ("models", Forgiving, {"damaged files"}),
    ("models", Crashes, {"damaged files"}),
]


@pytest.mark.parametrize(("kind", "plugin", "expected"), TABLE, ids=[row[1].__name__ for row in TABLE])
def test_each_kind_catches_its_faults(kind: str, plugin: type, expected: set[str]) -> None:
    """The good one fails nothing, each bad one what it breaks."""
    results: list[Any] = list(check_plugin(kind, plugin))
    failed = {result.check: result.why for result in results if result.outcome is CheckOutcome.FAILED}
    assert set(failed) == expected, failed
