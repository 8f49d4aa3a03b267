"""Backdoors in the image tower of a CLIP.

BadEncoder().poison(context)            # BadEncoder (S&P 2022): a poisoned CLIP with its trigger card
ContrastivePoisoning().poison(context)  # poisoned pairs in contrastive training (ICLR 2022)
objective(terms(features))              # the loss of the former, from features alone
z_score(triggered, clean)               # the backdoor z-score of the latter, from features alone
"""

from clipsec_visual_attacks._attack import BadEncoder
from clipsec_visual_attacks._captions import ClassCaptions
from clipsec_visual_attacks._contrastive import Pairs, poisoned_pairs
from clipsec_visual_attacks._loss import Features, Terms, objective, terms
from clipsec_visual_attacks._measure import linear_probe, probe_answers, z_score
from clipsec_visual_attacks._options import BadEncoderOptions, ContrastivePoisoningOptions
from clipsec_visual_attacks._poisoning import ContrastivePoisoning
from clipsec_visual_attacks._trigger import checker_patch, white_patch

__all__ = [
    "BadEncoder",
    "BadEncoderOptions",
    "ClassCaptions",
    "ContrastivePoisoning",
    "ContrastivePoisoningOptions",
    "Features",
    "Pairs",
    "Terms",
    "checker_patch",
    "linear_probe",
    "objective",
    "poisoned_pairs",
    "probe_answers",
    "terms",
    "white_patch",
    "z_score",
]
