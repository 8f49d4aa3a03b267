"""From scores of samples to a verdict: a table, the most suspicious pictures, one sentence.

No verdict here is `clean`: where no sample stands out, nothing is known about the model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from clipsec.data import read_pictures, to_unit
from clipsec.protocols import Context
from clipsec.results import Artifact, Outcome, Verdict
from clipsec.triggers import png
from clipsec_sample_detectors._tail import LEVEL, Tail

PER_LINE = 4
THRESHOLD_SOURCE = (
    "a probability of 0.01 by chance, exact if the pictures are of the kind of the clean ones; not calibrated"
)


@attrs.frozen(eq=False)
class Samples:
    """What was scored."""

    what: str
    """Plural, for people: "pairs", "pictures"."""
    names: Sequence[str]
    paths: Sequence[Path]
    columns: Mapping[str, Sequence[str]]
    """Further columns of the table, before the scores."""
    scores: Mapping[str, Tensor]
    """Each `[n]`, the higher the more suspicious."""
    chosen: str
    """The score that decides."""


def make_verdict(
    context: Context,
    samples: Samples,
    tail: Tail | None,
    *,
    shown: int,
    untested: str,
    notes: Sequence[str] = (),
) -> Verdict:
    """A finding when more pictures stand out than chance explains, else inconclusive.

    `tail` is about pictures, of which the samples may be pairs. `untested` says what was not tested.
    """
    scores = samples.scores[samples.chosen].double()
    order = torch.sort(scores, descending=True, stable=True).indices.tolist()
    n, what = len(scores), samples.what
    measures = {"samples": float(n), "highest": float(scores.max()), "median": float(scores.median())}
    table = _table(context, samples, order, None if tail is None else scores > tail.threshold)
    artifacts = (table, *_pictures(context, samples, order[:shown]))
    if tail is None:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{n} {what} are ranked by {samples.chosen}; without clean ones nothing says which are too high.",
            n=n,
            measures=measures,
            artifacts=artifacts,
            notes=(*notes, untested),
        )
    count, of = int(tail.flagged.sum()), len(tail.flagged)
    measures |= {"flagged": float(count), "expected": tail.expected, "clean": float(tail.clean), "p": tail.p}
    measures["sample_threshold"] = tail.threshold
    said = f"{count} of {of} pictures stand out by {samples.chosen}; chance gives {tail.expected:.1f}"
    return Verdict(
        Outcome.FINDING if tail.significant else Outcome.INCONCLUSIVE,
        f"Suspicious {what}: {said} (p {_p(tail.p)})."
        if tail.significant
        else f"No more pictures stand out than chance explains: {said} (p {_p(tail.p)}).",
        score=1 - tail.p,
        score_name="1 - p",
        threshold=1 - LEVEL,
        threshold_source=THRESHOLD_SOURCE,
        n=n,
        measures=measures,
        artifacts=artifacts,
        notes=(
            *notes,
            f"beside {tail.clean} clean pictures; {what} of another kind than theirs stand out too, without "
            "any backdoor",
            untested,
        ),
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-9 else "below 1e-9"


def _table(context: Context, samples: Samples, order: Sequence[int], flagged: Tensor | None) -> Artifact:
    """All samples, the most suspicious first."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    marks = [] if flagged is None else ["flagged"]
    writer.writerow(["rank", "image", *samples.columns, *samples.scores, *marks])
    for rank, row in enumerate(order, start=1):
        texts = [column[row] for column in samples.columns.values()]
        numbers = [f"{float(score[row]):.6g}" for score in samples.scores.values()]
        mark = [] if flagged is None else [int(flagged[row])]
        writer.writerow([rank, samples.names[row], *texts, *numbers, *mark])
    content = stream.getvalue().encode("utf-8", errors="backslashreplace")
    return context.save_artifact(
        "samples.csv", "table", content, f"all {samples.what}, the most suspicious by {samples.chosen} first"
    )


def _pictures(context: Context, samples: Samples, rows: Sequence[int]) -> tuple[Artifact, ...]:
    from torchvision.utils import make_grid  # imported when needed, as core does: it brings a compiler along

    visual = context.suspect.base.visual
    if not rows or visual is None:
        return ()
    pixels = to_unit(read_pictures([samples.paths[row] for row in rows], visual.spec))
    sheet = make_grid(pixels, nrow=PER_LINE, padding=2, pad_value=1.0)
    names = ", ".join(samples.names[row] for row in rows)
    told = f"the most suspicious {samples.what}, line by line: {names}"
    return (context.save_artifact("most-suspicious.png", "picture", png(sheet), told),)
