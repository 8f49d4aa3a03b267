"""The batteries for interfaces and repairs, which both work on a suspect through a context."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Channel, Interface, InterfaceCard, Repair, load_any_trigger, not_eligible
from clipsec.results import Verdict, check_measurement, check_same_cases
from clipsec.store import content_key
from clipsec_testkit._check import QUIET, Battery, CheckFailed
from clipsec_testkit._controls import BACKDOORS, control, new_scheduler, spoiled
from clipsec_testkit._findings import finding_of
from clipsec_testkit._toys import accuracy, build_toys, caption_success_rate, success_rate
from clipsec_testkit._watch import Watch


@attrs.define(eq=False)
class ContextBattery(Battery):
    """What interfaces and repairs share."""

    method: ClassVar[str]
    protocol: ClassVar[type]

    def check_facts(self) -> None:
        """It has its protocol's method, and states a summary, its API version, needs and references."""
        Battery.check_facts(self)
        if not isinstance(self.plugin(), self.protocol):
            raise CheckFailed(f"it has no method {self.method}(context)")

    def check_towers_untouched(self) -> None:
        """It changes neither towers nor prompts nor pictures."""
        self._value()
        if self._runs["changed"]:
            raise CheckFailed(f"it changes the {self._runs['changed'][0]}")

    def toy(self) -> str:
        """The toy that it works on."""
        raise NotImplementedError

    def work(self, scratch: Path, toy: str = "", **fields: Any) -> tuple[Any, Watch]:
        """Run it once, with these further fields of the context; what it raises is raised."""
        toy = toy or self.toy()
        scheduler, options, at = new_scheduler(), self.options(), control(toy)
        missing = sorted(frozenset(self.fact("needs")) - at.offers)
        if missing:
            raise CheckFailed(f"the toy {toy} has not what it needs: {', '.join(missing)}")
        with Watch(scratch, scratch / "out") as watch:
            context = at.context(options, scratch / "out", scheduler, **fields)
            value = getattr(self.plugin(), self.method)(context)
            if inspect.isgenerator(value):
                value = scheduler.run(value)
        return value, watch

    def _value(self) -> Any:
        if "value" not in self._runs:
            scratch, at = self.new_folder(), control(self.toy())
            before = at.fingerprint()
            value, watch = self.work(scratch)
            after = at.fingerprint()
            changed = [name for name in before if before[name] != after[name]]
            if changed:
                spoiled(self.toy())
            self._runs |= {"value": value, "watch": watch, "changed": changed, "out": scratch / "out"}
        return self._runs["value"]

    def _watches(self) -> dict[str, Watch]:
        self._value()
        return {self.toy(): self._runs["watch"]}


_CLEAN_OF = {"prompt": "clean-prompt", "visual": "clean-tuned", "textual": "clean-tuned"}
"""A backdoored toy to the clean one that was made in the same way."""

_QUIET = ("towers_untouched", *QUIET)

_CHANNELS = {
    "visual": frozenset({Channel.QUERY_IMAGE, Channel.CORPUS_IMAGE}),
    "textual": frozenset({Channel.QUERY_TEXT, Channel.CORPUS_TEXT}),
    "prompt": frozenset({Channel.MECHANISM}),
}
"""A toy to the channels through which its trigger enters."""


@attrs.define(eq=False)
class InterfaceBattery(ContextBattery):
    """What every interface must keep to."""

    known: ClassVar[frozenset[str]] = frozenset({"options", "toy"})
    names: ClassVar[tuple[str, ...]] = (
        "facts",
        "options",
        "card",
        "measurement",
        "same_cases",
        "determinism",
        *_QUIET,
    )
    method: ClassVar[str] = "measure"
    protocol: ClassVar[type] = Interface

    def toy(self) -> str:
        """The one that is said, else one whose trigger enters through the interface's channel."""
        channels = frozenset(self.fact("card").channels)
        fitting = (name for name, through in _CHANNELS.items() if channels & through)
        return str(self.settings.get("toy", next(fitting, "visual")))

    def work(self, scratch: Path, toy: str = "", **fields: Any) -> tuple[Any, Watch]:
        """Measure the toy, by default without its trigger."""
        toy = toy or self.toy()
        planted = build_toys()[toy].trigger
        if planted is None:
            raise CheckFailed(f"the toy {toy} has no trigger: name one of {', '.join(BACKDOORS)}")
        trigger = load_any_trigger(planted.save(self.new_folder()))
        given = {"trigger": trigger, "held_out": attrs.evolve(build_toys().held_out), **fields}
        value, watch = ContextBattery.work(self, scratch, toy, **given)
        return check_measurement(value, "the interface"), watch

    def check_card(self) -> None:
        """Its card states all six fields, and a toy's trigger can enter through one of its channels."""
        card = self.fact("card")
        if not isinstance(card, InterfaceCard):
            raise CheckFailed(f"card must be a clipsec.protocols.InterfaceCard, not {card!r}")
        for field in attrs.fields(InterfaceCard):
            if not getattr(card, field.name):
                raise CheckFailed(f"the card's {field.name} is empty")
        toy = build_toys()[self.toy()]
        if toy.trigger is not None:
            trigger = load_any_trigger(toy.trigger.save(self.new_folder()))
            reason = not_eligible(card, trigger, toy.suspect.provides, toy.suspect.class_names)
            if reason is not None:
                raise CheckFailed(f"on the toy {toy.name} it is not eligible: {reason}")

    def check_measurement(self) -> None:
        """It returns 0/1 events; without the trigger it also says how well clean use works."""
        if not self._value().utility:
            raise CheckFailed("without the trigger it says nothing about clean use (Measurement.utility)")
        self._triggered()

    def check_same_cases(self) -> None:
        """With and without the trigger, on the suspect and on a clean model, the cases are the same."""
        clean = control(self.toy()).reference
        if control(self.toy()).suspect.prompts is not None:
            clean = build_toys()["clean-prompt"].suspect
        reference = self.work(self.new_folder(), suspect=clean)[0]
        check_same_cases([self._value(), self._triggered(), reference], "it")

    def check_determinism(self) -> None:
        """The same seed gives the same measurement."""
        if _digest(self._value()) != _digest(self.work(self.new_folder())[0]):
            raise CheckFailed("two runs with one seed give two measurements")

    def _triggered(self) -> Any:
        if "triggered" not in self._runs:
            self._runs["triggered"] = self.work(self.new_folder(), triggered=True)[0]
        return self._runs["triggered"]


@attrs.define(eq=False)
class RepairBattery(ContextBattery):
    """What every repair must keep to."""

    _findings: dict[str, tuple[Verdict, Path]] = attrs.field(factory=dict, init=False, repr=False)

    known: ClassVar[frozenset[str]] = frozenset({"options", "repairs", "success", "accuracy_drop"})
    names: ClassVar[tuple[str, ...]] = (
        "facts",
        "options",
        "delivery",
        "success",
        "clean_accuracy",
        "false_alarm",
        "determinism",
        *_QUIET,
    )
    method: ClassVar[str] = "repair"
    protocol: ClassVar[type] = Repair

    def toy(self) -> str:
        return str(self.settings.get("repairs", "visual"))

    def work(self, scratch: Path, toy: str = "", **fields: Any) -> tuple[Any, Watch]:
        """A repair starts from a finding. A repaired prompt names the base it sits on, so the toy's base must
        lie somewhere."""
        toy = toy or self.toy()
        at = control(toy)
        if at.suspect.prompts is not None:
            if "base" not in self._runs:
                self._runs["base"] = build_toys()["clean"].save(self.new_folder() / "base")
            at.suspect.base_name = at.suspect.base_spec = f"local-dir:{self._runs['base']}"
        if toy not in self._findings:
            target = None if toy in BACKDOORS else 0
            folder = self.new_folder()
            self._findings[toy] = finding_of(at, folder, target=target), folder
        finding, folder = self._findings[toy]
        given = {"finding": finding, "finding_folder": folder, "output": scratch / "out" / "repaired"}
        return ContextBattery.work(self, scratch, toy, **given, **fields)

    def check_delivery(self) -> None:
        """It writes a model that loads, into the folder it was given."""
        self._repaired()

    def check_success(self) -> None:
        """The planted trigger no longer works on the repaired model."""
        if self.toy() not in BACKDOORS:
            raise CheckFailed(f"repairs must name one of {', '.join(BACKDOORS)}, not {self.toy()!r}")
        trigger = build_toys()[self.toy()].trigger
        assert trigger is not None
        suspect = self._repaired()
        if trigger.tensor is None:
            rate = caption_success_rate(suspect, trigger)
        else:
            rate = success_rate(suspect, build_toys().held_out, trigger.apply, trigger.target_index)
        if rate > float(self.settings.get("success", 0.2)):
            raise CheckFailed(
                f"the trigger still works on {rate:.0%} of inputs (before: {trigger.success:.0%})"
            )

    def check_clean_accuracy(self) -> None:
        """The repaired model is about as accurate on clean pictures as before."""
        before = accuracy(build_toys()[self.toy()].suspect, build_toys().held_out)
        after = accuracy(self._repaired(), build_toys().held_out)
        if after < before - float(self.settings.get("accuracy_drop", 0.2)):
            raise CheckFailed(f"clean accuracy falls from {before:.0%} to {after:.0%}")

    def check_false_alarm(self) -> None:
        """A clean model that was flagged by mistake is about as accurate after it as before."""
        toy = _CLEAN_OF.get(self.toy(), "clean")
        folder, _ = self.work(self.new_folder(), toy)
        before = accuracy(build_toys()[toy].suspect, build_toys().held_out)
        after = accuracy(load_suspect(str(folder), class_names=self._names()), build_toys().held_out)
        if after < before - float(self.settings.get("accuracy_drop", 0.2)):
            raise CheckFailed(f"on the toy {toy} clean accuracy falls from {before:.0%} to {after:.0%}")

    def check_determinism(self) -> None:
        """The same seed gives the same model."""
        again = load_suspect(str(self.work(self.new_folder())[0]), class_names=self._names())
        if again.digest != self._repaired().digest:
            raise CheckFailed("two runs with one seed give two models")

    def _names(self) -> tuple[str, ...]:
        return control(self.toy()).suspect.class_names

    def _repaired(self) -> Suspect:
        folder = Path(self._value())
        if not folder.resolve().is_relative_to(self._runs["out"].resolve()):
            raise CheckFailed(f"it returns {folder}, which is not in its folder")
        if "suspect" not in self._runs:
            self._runs["suspect"] = load_suspect(str(folder), class_names=self._names())
        suspect: Suspect = self._runs["suspect"]
        return suspect


def _digest(value: Any) -> str:
    """A key for comparing measurements; refuses what is not plain data."""
    return content_key(value=attrs.asdict(value) if attrs.has(type(value)) else value)
