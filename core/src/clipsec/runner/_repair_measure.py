"""What a repair is measured by: the same cases on the suspect, on the repaired model, and on a clean one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from clipsec.data import LabelledSet
from clipsec.errors import UsageError
from clipsec.models import Suspect
from clipsec.protocols import FoundTokens, Trigger, found_tokens, found_triggers, load_trigger
from clipsec.results import BeforeAfter, Likeness, Rate, TriggerRates, Verdict
from clipsec.runner._repair_pictures import check_labels, check_triggers, measure_rates, spec_of
from clipsec.runner._repair_texts import Side, check_texts, comparable, likeness, measure_text
from clipsec.scheduler import Scheduler
from clipsec.triggers import TextTriggerCard, is_text_card, load_text_card
from clipsec.triggers._kinds import card_folders

Planted = Trigger | TextTriggerCard


@attrs.frozen(eq=False)
class Case:
    """One trigger that is measured before and after."""

    trigger: Trigger | FoundTokens | TextTriggerCard
    planted: bool = False
    known: bool = False

    def rates(self, success: BeforeAfter) -> TriggerRates:
        """As a result says it."""
        each = self.trigger
        if isinstance(each, Trigger):
            return TriggerRates(each.origin, self.planted, each.target_index, each.target_name, success)
        if isinstance(each, FoundTokens):
            name = f"{each.text!r} at the {each.site}"
            return TriggerRates(each.origin, self.planted, -1, each.target, success, name=name)
        how = each.trigger
        name = f"{how.text!r} in place of {how.replaced!r}" if how.replaced else f"{how.kind} {how.text!r}"
        return TriggerRates(each.attack, self.planted, -1, each.target, success, name=name, known=self.known)


def load_planted(place: Path | str) -> tuple[Planted, ...]:
    """The attacker's own triggers, on pictures or in captions: of a delivery, of a card's folder, or of its
    JSON. Empty for a folder without a card. Raises `DataError`."""
    cards = card_folders(place) if Path(place).is_dir() else (Path(place),)
    return tuple(load_text_card(card) if is_text_card(card) else load_trigger(card) for card in cards)


def cases_of(
    verdict: Verdict | None, folder: str | Path, planted: Sequence[Planted], known: TextTriggerCard | None
) -> tuple[Case, ...]:
    """What the finding recovered, then what is known, then the attacker's own. Raises `StoreError` or
    `DataError`."""
    found: list[Case] = []
    if verdict is not None:
        found += [Case(each) for each in found_triggers(verdict, folder)]
        found += [Case(each) for each in found_tokens(verdict, folder)]
    found += [] if known is None else [Case(known, planted=True, known=True)]
    return (*found, *(Case(each, planted=True) for each in planted))


@attrs.frozen(eq=False)
class Measuring:
    """The same cases for several models. Raises `UsageError` or `DataError` for what cannot be measured."""

    scheduler: Scheduler
    suspect: Suspect
    reference: Suspect | None
    test: LabelledSet | None
    captions: tuple[str, ...]
    """Held out; empty when the suspect reads no captions."""
    cases: tuple[Case, ...]

    def __attrs_post_init__(self) -> None:
        pictures, names = self._on_pictures(), () if self.test is None else self.test.class_names
        if self.test is None and (pictures or self.suspect.prompts is not None):
            what = "triggers on pictures" if pictures else "learned prompts"
            raise UsageError(
                f"there are no labelled pictures, and {what} are measured on them",
                remedy="Name pictures of the model's classes with --labelled FOLDER.",
            )
        if self.test is not None and self._images(self.suspect) is None:
            spec_of(self.suspect)
        check_triggers(self.suspect, names, pictures)
        texts = [each.trigger for each in self.cases if not isinstance(each.trigger, Trigger)]
        check_texts(self.suspect, names, texts)

    def before(self) -> list[Rate | None]:
        """Of the suspect: accuracy, then each case. Raises `DataError` when the labels are not true."""
        rates = self._of(self.suspect)
        if rates[0] is not None and self.test is not None:
            check_labels(rates[0], len(self.test.class_names))
        return rates

    def after(self, repaired: Suspect, alike: Likeness | None) -> list[Rate | None]:
        """Of the repaired model, whose captions are also judged where they were before if these are `alike`
        in kind."""
        return self._of(repaired, judged=alike is not None)

    def clean(self) -> list[Rate | None]:
        """Of the clean model; None where there is none, or it cannot be compared."""
        if self.suspect.prompts is not None:
            assert self.test is not None
            rates = measure_rates(
                self.scheduler, self.suspect, self.test, self._on_pictures(), zero_shot=True
            )
            return list(rates)
        if self.reference is None or (self.captions and not comparable(self.suspect, self.reference)):
            return [None] * (1 + len(self.cases))
        return self._of(self.reference)

    def likeness(self, repaired: Suspect) -> Likeness | None:
        """Of held-out captions; None where that says nothing."""
        if not self.captions:
            return None
        judge = self._judge()
        return likeness(
            self.suspect, repaired, None if judge is self.suspect else self.reference, self.captions
        )

    def _of(self, model: Suspect, *, judged: bool = True) -> list[Rate | None]:
        images = self._images(model)
        shown: list[Rate] = []
        if self.test is not None and images is not None:
            pictures = self._on_pictures()
            shown = measure_rates(self.scheduler, model, self.test, pictures, images=images)
        side = Side(model, images, self.scheduler)
        judge = self._judge()
        before = None if not judged or judge is model else Side(judge, self._images(judge), self.scheduler)
        rates: list[Rate | None] = [shown.pop(0) if shown else None]
        for case in self.cases:
            if isinstance(case.trigger, Trigger):
                rates.append(shown.pop(0) if shown else None)
            else:
                rates.append(measure_text(side, before, case.trigger, self.captions, self.test))
        return rates

    def _judge(self) -> Suspect:
        """Whose captions say where features lay before: the clean reference's if there is one."""
        if self.reference is not None and comparable(self.suspect, self.reference):
            return self.reference
        return self.suspect

    def _on_pictures(self) -> list[Trigger]:
        return [each.trigger for each in self.cases if isinstance(each.trigger, Trigger)]

    def _images(self, model: Suspect) -> Suspect | None:
        """Whose image tower shows pictures to a model's texts: its own, or that of a model it belongs to."""
        text = model.base.text
        for each in (model, self.reference, self.suspect):
            visual = None if each is None else each.base.visual
            if visual is not None and (text is None or visual.embed_dim == text.embed_dim):
                return each
        return None
