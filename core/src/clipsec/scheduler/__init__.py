"""The batch scheduler for frozen towers."""

from clipsec.scheduler._requests import Backward, Done, Encode, Gather, Problem, Request, Tower

__all__ = ["Backward", "Done", "Encode", "Gather", "Problem", "Request", "Tower"]
