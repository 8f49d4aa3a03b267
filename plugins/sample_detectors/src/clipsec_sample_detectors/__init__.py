"""Detectors of poisoned samples: local density of training pairs, BDetCLIP for pictures at inference time."""

from clipsec_sample_detectors._bdetclip import BDetClip
from clipsec_sample_detectors._contrast import mean_direction, omega
from clipsec_sample_detectors._density import (
    STATISTICS,
    Neighbourhood,
    batches,
    dao,
    density_scores,
    k_distance,
    lid,
    mismatch,
    neighbourhood,
    slof,
)
from clipsec_sample_detectors._local_density import LocalDensity
from clipsec_sample_detectors._options import BDetClipOptions, LocalDensityOptions
from clipsec_sample_detectors._tail import LEVEL, Tail, fewest_clean, tail
from clipsec_sample_detectors._texts import benign_texts, malignant_texts

__all__ = [
    "LEVEL",
    "STATISTICS",
    "BDetClip",
    "BDetClipOptions",
    "LocalDensity",
    "LocalDensityOptions",
    "Neighbourhood",
    "Tail",
    "batches",
    "benign_texts",
    "dao",
    "density_scores",
    "fewest_clean",
    "k_distance",
    "lid",
    "malignant_texts",
    "mean_direction",
    "mismatch",
    "neighbourhood",
    "omega",
    "slof",
    "tail",
]
