"""The battery for attacks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import attrs

from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Attack, AttackContext
from clipsec.triggers import KINDS, TextTriggerCard, TriggerCard, is_text_card, load_card, load_text_card
from clipsec_testkit._captions import check_text_card, planted_rate
from clipsec_testkit._check import QUIET, Battery, CheckFailed, CheckSkipped
from clipsec_testkit._controls import control, spoiled
from clipsec_testkit._toys import accuracy, build_toys, success_rate
from clipsec_testkit._watch import Watch


@attrs.define(eq=False)
class AttackBattery(Battery):
    """What every attack must keep to, on the clean toy.

    One that says `clean = True` plants nothing and is there as a control; it must not write a card.
    """

    known: ClassVar[frozenset[str]] = frozenset({"options", "success", "accuracy_drop"})
    names: ClassVar[tuple[str, ...]] = (
        "facts",
        "options",
        "delivery",
        "trigger_card",
        "success",
        "clean_accuracy",
        "determinism",
        "cancellation",
        "base_untouched",
        *QUIET,
    )

    def check_facts(self) -> None:
        """It is an attack, and states a summary, its API version, its needs and its references."""
        Battery.check_facts(self)
        if not isinstance(self.plugin(), Attack):
            raise CheckFailed("it has no method poison(context)")

    def check_delivery(self) -> None:
        """It writes a delivery that loads, into the folder it was given."""
        self._suspect()

    def check_trigger_card(self) -> None:
        """A trigger card lies with the delivery, and says how to apply the trigger and what it hits; beside
        a clean control there is none."""
        if self._is_clean:
            cards = [path for path in self._poisoned().rglob("*") if path.name.startswith("trigger")]
            if cards:
                raise CheckFailed(f"it says that it plants nothing, but writes {cards[0].name}")
            return
        card, folder = self._card()
        if is_text_card(folder):
            check_text_card(load_text_card(folder), control("clean").suspect, build_toys().held_out)
            return
        names = self._answering().class_names
        index = card.get("target_index")
        if (
            not isinstance(index, int)
            or not 0 <= index < len(names)
            or card.get("target_name") != names[index]
        ):
            raise CheckFailed("the card's target_index and target_name do not name one class of the delivery")

    def check_success(self) -> None:
        """Its trigger, applied as the card says, sends pictures of other classes, or captions, to the
        target."""
        if self._is_clean:
            raise CheckSkipped("it plants no trigger")
        body, folder = self._card()
        if is_text_card(folder):
            what, rate = "captions", self._caption_rate(load_text_card(folder))
        elif body["kind"] in KINDS:
            what, rate = "held-out pictures", self._picture_rate(load_card(folder))
        else:
            raise CheckSkipped(f"this kit cannot apply a trigger of the kind {body['kind']!r}")
        wanted = float(self.settings.get("success", 0.5))
        if rate < wanted:
            raise CheckFailed(f"the trigger works on {rate:.0%} of {what}; {wanted:.0%} are asked")

    def check_clean_accuracy(self) -> None:
        """The poisoned toy is about as accurate on clean pictures as the base."""
        before = accuracy(build_toys()["clean"].suspect, build_toys().held_out)
        after = accuracy(self._answering(), build_toys().held_out)
        allowed = float(self.settings.get("accuracy_drop", 0.2))
        if after < before - allowed:
            raise CheckFailed(f"clean accuracy falls from {before:.0%} to {after:.0%}")

    def check_determinism(self) -> None:
        """The same seed gives the same model and the same trigger."""
        first = self._suspect()
        folder, _, error = self._poison(self.new_folder())
        if error is not None:
            raise CheckFailed(f"run again it raises {type(error).__name__}: {error}")
        if load_suspect(str(folder)).digest != first.digest:
            raise CheckFailed("two runs with one seed give two models")
        if _triggers_of(folder) != _triggers_of(self._poisoned()):
            raise CheckFailed("two runs with one seed give two triggers")

    def check_cancellation(self) -> None:
        """Interrupted, it leaves no delivery behind."""
        told = []

        def stop(fraction: float, what: str) -> None:
            told.append(fraction)
            raise KeyboardInterrupt

        scratch = self.new_folder()
        _, watch, error = self._poison(scratch, progress=stop)
        if not told:
            raise CheckSkipped("it reports no progress, so it could not be interrupted")
        if not isinstance(error, KeyboardInterrupt):
            raise CheckFailed("it swallows Ctrl-C")
        left = [path for path in (scratch / "out").rglob("*") if path.is_file()]
        if left:
            raise CheckFailed(f"interrupted, it leaves {left[0].name} behind")
        if watch.children:
            raise CheckFailed(f"interrupted, it leaves {watch.children[0]}")

    def check_base_untouched(self) -> None:
        """It does not change the base."""
        self._poisoned()
        if self._runs["changed"]:
            raise CheckFailed(f"it changes the {self._runs['changed'][0]}")

    def check_no_stray_files(self) -> None:
        """It writes nothing outside of its output, and leaves no temporary file."""
        self.require_quiet(self._watches(), "writes", "it writes outside of its output")

    @property
    def _is_clean(self) -> bool:
        return bool(getattr(self.plugin(), "clean", False))

    def _poison(self, scratch: Path, **changes: Any) -> tuple[Path, Watch, BaseException | None]:
        """Poison the clean toy into `scratch/out/delivery`, watched."""
        toys, at = build_toys(), control("clean")
        base = toys["clean"].save(scratch / "base")
        at.suspect.base_name = f"local-dir:{base}"
        settings: dict[str, Any] = {
            "base": at.suspect,
            "options": self.options(),
            "labelled": at.labelled,
            "held_out": toys.held_out,
            "pool": at.pool,
            "output": scratch / "out" / "delivery",
            **changes,
        }
        folder, error = settings["output"], None
        with Watch(scratch, scratch / "out") as watch:
            try:
                folder = Path(self.plugin().poison(AttackContext(**settings)))
            except BaseException as raised:
                error = raised
        return folder, watch, error

    def _poisoned(self) -> Path:
        if "folder" not in self._runs:
            scratch, before = self.new_folder(), control("clean").fingerprint()
            folder, watch, error = self._poison(scratch)
            after = control("clean").fingerprint()
            self._runs["changed"] = [name for name in before if before[name] != after[name]]
            if self._runs["changed"]:
                spoiled("clean")
            self._runs |= {"folder": folder, "watch": watch, "error": error, "output": scratch / "out"}
        error = self._runs["error"]
        if error is not None:
            raise CheckFailed(f"it raises {type(error).__name__}: {error}") from error
        folder = self._runs["folder"]
        if not folder.resolve().is_relative_to(self._runs["output"].resolve()):
            raise CheckFailed(f"it returns {folder}, which is not in its output")
        return Path(folder)

    def _suspect(self) -> Suspect:
        folder = self._poisoned()
        if "suspect" not in self._runs:
            self._runs["suspect"] = load_suspect(str(folder))
        suspect: Suspect = self._runs["suspect"]
        return suspect

    def _answering(self) -> Suspect:
        """The delivery as something that names classes: one without names of its own is asked for those of
        the pictures, and half a CLIP together with the base's other half."""
        suspect, base = self._suspect(), control("clean").suspect.base
        halves = suspect.base.visual, suspect.base.text
        if suspect.prompts is not None or (suspect.class_names and None not in halves):
            return suspect
        clip = attrs.evolve(
            suspect.base,
            visual=suspect.base.visual or base.visual,
            text=suspect.base.text or base.text,
        )
        assert clip.visual is not None
        assert clip.text is not None
        if clip.visual.embed_dim != clip.text.embed_dim:
            raise CheckSkipped("what it delivers is half a CLIP, in another space than the base")
        names = suspect.class_names or build_toys().held_out.class_names
        return Suspect(name=suspect.name, kind="clip", base=clip, class_names=names)

    def _picture_rate(self, card: TriggerCard) -> float:
        suspect = self._answering()
        if card.word:
            names = list(suspect.class_names)
            names[card.target_index] = f"{card.word} {card.target_name}"
            suspect = load_suspect(str(self._poisoned()), class_names=names)
        return success_rate(suspect, build_toys().held_out, card.apply, card.target_index)

    def _caption_rate(self, card: TextTriggerCard) -> float:
        clip = self._suspect().base
        if clip.text is None:
            raise CheckFailed("its card is of a trigger in captions, but its delivery has no text tower")
        return planted_rate(card, clip, control("clean").suspect, build_toys().held_out)

    def _card(self) -> tuple[dict[str, Any], Path]:
        """The card and the folder that it lies in."""
        folder = self._poisoned()
        place = next((p for p in (folder / "trigger", folder) if (p / "trigger.json").is_file()), None)
        if place is None:
            raise CheckFailed("there is no trigger.json in the delivery, nor in its folder trigger/")
        card = json.loads((place / "trigger.json").read_text(encoding="utf-8"))
        if not isinstance(card, dict) or "kind" not in card:
            raise CheckFailed("trigger.json does not say the kind of the trigger")
        return card, place

    def _watches(self) -> dict[str, Watch]:
        self._poisoned()
        return {"poisoning": self._runs["watch"]}


def _triggers_of(folder: Path) -> list[str]:
    """What the triggers of a delivery do: digests of their tensors, for those in captions their words."""
    tensors = sorted(folder.rglob("trigger.safetensors"))
    cards = [load_text_card(path) for path in sorted(folder.rglob("trigger.json")) if is_text_card(path)]
    return [
        *(hashlib.sha256(path.read_bytes()).hexdigest() for path in tensors),
        *(repr((card.trigger, card.source, card.target)) for card in cards),
    ]
