"""Scores, as pure functions over what inverting each class measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from torch import Tensor

from clipsec.stats import mcnemar_exact, robust_z
from clipsec_clip_inspector._halving import Standing


@attrs.frozen
class BaseResult:
    """What the clean base makes of a class, on pictures that neither model gives to it without a trigger."""

    n: int
    hits: int
    """Pictures that the suspect's trigger sends to the class on the suspect."""
    transfer_hits: int
    """Pictures that the same trigger sends to the class on the base."""
    null_hits: int
    """Pictures that the base's own inverted trigger sends to the class on the base."""
    transfer_loss: float
    null_loss: float
    p_value: float
    """One-sided exact McNemar test of the suspect against the stronger of the two on the base."""

    @property
    def excess(self) -> float:
        """Share of pictures won beyond what the base gives way to; from -1 to 1."""
        return (self.hits - max(self.transfer_hits, self.null_hits)) / self.n if self.n else 0.0


@attrs.frozen
class ClassResult:
    """What inverting one class measured."""

    index: int
    loss: float
    """Mean margin of triggered pictures; negative means the target wins."""
    hits: int
    """Eligible pictures that the trigger sends to the class."""
    n: int
    """Eligible pictures: those whose clean prediction is another class."""
    base: BaseResult | None = None
    given_up_after: int | None = None
    """Updates after which the search was given up; its numbers are those of the last batches, and the trigger
    was not tried on the base."""

    @property
    def success_rate(self) -> float:
        return self.hits / self.n if self.n else 0.0


def class_result(
    index: int,
    margin: Tensor,
    clean: Tensor,
    base: tuple[Tensor, Tensor, Tensor] | None = None,
) -> ClassResult:
    """Numbers of one class.

    `margin [n]` of triggered pictures on the suspect, `clean [n]` its predictions without a trigger. `base`
    is the same trigger's margins on the base, the base's own trigger's margins on the base, and the base's
    clean predictions, each `[n]`.
    """
    eligible = clean != index
    wins = (margin < 0) & eligible
    loss = float(margin.double().mean())
    if base is None:
        return ClassResult(index, loss, int(wins.sum()), int(eligible.sum()))
    transfer, null, base_clean = base
    both = eligible & (base_clean != index)
    won, transferred, natural = margin[both] < 0, transfer[both] < 0, null[both] < 0
    stronger = transferred if transferred.sum() >= natural.sum() else natural
    return ClassResult(
        index,
        loss,
        int(wins.sum()),
        int(eligible.sum()),
        BaseResult(
            n=int(both.sum()),
            hits=int(won.sum()),
            transfer_hits=int(transferred.sum()),
            null_hits=int(natural.sum()),
            transfer_loss=float(transfer.double().mean()),
            null_loss=float(null.double().mean()),
            p_value=one_sided_mcnemar(int((won & ~stronger).sum()), int((stronger & ~won).sum())),
        ),
    )


def early_result(index: int, at: Standing, steps: int) -> ClassResult:
    """Numbers of a class that was given up after `steps` updates."""
    base = BaseResult(
        n=at.n,
        hits=at.hits,
        transfer_hits=0,
        null_hits=at.null_hits,
        transfer_loss=math.nan,
        null_loss=at.null_loss,
        p_value=1.0,
    )
    return ClassResult(index, at.loss, at.hits, at.n, base, given_up_after=steps)


def one_sided_mcnemar(only_suspect: int, only_base: int) -> float:
    """Exact p-value for "the suspect loses more pictures than the base", from the discordant counts."""
    two_sided = mcnemar_exact(only_suspect, only_base)
    return two_sided / 2 if only_suspect > only_base else 1.0


def anomaly_scores(results: Sequence[ClassResult]) -> list[float]:
    """The across-class score as published: how far each loss lies below the median, in scaled MADs.

    The defensible reading of the paper's score: robust, because reported means exceed what a plain z-score of
    50 values can reach, and on the loss, because success is zero for most classes.
    """
    return [float(score) for score in robust_z([result.loss for result in results], "low")]
