"""Writing what a bench found: data, tables, a page, and the error-rate card of each detector."""

from __future__ import annotations

import datetime
import json

from clipsec.bench._bench import Bench
from clipsec.bench._figures import figures
from clipsec.bench._outcome import ALL, BenchResult, Row, collect
from clipsec.bench._page import render_page
from clipsec.bench._tables import tables
from clipsec.error_rates import AttackRate, ErrorRates, MeasuredOn, to_text
from clipsec.store import atomic_write, safe_name

DATA, PAGE, CARDS = "bench.json", "bench.html", "error_rates"


def write_report(bench: Bench) -> BenchResult:
    """Write `bench.json`, the CSV tables, `bench.html`, its pictures in `figures/` and
    `error_rates/DETECTOR.json` into the output.

    From what is stored, whether or not everything is done. Raises `StoreError`.
    """
    result = collect(bench)
    text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    atomic_write(bench.out / DATA, text.encode())
    for name, table in tables(result).items():
        atomic_write(bench.out / name, table.encode())
    drawn = figures(result)
    for name, picture in drawn.items():
        atomic_write(bench.out / name, picture)
    atomic_write(bench.out / PAGE, render_page(result, drawn).encode())
    for card in error_rate_cards(result):
        atomic_write(bench.out / CARDS / f"{card_name(card.detector)}.json", to_text(card).encode())
    return result


def card_name(detector: str) -> str:
    """File name of a detector's card: its bare name, as its distribution is to ship it."""
    bare = detector.rpartition("/")[2]
    return bare if bare.replace("-", "").replace("_", "").isalnum() else safe_name(bare)


def error_rate_cards(result: BenchResult, date: str | None = None) -> list[ErrorRates]:
    """One card for each detector plugin, with every half and every set of options; for several bases, each
    base by itself too."""
    date = date or datetime.datetime.now(datetime.UTC).date().isoformat()
    measurements: dict[str, list[MeasuredOn]] = {}
    for row in result.rows:
        if row.scope == ALL or row.scope.startswith("base "):
            plugin = str(result.detectors[row.detector]["plugin"])
            measurements.setdefault(plugin, []).append(_measurement(result, row, date))
    return [ErrorRates(detector=name, measurements=tuple(rows)) for name, rows in measurements.items()]


def _measurement(result: BenchResult, row: Row, date: str) -> MeasuredOn:
    detector, found = result.detectors[row.detector], row.quality
    label = row.scope.removeprefix("base ") if row.scope != ALL else next(iter(result.bases))
    one_base = row.scope != ALL or len(result.bases) == 1
    return MeasuredOn(
        label=row.detector,
        version=str(detector["version"]),
        code="" if detector["plugin"] in result.other_code else str(detector["code"]),
        options=dict(detector["options"]),
        suite=result.suite,
        suite_digest=result.suite_digest,
        half=row.half,
        base=result.bases[label]["spec"] if one_base else "",
        base_digest=result.bases[label]["digest"] if one_base else "",
        date=date,
        clean=found.clean,
        backdoored=found.backdoored,
        no_answer=found.no_answer,
        sensitivity=found.sensitivity,
        specificity=found.specificity,
        accuracy=found.accuracy,
        auroc=found.auroc,
        attacks=tuple(AttackRate(attack=one.attack, found=one.sensitivity) for one in row.attacks),
    )
