"""Detectors that ask for half a batch at a time, one of which runs in a process of its own."""

import attrs

from clipsec.protocols import Need
from clipsec.results import Outcome, Verdict
from clipsec.scheduler import Backward, Encode

STEPS, ROWS = 8, 16


@attrs.frozen
class Options:
    pass


class HalfHere:
    """In the process of the scheduler."""

    summary, api_version, options, references = "half batches", "1.0", Options, ()
    needs = frozenset({Need.IMAGE_TOWER, Need.IMAGE_POOL})
    first = 0

    def detect(self, context):
        pixels = context.pool.pixels(context.suspect.base.visual.spec)[self.first :][:ROWS].float() / 255
        tower = context.suspect.image_tower(context.search_dtype)
        total = 0.0
        for step in range(STEPS):
            rows = (pixels * (1 - step / 100)).requires_grad_()
            features = yield Encode(tower, rows)
            yield Backward(features.square().sum())
            total += float(rows.grad.abs().sum())
        return Verdict(Outcome.CLEAN, "half batches", score=total, threshold=float("inf"))


class HalfApart(HalfHere):
    """Beside it."""

    isolation = "process"
    first = ROWS
