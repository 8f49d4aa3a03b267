"""The error-rate cards of the text-tower detectors, from the test half of docs/amdet_study.md."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from clipsec.error_rates import AttackRate, ErrorRates, MeasuredOn, to_text
from clipsec.stats import auroc, proportion
from clipsec.store import atomic_write
from clipsec_amdet import Options as AmdetOptions
from clipsec_amdet.token_scan import Options as ScanOptions

DISTRIBUTION = "clipsec-amdet"
OPTIONS = {"amdet": AmdetOptions, "token-scan": ScanOptions}
SUITE = "text towers"


@attrs.frozen
class Told:
    """What a detector said of one model of the test half."""

    model: str
    attack: str
    """Empty for a benign one."""
    score: float
    flagged: bool


def write_cards(found: Mapping[str, tuple[str, Mapping[str, Any], Sequence[Told]]], package: Path) -> None:
    """`error_rates/NAME.json` of each detector in `package`; `found` has, by detector, the label of its
    search, the options that differ from the shipped ones, and what it said of all models."""
    (package / "error_rates").mkdir(exist_ok=True)
    for detector, (label, options, told) in found.items():
        card = ErrorRates(
            detector=f"{DISTRIBUTION}/{detector}",
            measurements=(measurement(detector, label, options, told),),
        )
        atomic_write(package / "error_rates" / f"{detector}.json", to_text(card).encode())


def measurement(detector: str, label: str, options: Mapping[str, Any], told: Sequence[Told]) -> MeasuredOn:
    """Rates over all models. `code` is empty, for several states of it audited them; the digest of the
    suite is that of the models' names."""
    good, bad = ([one for one in told if bool(one.attack) is truth] for truth in (False, True))
    hits, passed = sum(one.flagged for one in bad), sum(not one.flagged for one in good)
    names = "\n".join(sorted(one.model for one in told))
    return MeasuredOn(
        label=label,
        version=version(DISTRIBUTION),
        code="",
        options=json.loads(json.dumps(attrs.asdict(OPTIONS[detector](**options)))),
        suite=SUITE,
        suite_digest=hashlib.sha256(names.encode()).hexdigest(),
        half="test",
        base="",
        base_digest="",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        clean=len(good),
        backdoored=len(bad),
        no_answer=0,
        sensitivity=proportion(hits, len(bad)),
        specificity=proportion(passed, len(good)),
        accuracy=proportion(hits + passed, len(told)),
        auroc=auroc([one.score for one in bad], [one.score for one in good]) if bad and good else None,
        attacks=tuple(by_attack(bad)),
    )


def by_attack(told: Iterable[Told]) -> Iterable[AttackRate]:
    """How many models of each attack were found out."""
    kinds: dict[str, list[bool]] = {}
    for one in told:
        kinds.setdefault(one.attack, []).append(one.flagged)
    for attack, flags in sorted(kinds.items()):
        yield AttackRate(attack=attack, found=proportion(sum(flags), len(flags)))
