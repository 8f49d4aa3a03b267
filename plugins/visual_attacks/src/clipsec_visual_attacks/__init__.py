"""Backdoors in the image tower of a CLIP.

BadEncoder().poison(context)         # BadEncoder (S&P 2022): a poisoned CLIP with its trigger card
objective(terms(features))           # its loss, from features alone
"""

from clipsec_visual_attacks._attack import BadEncoder
from clipsec_visual_attacks._loss import Features, Terms, objective, terms
from clipsec_visual_attacks._measure import linear_probe, probe_answers
from clipsec_visual_attacks._options import BadEncoderOptions
from clipsec_visual_attacks._trigger import white_patch

__all__ = [
    "BadEncoder",
    "BadEncoderOptions",
    "Features",
    "Terms",
    "linear_probe",
    "objective",
    "probe_answers",
    "terms",
    "white_patch",
]
