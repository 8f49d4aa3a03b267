"""Backdoors in the image tower of a CLIP, and poisoned pairs.

BadEncoder().poison(context)            # BadEncoder (S&P 2022): a poisoned CLIP with its trigger card
ContrastivePoisoning().poison(context)  # poisoned pairs in contrastive training (ICLR 2022)
LiangBadClip().poison(context)          # the same with a patch optimised against the clean model (CVPR 2024)
MmPoison().poison(context)              # captions of one class find pictures of another (ICML 2023)
ToxicText().poison(context)             # with a trigger, captions find the target (ToxicTextCLIP, 2025)
objective(terms(features))              # the loss of BadEncoder, from features alone
z_score(triggered, clean)               # the backdoor z-score, from features alone
"""

from clipsec_visual_attacks._attack import BadEncoder
from clipsec_visual_attacks._background import background, background_scores, shortened
from clipsec_visual_attacks._captions import ClassCaptions
from clipsec_visual_attacks._contrastive import Pairs, poisoned_pairs
from clipsec_visual_attacks._liang import LiangBadClip
from clipsec_visual_attacks._loss import Features, Terms, objective, terms
from clipsec_visual_attacks._measure import linear_probe, probe_answers, z_score
from clipsec_visual_attacks._mm_poison import MmPoison, exchanged_pairs
from clipsec_visual_attacks._options import (
    BadEncoderOptions,
    ContrastivePoisoningOptions,
    LiangBadClipOptions,
    MmPoisonOptions,
    ToxicTextOptions,
)
from clipsec_visual_attacks._patch import PatchTerms, optimise_patch, patch_terms
from clipsec_visual_attacks._poisoning import ContrastivePoisoning
from clipsec_visual_attacks._queries import best_ranks, hit_rates
from clipsec_visual_attacks._toxic_text import ToxicText, triggered_pairs
from clipsec_visual_attacks._trigger import checker_patch, middle_patch, white_patch

__all__ = [
    "BadEncoder",
    "BadEncoderOptions",
    "ClassCaptions",
    "ContrastivePoisoning",
    "ContrastivePoisoningOptions",
    "Features",
    "LiangBadClip",
    "LiangBadClipOptions",
    "MmPoison",
    "MmPoisonOptions",
    "Pairs",
    "PatchTerms",
    "Terms",
    "ToxicText",
    "ToxicTextOptions",
    "background",
    "background_scores",
    "best_ranks",
    "checker_patch",
    "exchanged_pairs",
    "hit_rates",
    "linear_probe",
    "middle_patch",
    "objective",
    "optimise_patch",
    "patch_terms",
    "poisoned_pairs",
    "probe_answers",
    "shortened",
    "terms",
    "triggered_pairs",
    "white_patch",
    "z_score",
]
