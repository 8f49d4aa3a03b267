"""AMDET: backdoors in the text towers of CLIP, LongCLIP and SigLIP (arXiv 2512.00343)."""

from clipsec_amdet._calibration import Thresholds, family_of, thresholds_of
from clipsec_amdet._decision import Decision, Shares, decide, decide_paired
from clipsec_amdet._detector import Amdet
from clipsec_amdet._landscape import convex_share, hessian_eigenvalues, search_directions
from clipsec_amdet._objective import assimilation, insert, likeness, objective, paired_objective
from clipsec_amdet._options import Options

__all__ = [
    "Amdet",
    "Decision",
    "Options",
    "Shares",
    "Thresholds",
    "assimilation",
    "convex_share",
    "decide",
    "decide_paired",
    "family_of",
    "hessian_eigenvalues",
    "insert",
    "likeness",
    "objective",
    "paired_objective",
    "search_directions",
    "thresholds_of",
]
