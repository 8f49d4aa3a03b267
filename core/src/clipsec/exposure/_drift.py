"""The tower drift screen: how far each branch of a suspect is from the reference's, before any trigger.

A branch that is bit-identical to the public base carries no inserted footprint; the others are told by drift.
None of the numbers says whether a move is a backdoor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipsec.exposure._encodes import Encoding
from clipsec.exposure._hybrids import branch_state
from clipsec.models import TextPart, VisualPart
from clipsec.results import BranchDrift
from clipsec.scheduler import Problem


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features `[n, d]` and `[n, e]` of the same n inputs, in [0, 1].

    1 when one is the other up to rotation, scale and shift. NaN when either does not vary. Source: Kornblith
    et al., ICML 2019, section 3.
    """
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    cross = (y.T @ x).square().sum()
    scale = (x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt()
    return float(cross / scale) if float(scale) > 0 else float("nan")


def worst_cosine(x: Tensor, y: Tensor) -> float:
    """The smallest cosine between the two features of one input; both `[n, d]`, normalised."""
    return float((x.double() * y.double()).sum(1).min().clamp(-1, 1))


def relative_change(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float | None:
    """Norm of the difference over the norm of the reference, all weights of a branch as one vector; None when
    they are not built alike."""
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return None
    moved = sum(float((ours[n].double() - theirs[n].double()).square().sum()) for n in ours)
    length = sum(float(tensor.double().square().sum()) for tensor in theirs.values())
    return float((moved / length) ** 0.5) if length else None


def branch_drift(
    branch: str,
    ours: VisualPart | TextPart,
    theirs: VisualPart | TextPart,
    encode_ours: Encoding,
    encode_theirs: Encoding,
) -> Problem:
    """One branch's drift; the two generators encode the same inputs with the suspect and the reference."""
    if ours.digest == theirs.digest:
        return BranchDrift(branch=branch, identical=True, relative_change=0.0)
    change = relative_change(branch_state(ours), branch_state(theirs))
    x = yield from encode_ours
    y = yield from encode_theirs
    if not len(x):
        return BranchDrift(branch=branch, identical=False, comparable=False, relative_change=change)
    alike = x.shape == y.shape
    return BranchDrift(
        branch=branch,
        identical=False,
        comparable=alike,
        relative_change=change,
        cka=linear_cka(x, y) if len(x) > 1 else None,
        worst_cosine=worst_cosine(x, y) if alike else None,
        inputs=len(x),
    )


def no_inputs() -> Encoding:
    """A generator that encodes nothing."""
    return torch.zeros(0, 1)
    yield
