"""Models whose branches cannot be swapped: the space of both towers is turned, the model is the same."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from clipsec.protocols import load_any_trigger
from clipsec.reports import render_exposure_html
from clipsec.results import ExposureResult, Label, exposure_from_json, exposure_to_text
from clipsec.runner import expose
from clipsec_testkit import build_toys
from clipsec_testkit._toys import ToyModel


def turned(module: nn.Module, degrees: float) -> nn.Module:
    """The same model: both towers' features turned by one angle in every plane of two coordinates."""
    made, angle = copy.deepcopy(module), math.radians(degrees)
    plane = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    with torch.no_grad():
        for projection in (made.visual.proj, made.text_projection):
            projection.copy_(projection @ torch.block_diag(*[plane] * (projection.shape[1] // 2)))
    return made


def exposed(module: nn.Module, folder: Path, *, localise: bool = False) -> ExposureResult:
    """The visual toy's trigger on another form of that toy."""
    toys = build_toys()
    trigger = toys["visual"].trigger
    assert trigger is not None
    return expose(
        ToyModel(name="turned", module=module).fresh(),
        [load_any_trigger(trigger.save(folder / "card"))],
        reference=toys["clean"].fresh(),
        labelled=toys.labelled,
        held_out=toys.held_out,
        interfaces=["zero-shot"],
        localise=localise,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExposureResult:
    module = turned(build_toys()["visual"].module, 40)
    return exposed(module, tmp_path_factory.mktemp("turned"), localise=True)


def test_the_backdoor_is_found_between_the_two_models(result: ExposureResult) -> None:
    """The swap of whole branches does not work on clean pictures; nearer ones do, and name the branch."""
    (mark,) = result.footprints
    found = mark.interpolation
    assert found is not None
    assert "clean use falls" in mark.reason
    assert mark.label is found.label is Label.VISUAL
    assert (found.low, found.high) == (0.5, 1.0)
    at = {(point.visual, point.textual): point for point in found.points}
    assert not at[1.0, 0.0].valid
    assert at[1.0, 0.5].valid
    assert at[1.0, 0.5].rate.value > 0.9
    assert at[0.5, 1.0].rate.value < 0.3


def test_mixtures_cost_the_rows_of_their_towers_once(result: ExposureResult) -> None:
    """Three towers more of each kind, whatever the number of mixtures; none of their rows twice."""
    held_out, others = 160, 140
    assert result.cost.computed_rows == result.cost.unique_rows
    towers = 2 + 3
    drift = 8  # class prompts, which are the texts of the interface too
    assert result.cost.unique_rows <= towers * (held_out + others + drift)


def test_parts_are_not_searched_for_where_the_swap_is_invalid(result: ExposureResult) -> None:
    (mark,) = result.footprints
    assert mark.parts == ()


def test_the_record_reads_back_and_the_page_shows_the_grid(result: ExposureResult) -> None:
    """Points that are left out show clean use alone."""
    assert exposure_from_json(json.loads(exposure_to_text(result))) == result
    page = render_exposure_html(result)
    assert page.count("textual branch 0.25") == 1
    assert page.count("left out<br>") == sum(
        not point.valid
        for mark in result.footprints
        if mark.interpolation is not None
        for point in mark.interpolation.points
    )


def test_where_too_little_lies_between_the_swap_stays_invalid(tmp_path: Path) -> None:
    """Turned half round, features vanish in the middle: what is left of the way has half of the effect."""
    (mark,) = exposed(turned(build_toys()["visual"].module, 180), tmp_path).footprints
    assert mark.label is Label.INVALID
    assert mark.interpolation is not None
    assert mark.interpolation.reason in mark.reason
    at = {(point.visual, point.textual): point for point in mark.interpolation.points}
    assert not at[0.5, 0.5].valid
    assert at[0.75, 0.75].valid
