"""Repairs of backdoored CLIPs and text towers.

AnchorDistillation().repair(context)               # ours: starts from a finding or a known trigger
Par().repair(context)                              # Perturb and Recover, arXiv 2412.00727: needs no finding
CleanClip().repair(context)                        # CleanCLIP, ICCV 2023: needs no finding
anchor_loss(clean, anchor, triggered, aim, weight) # their losses, from features alone
par_loss(images, texts, before, groups, scale, tau)
cleanclip_loss(images, texts, views, groups, scale, weight)
"""

from clipsec_repairs._anchor import AnchorDistillation
from clipsec_repairs._captions import Insertion, Triggered, class_prompts, put_in
from clipsec_repairs._cleanclip import CleanClip
from clipsec_repairs._losses import (
    Encoded,
    anchor_loss,
    cleanclip_loss,
    par_loss,
    perturbation,
    similarity,
    wanted,
)
from clipsec_repairs._options import AnchorOptions, CleanClipOptions, ParOptions
from clipsec_repairs._par import Par

__all__ = [
    "AnchorDistillation",
    "AnchorOptions",
    "CleanClip",
    "CleanClipOptions",
    "Encoded",
    "Insertion",
    "Par",
    "ParOptions",
    "Triggered",
    "anchor_loss",
    "class_prompts",
    "cleanclip_loss",
    "par_loss",
    "perturbation",
    "put_in",
    "similarity",
    "wanted",
]
