"""The study of docs/clip_inspector_study.md: its suites built and audited, every table and picture made.

    python -m tests.studies.clip_inspector --data DATA --out OUT              # hours of two cores; resumes
    python -m tests.studies.clip_inspector --data DATA --out OUT --only report

DATA holds the data sets that the suites name. OUT/mini and OUT/b16 are ordinary outputs of `clipsec bench`,
which may also fill them, several at a time. Tables, data and pictures go to docs/results/clip_inspector, the
error-rate card of `clip-inspector-plus` into its package; each table of the page goes between the two
comments with its name.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.studies.learned_anew import Anew, learned_anew

from clipsec.bench import (
    KINDS,
    Bench,
    BenchResult,
    Case,
    ModelLine,
    Quality,
    by_attack,
    error_rate_cards,
    make_plan,
    quality,
    read_suite,
    work,
    write_report,
)
from clipsec.bench._figures import roc_figure, score_figure
from clipsec.error_rates import ErrorRates, from_text, to_text
from clipsec.runner import default_shared_folder, use_all_cores
from clipsec.stats import Auroc, Proportion
from clipsec.store import atomic_write
from clipsec_registry import Registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clip_inspector_study.md"
DATA = ROOT / "docs" / "results" / "clip_inspector"
CARD = ROOT / "plugins/clip_inspector/src/clipsec_clip_inspector/error_rates/clip-inspector-plus.json"
PROBES = "probes"
SUITES = {"mini": "mini", "b16": "b16", "search": "mini", "detectors": "mini", "beyond": "mini"}
"""Suite to the folder of OUT that it works in; suites on the same models share one."""
FILES = {name: name if name == folder else f"{folder}_{name}" for name, folder in SUITES.items()}
"""Suite to its file in tests/suites."""
PLUS = "clip-inspector-plus"
CARDS = {"mini": PROBES, "b16": PROBES, "search": PLUS}
"""What each suite gives to the error-rate card: a label of its detectors."""
HALF, SCOPE = "test", "all"
FAMILY = {
    "badclip": "additive",
    "badclip-adaptive": "additive",
    "siba": "additive",
    "blended": "noise",
    "wanet": "warp",
    "badnets": "patch",
}
"""The probes that an attack's trigger resembles."""
GOALS = ("at least 0.99", "at least 97 %", "", "at least 29 of 30", "at least 0.97")
PUBLISHED = {
    "models": "10 clean, 40 backdoored",
    "auroc": "0.973",
    "found": "38 of 40",
    "passed": "9 of 10",
} | {
    "right": "47 of 50",
    "f1": "0.93 / 0.92",
}
Table = Sequence[Sequence[str]]


def main() -> None:
    """Do what is not done yet, then write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="all, if not given")
    parser.add_argument("--only", choices=("report",))
    given = parser.parse_args()
    use_all_cores()
    results, anew = {}, {}
    for name in given.suite or SUITES:
        suite = read_suite(ROOT / "tests" / "suites" / f"{FILES[name]}.toml")
        plan = make_plan(suite, data=given.data, registry=Registry(), suite_folder=ROOT / "tests" / "suites")
        bench = Bench(plan, given.out / SUITES[name], shared=default_shared_folder())
        if given.only is None:
            work(bench, halves=(HALF,), kinds=KINDS)
        results[name] = write_report(bench)
        keep(given.out / SUITES[name], DATA / name, results[name])
        repaired = {line.model for line in results[name].repairs if line.accuracy_after is not None}
        again = {model.name: learned_anew(bench, model) for model in plan.models if model.name in repaired}
        anew[name] = {model: found for model, found in again.items() if found is not None}
    write_tables(results, anew)
    shipped = from_text(CARD.read_text(encoding="utf-8")) if CARD.is_file() else None
    atomic_write(CARD, to_text(card(results, shipped)).encode())


def keep(out: Path, into: Path, result: BenchResult) -> None:
    """Copy the data and the pictures that the page shows."""
    into.mkdir(parents=True, exist_ok=True)
    tables = ("models", "verdicts", "summary", "attacks", *(("repairs",) if result.repairs else ()))
    for name in (*(f"{table}.csv" for table in tables), "bench.json"):
        shutil.copyfile(out / name, into / name)
    for name in ("roc", *(f"scores-{label}" for label in result.detectors)):
        shutil.copyfile(out / "figures" / HALF / f"{name}.svg", into / f"{name}.svg")


def card(results: Mapping[str, BenchResult], shipped: ErrorRates | None) -> ErrorRates:
    """The error rates of the probes on each base by itself, and of the whole detector; those of suites that
    are not in `results`, or not built to the end, stay as they were shipped."""
    rows = [
        row
        for name, result in results.items()
        if all(model.state == "built" for model in result.models if model.half == HALF)
        for one in error_rate_cards(result)
        for row in one.measurements
        if one.detector.endswith(PLUS) and (row.label, row.half) == (CARDS.get(name), HALF)
    ]
    measured = {(row.label, row.suite, row.base) for row in rows}
    others = shipped.measurements if shipped is not None else ()
    kept = [row for row in others if (row.label, row.suite, row.base) not in measured]
    return ErrorRates(
        detector="clipsec-clip-inspector/clip-inspector-plus",
        measurements=tuple(sorted([*kept, *rows], key=lambda row: (row.label, row.base))),
    )


def write_tables(results: Mapping[str, BenchResult], anew: Mapping[str, Mapping[str, Anew]]) -> None:
    """The tables of the page, and the pictures of both bases together."""
    tables: dict[str, Table] = {}
    both = {name: cases(results[name], PROBES) for name in ("mini", "b16") if name in results}
    if len(both) == 2:
        together = [*both["mini"], *both["b16"]]
        columns = {**both, "together": together}
        tables["summary"] = summary_table({name: quality(found) for name, found in columns.items()})
        tables["attacks"] = attack_table(columns)
        tables["left_out"] = left_out_table([results["mini"], results["b16"]])
        atomic_write(DATA / "roc.svg", roc_figure(columns))
        atomic_write(DATA / "scores.svg", score_figure(together, 1.0, "score of the probes, in thresholds"))
    for name, result in results.items():
        tables[f"{name}_models"] = model_table(result, PROBES)
        tables[f"{name}_every"] = every_model(result)
        tables[f"{name}_not_counted"] = not_counted_table(result)
        if len(result.detectors) > 1:
            tables[f"{name}_detectors"] = detector_table(result)
        if PLUS in result.detectors:
            tables[f"{name}_by_attack"] = attack_table(
                {label: cases(result, label) for label in (PROBES, PLUS)}
            )
        if any(line.accuracy_after is not None for line in result.repairs):
            tables[f"{name}_repairs"] = repair_table(result)
            tables[f"{name}_repaired"] = repaired_models(result, "right", anew[name])
    fill_page(PAGE, tables)


def fill_page(place: Path, tables: Mapping[str, Table]) -> None:
    """Write each table into the page, at the place of its name."""
    page = place.read_text(encoding="utf-8")
    for name, table in tables.items():
        page = fill(page, name, markdown(table))
    atomic_write(place, page.encode())


def fill(page: str, name: str, text: str) -> str:
    """The page with this text between `<!-- NAME -->` and `<!-- /NAME -->`; unchanged without them."""
    between = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return between.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)


def cases(result: BenchResult, detector: str) -> tuple[Case, ...]:
    """The models of the test half that count, with what one detector said of each."""
    return result.cases[HALF, SCOPE, detector]


def summary_table(found: Mapping[str, Quality]) -> Table:
    """The goals, what was measured on each base and on both, and what was published."""
    rows = [["", *found, "published", "goal"]]
    lines = {
        "models": lambda one: f"{one.clean} clean, {one.backdoored} backdoored",
        "AUROC": lambda one: ranked(one.auroc),
        "judged right": lambda one: share(one.accuracy),
        "backdoored found": lambda one: share(one.sensitivity),
        "clean passed": lambda one: share(one.specificity),
        "F1 of the target class, mean over attacks / data sets": lambda one: (
            f"{number(one.f1_attacks)} / {number(one.f1_datasets)}"
        ),
    }
    published = [PUBLISHED[name] for name in ("models", "auroc", "right", "found", "passed", "f1")]
    goals = ["at least 90, 30 of them clean", *GOALS]
    for (what, line), theirs, goal in zip(lines.items(), published, goals, strict=True):
        rows.append([what, *(line(one) for one in found.values()), theirs, goal])
    return rows


def attack_table(columns: Mapping[str, Sequence[Case]]) -> Table:
    """Backdoored models found, by attack."""
    found = {
        name: {one.attack: share(one.sensitivity) for one in by_attack(cases)}
        for name, cases in columns.items()
    }
    attacks = sorted({attack for each in found.values() for attack in each})
    return [
        ["attack", *found],
        *([attack, *(each.get(attack, "") for each in found.values())] for attack in attacks),
    ]


def left_out_table(results: Sequence[BenchResult]) -> Table:
    """What is found of each attack with all probes and without those that resemble its trigger."""
    rows = [["attack", "family left out", *(f"{next(iter(one.bases))}: all" for one in results)]]
    rows[0] += [f"{next(iter(one.bases))}: without" for one in results]
    for attack, family in FAMILY.items():
        cells = []
        for label in (PROBES, f"no-{family}"):
            for result in results:
                own = [one.sensitivity for one in by_attack(cases(result, label)) if one.attack == attack]
                cells.append(share(own[0]) if own else "")
        if any(cells):
            rows.append([attack, family, *cells])
    passed = [share(quality(cases(result, PROBES)).specificity) for result in results]
    return [*rows, ["clean models passed", "", *passed, *("" for _ in results)]]


def detector_table(result: BenchResult) -> Table:
    """Every detector on the same models."""
    rows = [["detector", "models", "AUROC", "found", "passed", "F1", "tower seconds", "published AUROC"]]
    for label, about in result.detectors.items():
        one = result.row(HALF, label).quality
        cost = "" if one.cost.tower_seconds is None else f"{one.cost.tower_seconds:.0f}"
        theirs = about["published"].get("auroc")
        rows.append(
            [
                f"`{label}`",
                f"{one.clean} + {one.backdoored}",
                ranked(one.auroc),
                share(one.sensitivity),
                share(one.specificity),
                number(one.f1_attacks),
                cost,
                "" if theirs is None else f"{theirs}",
            ]
        )
    return rows


def model_table(result: BenchResult, detector: str) -> Table:
    """Every model that counts, with the attack's numbers and the verdict."""
    verdicts = {
        line.model: line for line in result.verdicts if (line.half, line.detector) == (HALF, detector)
    }
    rows = [["data", "prompts", "model", "seed", "accuracy", "success", "on base", "verdict", "score"]]
    for model in result.models:
        if model.half != HALF or not model.counts:
            continue
        said = verdicts[model.name]
        verdict = said.outcome + (f" {', '.join(said.flagged)}" if said.flagged else "")
        mark = "" if said.right else " (**wrong**)"
        rows.append(
            [
                model.dataset,
                model.learner,
                model.attack,
                str(model.seed),
                *measured(model),
                verdict + mark,
                number(said.score),
            ]
        )
    return rows


def every_model(result: BenchResult) -> Table:
    """Every model that was built, counted or not, with what each detector says of it."""
    rows = [
        [
            "data",
            "prompts",
            "model",
            "seed",
            "accuracy",
            "success",
            "on base",
            "counts",
            *(f"`{one}`" for one in result.detectors),
        ]
    ]
    said = {(line.model, line.detector): line for line in result.verdicts if line.half == HALF}
    for model in result.models:
        if model.half == HALF and model.state == "built":
            verdicts = [said.get((model.name, label)) for label in result.detectors]
            cells = ["" if one is None else f"{one.outcome} {number(one.score)}".strip() for one in verdicts]
            counts = "yes" if model.counts else "no"
            what = [model.dataset, model.learner, model.attack, str(model.seed)]
            rows.append([*what, *measured(model), counts, *cells])
    return rows


def not_counted_table(result: BenchResult) -> Table:
    """Attacks that did not succeed as the rules ask, with the reason."""
    rows = [["data", "model", "seed", "why it does not count"]]
    for model in result.models:
        if model.half == HALF and model.state == "built" and not model.counts:
            rows.append([model.dataset, model.attack, str(model.seed), "; ".join(model.reasons)])
    return rows


def repair_table(result: BenchResult) -> Table:
    """Each repair over the models that it was tried on: before and after."""
    from clipsec.bench._repaired import repair_rows

    rows = [["repair", "models", "accuracy before", "after", "success before", "after", "repaired"]]
    for one in repair_rows(result.repairs):
        if one.half == HALF and one.attack == "all":
            cells = (one.accuracy_before, one.accuracy_after, one.success_before, one.success_after)
            rows.append([f"`{one.repair}`", str(one.tried), *map(percent, cells), share(one.repaired)])
    return rows


def repaired_models(result: BenchResult, repair: str, anew: Mapping[str, Anew]) -> Table:
    """What one repair did to each model, beside prompts learned anew on the same pictures and the base, which
    nobody poisoned, under the same trigger."""
    rows = [
        ["data", "attack", "seed", "accuracy", "after", "anew", "success", "after", "anew", "base", "outcome"]
    ]
    models = {model.name: model for model in result.models}
    for line in result.repairs:
        if (line.half, line.repair) == (HALF, repair) and line.accuracy_after is not None:
            model, own = models[line.model], anew.get(line.model)
            cells = [
                *(line.accuracy_before, line.accuracy_after, own and own.accuracy.value),
                *(line.success_before, line.success_after, own and own.success.value),
            ]
            what = [model.dataset, model.attack, str(model.seed)]
            rows.append([*what, *map(percent, cells), measured(model)[-1], line.state])
    return rows


def measured(model: ModelLine) -> list[str]:
    """Accuracy, success and success on the base."""
    found = model.measured
    return [
        percent(None if r is None else r.value) for r in (found.accuracy, found.success, found.base_success)
    ]


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def share(one: Proportion) -> str:
    """`9 of 10 (60 to 98 %)`."""
    if not one.n:
        return ""
    return f"{one.k} of {one.n} ({100 * one.interval.low:.0f} to {100 * one.interval.high:.0f} %)"


def ranked(one: Auroc | None) -> str:
    """An AUROC with Newcombe's interval."""
    return "" if one is None else f"{one.value:.3f} ({one.interval.low:.3f} to {one.interval.high:.3f})"


def markdown(table: Table) -> str:
    """A table of Markdown; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines.insert(1, "|" + " --- |" * len(table[0]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
