"""From a suite to units of work: what is installed, which data there are, and the key of each unit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from clipsec.bench._suite import Suite, SuiteError
from clipsec.data import ImagePool, LabelledSet
from clipsec.errors import ClipsecError
from clipsec.models import Suspect, load_suspect
from clipsec.protocols import Need
from clipsec.runner import make_options, read_pictures_to_attack, shipped_pool
from clipsec.store import content_key
from clipsec_registry import PluginError, PluginRecord, Registry


@attrs.frozen(eq=False)
class Installed:
    """A plugin that the suite uses."""

    record: PluginRecord
    plugin: Any
    code: str
    """Digest of the distribution's code when it was imported."""

    @property
    def name(self) -> str:
        return self.record.canonical_name

    @property
    def identity(self) -> list[str]:
        """What enters keys: whose, which, which version."""
        return [self.record.canonical_name, self.record.version]


@attrs.frozen(eq=False)
class Variant:
    """A detector with options, or a repair."""

    label: str
    installed: Installed
    options: Any

    @property
    def session(self) -> str:
        """What a run calls it."""
        return f"{self.installed.name}@{self.label}"

    @property
    def values(self) -> dict[str, Any]:
        """The options as plain values."""
        return attrs.asdict(self.options)


@attrs.define(eq=False, slots=False)
class Pictures:
    """A data set of the suite; opened when first used."""

    name: str
    folder: Path

    @cached_property
    def parts(self) -> tuple[LabelledSet, LabelledSet | None]:
        """Pictures to learn from, and pictures to measure on (None leaves the choice to the attack)."""
        return read_pictures_to_attack(self.folder)

    @cached_property
    def digest(self) -> str:
        """Digest of both parts."""
        digests = ["" if part is None else part.digest for part in self.parts]
        return hashlib.sha256("/".join(digests).encode()).hexdigest()

    def forget(self) -> None:
        """Drop decoded pictures; the digest stays."""
        self.__dict__.pop("parts", None)


@attrs.frozen(eq=False, kw_only=True)
class Model:
    """One model of the suite."""

    half: str
    base: str
    dataset: str
    learner: str
    attack: str
    seed: int
    clean: bool
    name: str
    installed: Installed
    options: Any

    @property
    def reference(self) -> tuple[str, str, str, int]:
        """What it shares with the clean model that its accuracy is compared with."""
        return self.base, self.dataset, self.learner, self.seed


@attrs.define(eq=False, slots=False)
class Plan:
    """A suite that can be run here."""

    suite: Suite
    registry: Registry
    data: Path
    pool: Path | None
    """The pool of every data set, or None: as the suite says."""
    suite_folder: Path
    models: tuple[Model, ...]
    detectors: tuple[Variant, ...]
    repairs: tuple[Variant, ...]
    datasets: dict[str, Pictures]
    device: str = "cpu"
    """Torch device that models are trained and audited on. It enters no key: a unit is the same question
    whatever answers it."""
    _bases: dict[str, Suspect] = attrs.field(factory=dict, init=False)
    _pools: dict[Path, ImagePool] = attrs.field(factory=dict, init=False)
    _digests: dict[str, str] = attrs.field(factory=dict, init=False)

    def base_spec(self, label: str) -> str:
        """The spec of a base, paths made absolute."""
        return _spec(self.suite.bases[label], self.suite_folder)

    def base(self, label: str) -> Suspect:
        """A base, loaded once. Raises `ModelError`."""
        if label not in self._bases:
            suspect = load_suspect(self.base_spec(label), device=self.device, registry=self.registry)
            suspect.base_name = self.suite.bases[label]
            suspect.seal()
            self._bases[label] = suspect
        return self._bases[label]

    def forget_base(self, label: str) -> None:
        """Load it again when it is next needed."""
        self._bases.pop(label, None)

    def pool_of(self, dataset: str) -> ImagePool:
        """The image pool that models of a data set are audited with. Raises `DataError`."""
        return self._pool(self._pool_folder(dataset))

    def _pool(self, folder: Path) -> ImagePool:
        if folder not in self._pools:
            pool = self._pools[folder] = ImagePool.from_folder(folder)
            # A pool drops pictures that it cannot read, and then has another digest; keys must not change.
            self._digests[f"pool {folder}"] = pool.digest
        return self._pools[folder]

    def _pool_digest(self, folder: Path) -> str:
        self._pool(folder)
        return self._digests[f"pool {folder}"]

    def _pool_folder(self, dataset: str) -> Path:
        if self.pool is not None:
            return self.pool
        own = self.suite.datasets[dataset].pool if dataset in self.suite.datasets else None
        named = own or self.suite.audit.pool
        if named is not None:
            return self.data / named
        shipped = shipped_pool(self.registry)
        assert shipped is not None  # `make_plan` has looked
        return shipped[1]

    def attack_pool(self, attack: str) -> ImagePool | None:
        """The pictures that an attack may use. Raises `DataError`."""
        named = self.suite.attacks[attack].pool
        return None if named is None else self._pool(self.data / named)

    def groups(self) -> Iterator[list[Model]]:
        """Models that share base, data set and learner, one group after the other."""
        groups: dict[tuple[str, str, str, str], list[Model]] = {}
        for model in self.models:
            groups.setdefault((model.half, model.base, model.dataset, model.learner), []).append(model)
        yield from groups.values()

    def model_key(self, model: Model) -> str:
        """Key of everything that decides a model but the code of its plugin, which is recorded beside it."""
        key = f"model {model.name}"
        if key not in self._digests:
            pool = self.suite.attacks[model.attack].pool
            self._digests[key] = content_key(
                unit="model",
                base=self._base_digest(model.base),
                attack=model.installed.identity,
                options=attrs.asdict(model.options),
                data=self.datasets[model.dataset].digest,
                pool="" if pool is None else self._pool_digest(self.data / pool),
                seed=model.seed,
            )
        return self._digests[key]

    def _base_digest(self, label: str) -> str:
        key = f"base {label}"
        if key not in self._digests:
            self._digests[key] = self.base(label).base.digest
        return self._digests[key]

    def audit_key(self, model: Model, variant: Variant, suspect_digest: str) -> str:
        """The same for what one detector says of one model; `suspect_digest` is the model's own."""
        return content_key(
            unit="audit",
            detector=variant.installed.identity,
            options=variant.values,
            suspect=suspect_digest,
            pool=self._pool_digest(self._pool_folder(model.dataset)),
            seed=self.suite.audit.seed,
            dtype=self.suite.audit.search_dtype,
        )

    def repair_key(self, model: Model, repair: Variant, finding: str) -> str:
        """The same for one repair of one model; `finding` is the key of the verdict it starts from."""
        return content_key(
            unit="repair",
            repair=repair.installed.identity,
            options=repair.values,
            finding=finding,
            data=self.datasets[model.dataset].digest,
            seed=self.suite.audit.seed,
        )


def make_plan(
    suite: Suite,
    *,
    data: Path,
    registry: Registry,
    pool: Path | None = None,
    suite_folder: Path = Path(),
    where: str = "the suite",
    device: str = "cpu",
) -> Plan:
    """Check a suite against what is installed and which data there are.

    Raises `SuiteError` with everything that is wrong: plugins, options, settings, data sets, pools.
    """
    problems: list[str] = []
    attacks = _install(registry, "attacks", {k: v.plugin for k, v in suite.attacks.items()}, problems)
    for label, installed in attacks.items():
        if suite.attacks[label].clean != bool(getattr(installed.plugin, "clean", False)):
            makes, says = ("clean", "poisoned") if not suite.attacks[label].clean else ("poisoned", "clean")
            problems.append(f"attacks.{label}: {installed.name} makes {makes} models, the suite says {says}")
        if suite.attacks[label].pool is None and Need.IMAGE_POOL in getattr(installed.plugin, "needs", ()):
            problems.append(f"attacks.{label} needs a pool of pictures; name one with pool")
    found = _install(registry, "detectors", {k: v.plugin for k, v in suite.detectors.items()}, problems)
    detectors = []
    for label, installed in found.items():
        options = _options(installed, suite.detectors[label].options, f"detector {label}", problems)
        detectors.append(Variant(label, installed, options))
    problems += _twins(detectors)
    mended = _install(registry, "repairs", {k: v.plugin for k, v in suite.repairs.items()}, problems)
    repairs = [
        Variant(
            label, installed, _options(installed, suite.repairs[label].options, f"repair {label}", problems)
        )
        for label, installed in mended.items()
    ]
    datasets = {name: Pictures(name, data / name) for half in suite.halves.values() for name in half.datasets}
    for name, pictures in datasets.items():
        if not pictures.folder.is_dir():
            problems.append(f"there is no data set {name} below {data}")
    problems += _pools(suite, data, pool, registry)
    models = list(_models(suite, attacks, problems))
    for label, spec in suite.bases.items():
        place = _spec(spec, suite_folder)
        if ":" not in place and not Path(place).exists():
            problems.append(f"base {label}: there is no {spec} beside the suite")
    if problems:
        raise SuiteError(where, list(dict.fromkeys(problems)))
    return Plan(
        suite,
        registry,
        data,
        pool,
        suite_folder,
        tuple(models),
        tuple(detectors),
        tuple(repairs),
        datasets,
        device,
    )


def _spec(spec: str, folder: Path) -> str:
    return spec if ":" in spec else str((folder / spec).resolve())


def _install(
    registry: Registry, kind: str, plugins: Mapping[str, str], problems: list[str]
) -> dict[str, Installed]:
    """Find and import plugins, by label; what cannot be used becomes a problem."""
    installed: dict[str, Installed] = {}
    by_name: dict[str, Installed] = {}
    for label, name in plugins.items():
        try:
            record = registry.find(kind, name)
            if record.canonical_name not in by_name:
                plugin = registry.load(record, strict=True)
                code = record.code_digest
                by_name[record.canonical_name] = Installed(registry.record(record), plugin, code)
            installed[label] = by_name[record.canonical_name]
        except PluginError as error:
            problems.append(f"{kind}.{label}: {error.message}. {error.remedy}")
    return installed


def _options(installed: Installed, values: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    try:
        return make_options(installed.plugin.options, values, where)
    except ClipsecError as error:
        problems.append(f"{error.message}. {error.remedy}")
        return None


def _twins(variants: list[Variant]) -> Iterator[str]:
    for place, one in enumerate(variants):
        for other in variants[:place]:
            if one.installed is other.installed and one.options == other.options is not None:
                yield f"detectors {other.label} and {one.label} are one plugin with the same options"


def _pools(suite: Suite, data: Path, pool: Path | None, registry: Registry) -> Iterator[str]:
    for label, attack in suite.attacks.items():
        if attack.pool is not None and not (data / attack.pool).is_dir():
            yield f"attacks.{label}: there is no pool {attack.pool} below {data}"
    if pool is not None:
        if not pool.is_dir():
            yield f"there is no pool {pool}"
        return
    names = {suite.audit.pool, *(dataset.pool for dataset in suite.datasets.values())}
    for name in sorted(name for name in names if name is not None):
        if not (data / name).is_dir():
            yield f"there is no pool {name} below {data}"
    if suite.audit.pool is None and shipped_pool(registry) is None:
        yield "it names no pool, and no installed plugin ships one: say --pool FOLDER"


def _models(suite: Suite, attacks: Mapping[str, Installed], problems: list[str]) -> Iterator[Model]:
    """Every model, clean ones first in each group."""
    ordered = sorted(suite.attacks, key=lambda label: not suite.attacks[label].clean)
    for half, plan in suite.halves.items():
        for base in suite.bases:
            for dataset in plan.datasets:
                for learner, how in suite.learners.items():
                    for label in ordered:
                        clean = suite.attacks[label].clean
                        if label not in attacks or not (clean or how.attacks is None or label in how.attacks):
                            continue
                        where = f"attack {label} on {dataset} with {learner}"
                        values = suite.settings_of(dataset, learner, label)
                        options = _options(attacks[label], values, where, problems)
                        for seed in suite.seeds_of(half, label):
                            name = _name(suite, base, dataset, learner, f"{label}-{seed}")
                            yield Model(
                                half=half,
                                base=base,
                                dataset=dataset,
                                learner=learner,
                                attack=label,
                                seed=seed,
                                clean=clean,
                                name=name,
                                installed=attacks[label],
                                options=options,
                            )


def _name(suite: Suite, base: str, dataset: str, learner: str, last: str) -> str:
    """What tells the models of a suite apart, where there is more than one choice."""
    parts = [base if len(suite.bases) > 1 else "", dataset, learner if len(suite.learners) > 1 else "", last]
    return "-".join(part for part in parts if part)
