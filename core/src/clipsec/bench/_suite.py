"""What a suite file says: data sets x prompt learners x attacks x seeds x detectors, in disjoint halves."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs

from clipsec.errors import UsageError
from clipsec.results._plain import canonical_json, encode_plain

OTHERS = "others"
"""The key of a half's `seeds` that stands for every attack without a key of its own."""
CLEAN = "clean"
"""Label of the clean models, unless the suite names an attack of its own that makes them."""
CLEAN_PLUGIN = "none"
METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "f1_attacks", "f1_datasets")
"""What `published` may give numbers for."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")


@attrs.frozen
class Rules:
    """When a poisoned model counts as one."""

    min_success: float = 0.85
    """Its own trigger's success on held-out Seen pictures must be above this."""
    max_loss: float = 0.03
    """Its accuracy may be this much below that of the clean model with the same data and seed."""
    max_on_base: float = 0.5
    """Success of its trigger on the base without the learned prompts must be below this: a perturbation that
    fools the public model as well is not a backdoor in what was delivered."""


@attrs.frozen
class Learner:
    """A prompt learner, or any other named set of settings that every attack gets."""

    settings: dict[str, Any] = attrs.field(factory=dict)
    attacks: tuple[str, ...] | None = None
    """Labels of the attacks it is used with; None: all. The clean model is always made."""


@attrs.frozen
class Attack:
    """One way to make models: a plugin of kind `attacks` with settings."""

    plugin: str
    settings: dict[str, Any] = attrs.field(factory=dict)
    clean: bool = False
    """Whether its models are clean: references for accuracy, and what specificity is measured on. The plugin
    must say so too, by its class attribute `clean`."""
    pool: str | None = None
    """Pictures that the attack may use, a folder below the data; not those that models are audited with."""
    min_success: float | None = None
    max_loss: float | None = None
    max_on_base: float | None = None


@attrs.frozen
class Detector:
    """One way to audit models: a plugin of kind `detectors` with options."""

    plugin: str
    options: dict[str, Any] = attrs.field(factory=dict)
    published: dict[str, float] = attrs.field(factory=dict)
    """Numbers to show beside the measured ones, by the names in `METRICS`."""
    source: str = ""
    """Where the published numbers stand."""


@attrs.frozen
class Repair:
    """One way to repair models: a plugin of kind `repairs` with options."""

    plugin: str
    detector: str
    """Label of the detector whose verdict it starts from."""
    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Dataset:
    """What differs on one data set."""

    settings: dict[str, Any] = attrs.field(factory=dict)
    """For every model, over those of learner and attack."""
    attacks: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """Settings of single attacks, by label."""
    pool: str | None = None
    """Another image pool, a folder below the data."""


@attrs.frozen
class Half:
    """Part of a suite. No data set and no seed is in two of them."""

    datasets: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    """By label of the attack; `others` for the rest."""
    attacks: tuple[str, ...] | None = None
    """Labels; None: all."""


@attrs.frozen
class Audit:
    """How models are audited."""

    pool: str | None = None
    """Folder of unlabelled pictures below the data. None: what an installed plugin ships."""
    seed: int = 0
    search_dtype: str = attrs.field(
        default="bfloat16", validator=attrs.validators.in_(("bfloat16", "float32"))
    )
    together: bool = True
    """All detectors of a model in one run, so that they share batches and features."""
    uncounted: bool = False
    """Whether poisoned models that do not count are audited too."""


@attrs.frozen
class Suite:
    """A suite file as data."""

    name: str
    bases: dict[str, str]
    """Label to spec; a path counts from the suite file."""
    detectors: dict[str, Detector]
    halves: dict[str, Half]
    about: str = ""
    learners: dict[str, Learner] = attrs.field(factory=lambda: {"default": Learner()})
    attacks: dict[str, Attack] = attrs.field(factory=dict)
    datasets: dict[str, Dataset] = attrs.field(factory=dict)
    repairs: dict[str, Repair] = attrs.field(factory=dict)
    rules: Rules = Rules()
    audit: Audit = Audit()

    @property
    def digest(self) -> str:
        """sha256 of what the file says; comments and order do not matter."""
        return hashlib.sha256(canonical_json(encode_plain(attrs.asdict(self), "suite"))).hexdigest()

    @property
    def clean_label(self) -> str:
        """The label of the attack that makes clean models."""
        return next(label for label, attack in self.attacks.items() if attack.clean)

    def seeds_of(self, half: str, attack: str) -> tuple[int, ...]:
        """The seeds of an attack in a half; none where the half leaves it out."""
        plan = self.halves[half]
        if plan.attacks is not None and attack not in plan.attacks and not self.attacks[attack].clean:
            return ()
        return plan.seeds.get(attack, plan.seeds.get(OTHERS, ()))

    def settings_of(self, dataset: str, learner: str, attack: str) -> dict[str, Any]:
        """Settings of one model: the learner's, the attack's, the data set's, those of both."""
        special = self.datasets.get(dataset, Dataset())
        return {
            **self.learners[learner].settings,
            **self.attacks[attack].settings,
            **special.settings,
            **special.attacks.get(attack, {}),
        }

    def rules_of(self, attack: str) -> Rules:
        """When a model of this attack counts."""
        own = self.attacks[attack]
        given = {field.name: getattr(own, field.name) for field in attrs.fields(Rules)}
        return attrs.evolve(self.rules, **{name: value for name, value in given.items() if value is not None})


class SuiteError(UsageError):
    """A suite cannot be run as it is. `problems` lists all that is wrong."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        shown = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            f"{where} has {len(problems)} problem{'' if len(problems) == 1 else 's'}:{shown}",
            remedy="Nothing was built or audited. Correct the suite; docs/bench.md describes the format.",
        )


def read_suite(path: Path | str) -> Suite:
    """The suite in a TOML file. Raises `SuiteError` with everything that can be told from the file alone."""
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="Name a suite as TOML.") from error
    return parse_suite(document, str(path))


def parse_suite(document: Mapping[str, Any], where: str = "the suite") -> Suite:
    """The suite that a parsed TOML document describes. Raises `SuiteError`."""
    try:
        suite: Suite = _CONVERTER.structure(document, Suite)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise SuiteError(where, _readable(error)) from error
    if not any(attack.clean for attack in suite.attacks.values()):
        suite = attrs.evolve(suite, attacks={CLEAN: Attack(CLEAN_PLUGIN, clean=True), **suite.attacks})
    problems = list(dict.fromkeys(_problems(suite)))
    if problems:
        raise SuiteError(where, problems)
    return suite


def _problems(suite: Suite) -> Iterator[str]:
    yield from _bad_labels(suite)
    for what, table in (("base", suite.bases), ("detector", suite.detectors), ("half", suite.halves)):
        if not table:
            yield f"it names no {what}"
    clean = [label for label, attack in suite.attacks.items() if attack.clean]
    if len(clean) > 1:
        yield f"more than one attack says clean = true: {', '.join(clean)}"
    yield from _in_two_halves(suite)
    for name, half in suite.halves.items():
        if not half.datasets:
            yield f"half {name} names no data set"
        for label in half.attacks or ():
            if label not in suite.attacks:
                yield f"half {name} has an unknown attack {label!r}"
        for label in half.seeds:
            if label != OTHERS and label not in suite.attacks:
                yield f"half {name} has seeds for an unknown attack {label!r}"
        without = sorted(
            {
                f"{label} {seed}"
                for label in suite.attacks
                for seed in suite.seeds_of(name, label)
                if seed not in suite.seeds_of(name, clean[0])
            }
        )
        if without:
            yield f"half {name} has no clean model with the seed of: {', '.join(without)}"
    used = {dataset for half in suite.halves.values() for dataset in half.datasets}
    for name, dataset in suite.datasets.items():
        if name not in used:
            yield f"datasets.{name} is in no half"
        for label in dataset.attacks:
            if label not in suite.attacks:
                yield f"datasets.{name} has settings for an unknown attack {label!r}"
    for name, learner in suite.learners.items():
        for label in learner.attacks or ():
            if label not in suite.attacks:
                yield f"learner {name} is for an unknown attack {label!r}"
    for name, detector in suite.detectors.items():
        for key in detector.published:
            if key not in METRICS:
                yield f"detector {name} has a published {key!r}; known are {', '.join(METRICS)}"
    for name, repair in suite.repairs.items():
        if repair.detector not in suite.detectors:
            yield f"repair {name} starts from an unknown detector {repair.detector!r}"


def _bad_labels(suite: Suite) -> Iterator[str]:
    for table in ("bases", "learners", "attacks", "detectors", "repairs", "halves"):
        for label in getattr(suite, table):
            if not _LABEL.fullmatch(label) or label == OTHERS:
                yield f"{table}.{label!r:.60} is no label: use letters, digits, '-', '_' and '.'"


def _in_two_halves(suite: Suite) -> Iterator[str]:
    # What thresholds are chosen on must not be what they are tested on.
    for what, values in (
        ("data set", lambda half: half.datasets),
        ("seed", lambda half: [seed for seeds in half.seeds.values() for seed in seeds]),
    ):
        homes: dict[Any, list[str]] = {}
        for name, half in suite.halves.items():
            listed = list(values(half))
            if what == "data set" and len(set(listed)) < len(listed):
                yield f"half {name} names a data set twice"
            for value in dict.fromkeys(listed):
                homes.setdefault(value, []).append(name)
        for value, names in homes.items():
            if len(names) > 1:
                yield f"{what} {value} is in more than one half: {', '.join(names)}"


def _exactly(*kinds: type) -> Any:
    def hook(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            wanted = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
            raise ValueError(f"{value!r:.60} is not {wanted[kinds[-1]]}")
        return float(value) if kinds[-1] is float else value

    return hook


def _seeds(value: Any) -> dict[str, tuple[int, ...]]:
    table = value if isinstance(value, dict) else {OTHERS: value}
    for label, seeds in table.items():
        if (
            not isinstance(seeds, list)
            or not seeds
            or any(type(seed) is not int or seed < 0 for seed in seeds)
        ):
            raise ValueError(f"seeds of {label} must be a list of whole numbers, not {seeds!r:.60}")
    return {label: tuple(dict.fromkeys(seeds)) for label, seeds in table.items()}


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kinds in ((str,), (int,), (int, float), (bool,)):
        converter.register_structure_hook(kinds[-1], _exactly(*kinds))
    converter.register_structure_hook_func(
        lambda kind: kind == dict[str, tuple[int, ...]], lambda value, _: _seeds(value)
    )
    converter.register_structure_hook_func(lambda kind: kind == dict[str, Any], lambda value, _: dict(value))
    return converter


def _readable(error: BaseException) -> list[str]:
    """cattrs' messages with the place in the suite first."""
    messages = cattrs.transform_error(error, format_exception=_words, path="")
    lines = []
    for message in messages:
        text, _, place = message.rpartition(" @ ")
        place = place.lstrip(".").replace("['", ".").replace("']", "").lstrip(".")
        lines.append(f"{place}: {text}" if place else text)
    return lines


def _words(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = ", ".join(sorted(field.name for field in attrs.fields(error.cl)))
        return f"unknown {', '.join(sorted(error.extra_fields))}; known are {known}"
    return str(error.args[0] if error.args else error)


_CONVERTER = _make_converter()
