"""The run of a matrix: what an interface may do wrong costs its own cell, and nothing reads as safe."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import attrs
import pytest
import torch

from clipsec.errors import ContractError, UsageError
from clipsec.protocols import CaptionTrigger, Trigger
from clipsec.results import CellState, Label, Outcome, Status, exposure_from_json, exposure_to_text
from clipsec.runner import expose
from clipsec.triggers import Stamp, TextTrigger
from clipsec_registry import Registry

FILE = '''
import attrs, torch
from clipsec.errors import NotApplicableError
from clipsec.exposure import encode_pictures, encode_texts
from clipsec.protocols import Channel, InterfaceCard, Need, Readout
from clipsec.results import Measurement


@attrs.frozen
class Options:
    first: int = 12


class Base:
    summary, needs, options, references = "s", frozenset({Need.LABELS}), Options, ()
    card = InterfaceCard(readout=Readout.SCORE, channels=(Channel.QUERY_IMAGE,), event="e", population="p",
                         reference="r", metric="TS")

    def cases(self, context):
        return list(range(min(context.options.first, len(context.held_out))))

    def measure(self, context):
        rows = self.cases(context)
        prompts = yield from encode_texts(context, list(context.suspect.class_names))
        pictures = yield from encode_pictures(context, rows, stamped=True)
        answers = (pictures @ prompts.T).argmax(1)
        return Measurement(events=tuple((answers == context.trigger.target_index).int().tolist()),
                           utility=(1,) * 20, index={"held out": rows})


class Good(Base):
    api_version = "1.0"
    localises = True


class Again(Base):
    """Asks for the same rows as Good."""
    api_version = "1.0"


class Crashes(Base):
    api_version = "1.0"

    def measure(self, context):
        raise RuntimeError("boom")


class Exits(Base):
    api_version = "1.0"

    def measure(self, context):
        raise SystemExit(0)


class Few(Base):
    api_version = "1.0"

    def measure(self, context):
        raise NotApplicableError("too few cases: three pictures", remedy="Bring more.")


class Halves(Base):
    api_version = "1.0"

    def measure(self, context):
        return Measurement(events=(0.5,))


class Moves(Base):
    """Takes other cases when the trigger is on."""
    api_version = "1.0"

    def cases(self, context):
        return [0, 1] if context.triggered else [2, 3]


class Wants(Base):
    api_version = "1.0"
    needs = frozenset({Need.IMAGE_POOL})


class Reads(Base):
    """Reads texts, and a picture trigger cannot enter."""
    api_version = "1.0"
    card = attrs.evolve(Base.card, readout=Readout.TEXT, channels=(Channel.QUERY_TEXT,))


class Words(Base):
    """Reads texts."""
    api_version = "1.0"
    needs = frozenset()
    card = attrs.evolve(Base.card, readout=Readout.TEXT, channels=(Channel.QUERY_TEXT,))

    def measure(self, context):
        names = list(context.suspect.class_names)
        prompts = yield from encode_texts(context, names)
        asked = yield from encode_texts(context, context.mark([f"one {name}" for name in names]))
        events = ((asked @ prompts.T).argmax(1) == context.trigger.target_index).int().tolist()
        return Measurement(events=tuple(events), utility=(1,))


class NoCard(Base):
    api_version = "1.0"
    card = None
'''
PATCH = Trigger(
    stamp=Stamp("additive", {"delta": torch.full((3, 32, 32), 0.1)}), target_index=9, target_name="ship"
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(FILE)
    return Registry("interfaces", "models", local=[path])


@pytest.fixture
def pair(modules, suspect_of):
    """A suspect whose image tower alone was changed, and the clean model."""
    changed = copy.deepcopy(modules[0])
    with torch.no_grad():
        changed.visual.conv1.weight.add_(0.05)
    return suspect_of(changed, "suspect"), suspect_of(modules[0], "clean")


OURS = ("good", "again", "crashes", "exits", "few", "halves", "moves", "wants", "reads", "no-card")


def run(pair, registry, labelled, *names, reference=True, **more):
    return expose(
        pair[0],
        more.pop("triggers", [PATCH]),
        reference=pair[1] if reference else None,
        labelled=labelled,
        held_out=labelled,
        interfaces=[f"local/{name}" for name in names],
        registry=registry,
        **more,
    )


def cells(result):
    return {cell.interface.partition("/")[2]: cell for cell in result.cells if "local/" in cell.interface}


@pytest.fixture(scope="module")
def whole(modules, registry, labelled, tmp_path_factory):
    """One run of all of them, with its folder."""
    changed = copy.deepcopy(modules[0])
    with torch.no_grad():
        changed.visual.conv1.weight.add_(0.05)
    from clipsec.models import Suspect, clip_from_open_clip

    made = []
    for module in (changed, modules[0]):
        clip = clip_from_open_clip(copy.deepcopy(module), name="tiny")
        made.append(Suspect(name="tiny", kind="clip", base=clip, class_names=("cat", "dog", "ship")))
    folder = tmp_path_factory.mktemp("exposed")
    return run(made, registry, labelled, *OURS, output=folder), folder


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("good", CellState.MEASURED, ""),
        ("crashes", CellState.ERROR, "RuntimeError: boom"),
        ("exits", CellState.ERROR, "sys.exit"),
        ("few", CellState.NOT_RUN, "three pictures"),
        ("halves", CellState.ERROR, "neither 0 nor 1"),
        ("moves", CellState.ERROR, "other cases"),
        ("wants", CellState.MISSING, "--pool"),
        ("reads", CellState.NOT_ELIGIBLE, "enters by pictures"),
        ("no-card", CellState.ERROR, "InterfaceCard"),
    ],
)
def test_each_kind_of_nothing_is_told_apart(whole, name: str, state: CellState, reason: str) -> None:
    """What goes wrong in one interface is that cell's, with the reason."""
    cell = cells(whole[0])[name]
    assert cell.state is state
    assert reason in cell.reason


def test_an_interface_that_crashed_is_never_clean(whole) -> None:
    assert whole[0].outcome in (Outcome.ERROR, Outcome.FINDING, Outcome.INCONCLUSIVE)
    assert whole[0].exit_code in (1, 2)


def test_the_same_rows_are_computed_once(whole) -> None:
    """Two interfaces, four conditions, four hybrids: no row goes through a tower twice."""
    cost = whole[0].cost
    assert cost.computed_rows <= cost.unique_rows
    # 24 pictures at most, stamped or not, by two image towers; three class names and captions for the drift
    # by one text tower.
    assert cost.unique_rows <= 2 * 2 * 24 + 10
    assert cost.cached_rows > cost.computed_rows


def test_the_record_reads_back_and_names_its_cases(whole) -> None:
    """The JSON gives the same result; each measured cell has the rows that it used, with their digest."""
    import hashlib

    result, folder = whole
    again = exposure_from_json(json.loads((folder / "exposure.json").read_text()))
    assert exposure_to_text(again) == exposure_to_text(result)
    cell = cells(result)["good"]
    content = (folder / cell.pools).read_bytes()
    assert hashlib.sha256(content).hexdigest() == cell.pools_digest
    assert json.loads(content)["rows"]["held out"] == list(range(12))


def test_the_page_shows_every_cell_and_its_reason(whole) -> None:
    page = (whole[1] / "exposure.html").read_text()
    for cell in whole[0].cells:
        assert cell.interface in page
    assert "three pictures" in page
    assert "<script" not in page


def test_the_drift_is_told_before_the_matrix(whole) -> None:
    """The text branch is the reference's own, the image branch moved."""
    visual, textual = whole[0].drift
    assert textual.identical
    assert not visual.identical
    assert visual.relative_change > 0
    assert -1 <= visual.worst_cosine < 1


def test_the_footprint_says_which_branch_was_not_tested(whole) -> None:
    (mark,) = whole[0].footprints
    assert mark.trivial == ("textual",)
    assert set(mark.rates) == {"a00", "a10", "a01", "a11"}


def test_the_target_is_found_by_its_name(whole) -> None:
    """The card's number is that of another model's list."""
    assert cells(whole[0])["good"].estimate is not None
    assert PATCH.target_index == 9


def test_options_reach_the_interface(pair, registry, labelled) -> None:
    result = run(pair, registry, labelled, "good", options={"good": {"first": "5"}})
    cell = cells(result)["good"]
    assert (cell.estimate.n, cell.options) == (5, {"first": 5})
    assert cells(result)["again"].state is CellState.NOT_RUN


def test_without_a_reference_nothing_is_concluded(pair, registry, labelled) -> None:
    """Rates are there, a status other than inconclusive is not."""
    cell = cells(run(pair, registry, labelled, "good", reference=False))["good"]
    assert cell.status is Status.INCONCLUSIVE
    assert cell.estimate.did is None


def test_what_is_identical_is_not_compared(modules, suspect_of, registry, labelled) -> None:
    """An interface that reads the untouched tower only says nothing about the suspect."""
    changed = copy.deepcopy(modules[0])
    with torch.no_grad():
        changed.text_projection.add_(0.1)
    pair = suspect_of(changed), suspect_of(modules[0])
    word = CaptionTrigger(text=TextTrigger(kind="append", text="zz"), target_name="a photo of a cat")
    result = run(pair, registry, labelled, "good", triggers=[PATCH, word])
    picture, text = (cell for cell in result.cells if cell.interface == "local/good")
    assert picture.status is not Status.IDENTICAL  # it reads scores, and texts changed
    assert text.state is CellState.NOT_ELIGIBLE
    assert result.triggers[1].target == "cat"


def test_a_text_tower_alone_is_measured_by_what_reads_texts(modules, suspect_of, registry) -> None:
    """Without pictures and without an image tower; what needs either has no number."""
    changed = copy.deepcopy(modules[0])
    with torch.no_grad():
        changed.text_projection.add_(0.5)
    pair = suspect_of(changed), suspect_of(modules[0])
    for each in pair:
        each.base = attrs.evolve(each.base, visual=None)
    word = CaptionTrigger(text=TextTrigger(kind="append", text="zz"), target_name="cat")
    result = run(pair, registry, None, "good", "words", triggers=[word])
    found = cells(result)
    assert found["words"].state is CellState.MEASURED
    assert found["words"].estimate.did is not None
    assert found["good"].state is CellState.NOT_ELIGIBLE
    assert any("needs both towers" in note for note in result.notes)


def test_hybrids_that_cannot_be_measured_are_told(pair, registry, labelled, tmp_path: Path) -> None:
    """An interface that fails on hybrids alone: its cell stands, the footprint says why there is none."""
    path = tmp_path / "picky.py"
    path.write_text(
        FILE.replace("class Good(Base):", "class Picky(Base):").split("class Again")[0]
        + """
    def measure(self, context):
        if "visual of" in context.suspect.name:
            raise RuntimeError("no hybrids")
        return (yield from super().measure(context))
"""
    )
    result = run(pair, Registry("interfaces", "models", local=[path]), labelled, "picky")
    (mark,) = result.footprints
    assert mark.label is Label.INVALID
    assert "no hybrids" in mark.reason
    assert cells(result)["picky"].state is CellState.MEASURED


def test_a_reference_that_is_the_suspect_is_refused(modules, suspect_of, registry, labelled) -> None:
    """Otherwise every cell would agree with itself."""
    with pytest.raises(UsageError, match="itself"):
        run((suspect_of(modules[0]), suspect_of(modules[0])), registry, labelled, "good")


def test_a_trigger_of_another_size_is_refused(pair, registry, labelled) -> None:
    small = attrs.evolve(PATCH, stamp=Stamp("additive", {"delta": torch.zeros(3, 16, 16)}))
    with pytest.raises(UsageError, match="16 pixels"):
        run(pair, registry, labelled, "good", triggers=[small])


def test_a_foreign_target_is_not_eligible(pair, registry, labelled) -> None:
    """Not an error: the question has no meaning, and nothing was compared."""
    result = run(pair, registry, labelled, "good", triggers=[attrs.evolve(PATCH, target_name="zebra")])
    assert cells(result)["good"].state is CellState.NOT_ELIGIBLE
    assert result.exit_code in (2, 3)


def test_a_tower_that_was_changed_ends_the_run(pair, registry, labelled, tmp_path: Path) -> None:
    """Nothing that was computed with it is told."""
    path = tmp_path / "bad.py"
    path.write_text(
        FILE.replace("class Good(Base):", "class Spoils(Base):").split("class Again")[0]
        + """
    def measure(self, context):
        context.suspect.base.visual.module.conv1.weight.data.add_(1)
        return Measurement(events=(1,), utility=(1,))
"""
    )
    with pytest.raises(ContractError, match="changed in memory"):
        run(pair, Registry("interfaces", "models", local=[path]), labelled, "spoils")
