"""Suites of clean and poisoned models: building them, auditing them, and what that says of each detector.

suite = read_suite("suite.toml")
bench = Bench(make_plan(suite, data=Path("data"), registry=Registry()), Path("out"))
bench.work()                       # resumable: what is stored is not done again
write_report(bench)                # tables, pictures, error-rate cards
"""

from clipsec.bench._bench import Bench
from clipsec.bench._outcome import BenchResult, ModelLine, Row, VerdictLine, collect
from clipsec.bench._plan import Model, Plan, Variant, make_plan
from clipsec.bench._report import error_rate_cards, write_report
from clipsec.bench._score import AttackQuality, Case, Quality, by_attack, quality, target_f1
from clipsec.bench._suite import Suite, SuiteError, parse_suite, read_suite
from clipsec.bench._work import KINDS, Tally, Watcher, work

__all__ = [
    "KINDS",
    "AttackQuality",
    "Bench",
    "BenchResult",
    "Case",
    "Model",
    "ModelLine",
    "Plan",
    "Quality",
    "Row",
    "Suite",
    "SuiteError",
    "Tally",
    "Variant",
    "VerdictLine",
    "Watcher",
    "by_attack",
    "collect",
    "error_rate_cards",
    "make_plan",
    "parse_suite",
    "quality",
    "read_suite",
    "target_f1",
    "work",
    "write_report",
]
