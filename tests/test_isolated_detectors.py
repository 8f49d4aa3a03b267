"""A detector in a process of its own says what it says in process, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import clipsec
from clipsec.isolation import Limits
from clipsec.results import Outcome, RunResult, Verdict
from clipsec.scheduler import Scheduler
from clipsec_registry import Registry

PLUGINS = '''
import attrs, torch
from clipsec.errors import NotApplicableError
from clipsec.models import encode_texts, prepare_text_tower
from clipsec.protocols import Need
from clipsec.results import Outcome, Verdict
from clipsec.scheduler import Backward, Encode, Gather

@attrs.frozen
class Options:
    scale: float = 1.0
    names: tuple[str, ...] = ("a", "b")

class _Base:
    summary, api_version, options, references = "", "1.0", Options, ()
    needs = frozenset({Need.IMAGE_TOWER, Need.IMAGE_POOL, Need.CLASS_NAMES})

def pixels_of(context):
    return context.pool.pixels(context.suspect.base.visual.spec).float() / 255

def saying(score):
    return Verdict(Outcome.CLEAN, "fine", score=float(score), threshold=1e9)

def one(context, rows, steps):
    """Two towers, glue between them, several steps."""
    delta = torch.zeros(rows.shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.1)
    for _ in range(steps):
        features = yield Encode(context.suspect.image_tower(context.search_dtype), rows + delta)
        other = yield Encode(context.suspect.zero_shot_head(), features * 1.5)
        logits = yield Encode(context.suspect.head(context.search_dtype), features)
        optimiser.zero_grad()
        yield Backward((logits - other).square().mean() + features.norm() * 0)
        optimiser.step()
    return delta.detach()

class Gathers(_Base):
    api_version = "1.0"
    def detect(self, context):
        def fails():
            yield Encode(context.suspect.image_tower(), torch.rand(2, 3))
        rows = pixels_of(context)
        problems = [(i, one(context, rows[i : i + 3], 2)) for i in range(4)] + [("bad", fails())]
        done = yield Gather(problems, max_live=3)
        assert done[-1].error is not None
        context.progress(0.5, "half")
        return saying(sum(each.unwrap().double().abs().sum() for each in done[:-1]))

class Plain(_Base):
    api_version = "1.0"
    def detect(self, context):
        tower, rows = context.suspect.image_tower(), pixels_of(context)
        spec = context.suspect.base.visual.spec
        first = context.scheduler.encode(tower, rows, row_keys=context.pool.row_keys(spec))
        again = context.scheduler.encode(tower, rows[:2])
        problems = ((i, one(context, rows[i : i + 2], 1)) for i in range(3))
        ended = context.scheduler.as_completed(problems)
        found = sorted((done.tag, float(done.unwrap().sum())) for done in ended)
        assert torch.equal(first[:2], again) and context.scheduler.counts().forward_rows >= 8
        text = context.suspect.base.text
        vectors = torch.linspace(-1, 1, 2 * text.context_length * text.width)
        hidden = context.scheduler.encode(
            context.suspect.embedding_tower(), vectors.reshape(2, text.context_length, text.width)
        )
        return saying(
            first.double().sum()
            + hidden.double().sum()
            + sum(value for _, value in found) * context.options.scale
        )

class OwnTower(_Base):
    """The module itself, and a tower that the plugin prepares from it."""
    api_version = "1.0"
    def detect(self, context):
        base = context.suspect.base
        ids = base.text.tokenizer(["a cat", "a dog"])
        features = yield Encode(prepare_text_tower(base, torch.float32, "cpu"), ids)
        assert torch.allclose(features, encode_texts(base, ["a cat", "a dog"]), atol=1e-4)
        weights = sum(weight.double().sum() for weight in base.visual.module.parameters())
        return saying(features.double().sum() + weights)

class Shares(_Base):
    api_version = "1.0"
    def detect(self, context):
        found = context.shared.load("thing")
        context.shared.save("thing", {"n": 1 if found is None else found.data["n"] + 1})
        art = context.save_artifact("a/b.txt", "table", b"x")
        context.units.save("part", {}, {"t": torch.ones(2)})
        return attrs.evolve(saying(context.shared.load("thing").data["n"]), artifacts=(art,))

class Shy(_Base):
    api_version = "1.0"
    def detect(self, context):
        raise NotApplicableError("not for this one", remedy="Try another.")

class Poisons(_Base):
    """Other rows under the pool's keys, to be remembered for whoever asks next."""
    api_version = "1.0"
    isolation = "process"
    def detect(self, context):
        keys = context.pool.row_keys(context.suspect.base.visual.spec)
        yield Encode(context.suspect.image_tower(), torch.zeros_like(pixels_of(context)), row_keys=keys)
        return saying(0)

class Reads(_Base):
    api_version = "1.0"
    def detect(self, context):
        keys = context.pool.row_keys(context.suspect.base.visual.spec)
        features = yield Encode(context.suspect.image_tower(), pixels_of(context), row_keys=keys)
        return saying(features.double().sum())
'''
SAME = ("gathers", "plain", "own-tower")

Audit = Callable[..., RunResult]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, pool_folder: Path) -> Audit:
    folder = tmp_path_factory.mktemp("isolated")
    (folder / "plugins.py").write_text(PLUGINS)
    suspect = clipsec.load_suspect("zoo:demo-badclip")
    pool = clipsec.ImagePool.from_folder(pool_folder, limit=8)

    def run(*names: str, isolate: bool, **more: object) -> RunResult:
        return clipsec.audit(
            suspect,
            pool=pool,
            detectors=[f"local/{name}" for name in names],
            isolate=isolate,
            registry=Registry(local=[folder / "plugins.py"]),
            runs=folder / "runs",
            shared=folder / "shared",
            fresh=True,
            **more,
        )

    return run


@pytest.fixture(scope="module")
def apart(audit: Audit) -> tuple[RunResult, list[tuple[str, float, str]]]:
    """Everything isolated, and what it told of its progress."""
    told: list[tuple[str, float, str]] = []
    options = {"plain": {"scale": "3/2"}}
    result = audit(
        *SAME, "shares", "shy", isolate=True, options=options, on_progress=lambda *what: told.append(what)
    )
    return result, told


def verdict(result: RunResult, name: str) -> Verdict:
    found = result.verdicts[f"local/{name}"]
    assert found.error is None, found.error.traceback
    return found


def test_the_same_bits(audit: Audit, apart: tuple[RunResult, object]) -> None:
    """Chains of towers, sub-problems of which one fails, plain calls, modules, options: as in process, at the
    same rows."""
    here = audit(*SAME, isolate=False, options={"plain": {"scale": "3/2"}})
    for name in SAME:
        one, other = verdict(here, name), verdict(apart[0], name)
        assert one.score == other.score, name
        assert one.provenance.key == other.provenance.key
        assert one.cost.backward_rows == other.cost.backward_rows


def test_progress_skips_and_files_come_through(apart: tuple[RunResult, list[object]]) -> None:
    """What a detector tells, why it does not apply, and what it stores."""
    result, told = apart
    assert ("local/gathers", 0.5, "half") in told
    assert verdict(result, "shy").outcome is Outcome.SKIPPED
    assert verdict(result, "shy").notes[-1] == "Try another."
    shared = verdict(result, "shares")
    assert shared.score == 1.0
    (artifact,) = shared.artifacts
    assert (Path(result.folder) / artifact.path).read_bytes() == b"x"


def test_a_worker_cannot_poison_the_cache(audit: Audit) -> None:
    """Features of other rows under the pool's keys are not what the next detector gets from the cache."""
    alone, poisoned = Scheduler(), Scheduler()
    verdict(audit("poisons", isolate=False, scheduler=poisoned), "poisons")
    scores = [
        verdict(audit("reads", isolate=False, scheduler=scheduler), "reads").score
        for scheduler in (alone, poisoned)
    ]
    assert scores[0] == scores[1]


def test_features_are_shared_with_a_worker(audit: Audit) -> None:
    """The pool's own rows under its keys are computed once, whoever asks."""
    scheduler = Scheduler()
    here = verdict(audit("reads", isolate=False, scheduler=scheduler), "reads")
    apart = verdict(audit("reads", isolate=True, scheduler=scheduler), "reads")
    assert apart.score == here.score
    assert apart.cost.forward_rows == here.cost.forward_rows == 8
    assert apart.cost.cached_rows == 8


def test_an_unknown_name_is_a_usage_error(audit: Audit) -> None:
    """Isolating what is not there would leave everything in one process without a word."""
    with pytest.raises(clipsec.errors.UsageError, match="is to be isolated"):
        audit("reads", isolate=["raeds"])


def test_limits_are_positive() -> None:
    """Zero seconds are no limit but a mistake."""
    with pytest.raises(ValueError):
        Limits(seconds=0)
