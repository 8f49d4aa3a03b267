"""A suite, the folder its results lie in, and what is known so far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import attrs

from clipsec.bench._audit import Audited, audited_from_json
from clipsec.bench._ledger import Entry, Ledger
from clipsec.bench._measured import Measured, measured_from_json, success_by_target, why_not
from clipsec.bench._plan import Model, Plan, Variant
from clipsec.bench._repair import repair_of
from clipsec.results import Outcome, Rate, RepairResult
from clipsec.runner import default_shared_folder
from clipsec.triggers import load_card
from clipsec.triggers._kinds import card_folders


@attrs.define(eq=False, slots=False)
class Bench:
    """A plan and the folder its results lie in.

    models/NAME-KEY/     deliveries, each with its trigger card
    repaired/NAME-KEY/   those that a repair mended
    units/               what became of each unit, by content key
    runs/                the audits
    """

    plan: Plan
    out: Path
    shared: Path = attrs.field(factory=default_shared_folder)
    any_code: bool = False
    """Use units that other code of the same plugin version made."""

    @cached_property
    def ledger(self) -> Ledger:
        """The stored units."""
        return Ledger(self.out / "units", any_code=self.any_code)

    def model_entry(self, model: Model) -> Entry | None:
        """What became of building a model; None if nobody tried, or what was built is gone."""
        entry = self.ledger.look(self.plan.model_key(model), model.installed.code)
        if entry is not None and entry.done and not self.delivery(entry).is_dir():
            return None
        return entry

    def delivery(self, entry: Entry) -> Path:
        """Where a model that was built lies."""
        return self.out / "models" / str(entry.data["folder"])

    def runs(self, variants: Sequence[Variant]) -> Path:
        """Where audits with these detectors are kept. A run's record holds the detectors of one call, so that
        each has a place of its own when they are not called together."""
        folder = self.out / "runs"
        return folder if self.plan.suite.audit.together else folder / variants[0].label

    def measured(self, model: Model) -> Measured | None:
        """What the attack measured; None unless the model was built."""
        entry = self.model_entry(model)
        return measured_from_json(entry.data["measured"]) if entry is not None and entry.done else None

    def success_by_target(self, model: Model) -> dict[str, Rate | None]:
        """What each trigger of a model with several targets does, from its cards; empty for any other model.

        Raises `DataError` for a card that was damaged since.
        """
        entry, measured = self.model_entry(model), self.measured(model)
        if entry is None or measured is None or len(measured.targets) < 2:
            return {}
        return success_by_target([load_card(place) for place in card_folders(self.delivery(entry))])

    def why_not(self, model: Model) -> list[str]:
        """Why a built model does not count as what its label says; empty when it does."""
        measured = self.measured(model)
        if model.clean or measured is None:
            return []
        clean = (other for other in self.plan.models if other.clean and other.reference == model.reference)
        reference = next((self.measured(other) for other in clean), None)
        return list(why_not(measured, reference, self.plan.suite.rules_of(model.attack)))

    def is_audited(self, model: Model) -> bool:
        """Whether the suite wants a model audited, as far as that is known."""
        return self.plan.suite.audit.uncounted or not self.why_not(model)

    def audit_key(self, model: Model, variant: Variant) -> str:
        """Key of an audit of a model that was built."""
        built = self.model_entry(model)
        assert built is not None
        return self.plan.audit_key(model, variant, built.data["suspect"])

    def audit_entry(self, model: Model, variant: Variant) -> Entry | None:
        """What became of one audit; None if there was none."""
        built = self.model_entry(model)
        if built is None or not built.done:
            return None
        return self.ledger.look(self.audit_key(model, variant), variant.installed.code)

    def audited(self, model: Model, variant: Variant) -> Audited | None:
        """What a detector said of a model; None unless it said something."""
        entry = self.audit_entry(model, variant)
        return audited_from_json(entry.data) if entry is not None and entry.done else None

    def finding(self, model: Model, repair: Variant) -> Audited | None:
        """What a repair starts from: a finding about a poisoned model that counts; None if there is none."""
        if model.clean or self.why_not(model):
            return None
        audited = self.audited(model, self._detector_of(repair))
        return audited if audited is not None and audited.verdict.outcome is Outcome.FINDING else None

    def repair_key(self, model: Model, repair: Variant) -> str:
        """Key of the repair of a model that was found out."""
        found = self.finding(model, repair)
        assert found is not None
        # The verdict's own key, which has the detector's code in it: another verdict is another repair.
        key = found.verdict.provenance.key if found.verdict.provenance is not None else ""
        return self.plan.repair_key(model, repair, key)

    def repair_entry(self, model: Model, repair: Variant) -> Entry | None:
        """What became of one repair; None if there was none."""
        if self.finding(model, repair) is None:
            return None
        return self.ledger.look(self.repair_key(model, repair), repair.installed.code)

    def repaired(self, model: Model, repair: Variant) -> RepairResult | None:
        """What a repair did; None unless it came to an end."""
        entry = self.repair_entry(model, repair)
        return repair_of(entry.data) if entry is not None and entry.done else None

    def repair_state(self, model: Model, repair: Variant) -> str:
        """In one or two words; see `RepairLine.state`."""
        result, entry = self.repaired(model, repair), self.repair_entry(model, repair)
        if result is not None:
            return str(result.outcome)
        if entry is not None:
            return "failed"
        audited = self.audited(model, self._detector_of(repair))
        found = audited is not None and audited.verdict.outcome is not Outcome.FINDING
        return "not found" if found else "missing"

    def _detector_of(self, repair: Variant) -> Variant:
        label = self.plan.suite.repairs[repair.label].detector
        return next(variant for variant in self.plan.detectors if variant.label == label)
