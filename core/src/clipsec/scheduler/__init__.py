"""The batch scheduler for frozen towers: problems are generators that yield what they want computed."""

from clipsec.scheduler import _events as events
from clipsec.scheduler._batch import SafeBatch, default_micro_batch
from clipsec.scheduler._cache import FeatureCache
from clipsec.scheduler._counts import Counts
from clipsec.scheduler._events import Eta
from clipsec.scheduler._requests import Backward, Done, Encode, Gather, Problem, Request, Tower
from clipsec.scheduler._scheduler import Scheduler

__all__ = [
    "Backward",
    "Counts",
    "Done",
    "Encode",
    "Eta",
    "FeatureCache",
    "Gather",
    "Problem",
    "Request",
    "SafeBatch",
    "Scheduler",
    "Tower",
    "default_micro_batch",
    "events",
]
