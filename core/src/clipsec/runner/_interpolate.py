"""An invalid branch swap, measured over parts of the way between the two models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from clipsec.exposure import ALPHAS, GRID, hybrid, interpolated, interpolation_of, unlike_branches
from clipsec.models import Suspect
from clipsec.results import Footprint, Interpolation, Measurement, check_same_cases

Place = tuple[float, float]
ENDS = {(0.0, 0.0): "a00", (1.0, 0.0): "a10", (0.0, 1.0): "a01", (1.0, 1.0): "a11"}


def models_between(suspect: Suspect, reference: Suspect) -> dict[Place, Suspect]:
    """Every mixture of the grid but the four hybrids: how far the visual and the textual branch are, to it.

    Three towers of each kind are made, and shared. The logit scale is the reference's.
    """
    way = {
        0.0: hybrid(suspect, reference, visual=False, textual=False),
        **{alpha: interpolated(suspect, reference, visual=alpha, textual=alpha) for alpha in ALPHAS},
        1.0: hybrid(suspect, reference, visual=True, textual=True),
    }
    return {
        (visual, textual): hybrid(way[visual], way[textual], visual=True, textual=False)
        for visual, textual in GRID
        if (visual, textual) not in ENDS
    }


def interpolated_footprint(
    mark: Footprint,
    suspect: Suspect,
    reference: Suspect,
    swap: Mapping[str, Sequence[Measurement]],
    measure: Callable[[Mapping[Place, Suspect]], Mapping[Place, Sequence[Measurement]]],
    seed: int,
) -> Footprint:
    """The diagnosis of a swap that is invalid, with the label that interpolation supports, if any.

    `swap` are the measurements of the four hybrids, `measure` makes those of other models, without and with
    the trigger. What goes wrong costs the label only.
    """
    if unlike := unlike_branches(suspect, reference):
        which = f"the {' and the '.join(unlike)} branch"
        found = Interpolation(reason=f"nothing lies between them: {which} is not built alike in the two")
    else:
        try:
            measured = {
                **{place: swap[name] for place, name in ENDS.items()},
                **measure(models_between(suspect, reference)),
            }
            check_same_cases([one for pair in measured.values() for one in pair], mark.interface)
            found = interpolation_of(measured, seed=seed)
        except Exception as error:
            found = Interpolation(
                reason=f"nothing between them was measured: {type(error).__name__}: {error}"
            )
    return attrs.evolve(
        mark,
        label=found.label,
        reason=f"{mark.reason}; {found.reason}",
        agreement=found.agreement,
        interpolation=found,
    )
