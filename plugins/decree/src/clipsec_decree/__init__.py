"""DECREE: backdoors in image towers, found without labels (Feng et al., CVPR 2023)."""

from clipsec_decree._decision import Decision, Start, decide
from clipsec_decree._detector import Decree
from clipsec_decree._objective import mask_size, objective, pl1, similarity
from clipsec_decree._options import DecreeOptions
from clipsec_decree._schedule import State, advance

__all__ = [
    "Decision",
    "Decree",
    "DecreeOptions",
    "Start",
    "State",
    "advance",
    "decide",
    "mask_size",
    "objective",
    "pl1",
    "similarity",
]
