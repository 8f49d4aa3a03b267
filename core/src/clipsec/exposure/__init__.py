"""Through which uses a known trigger hurts: encoding for interfaces, estimation, footprints, hybrids."""

from clipsec.exposure._drift import branch_drift, linear_cka, no_inputs, relative_change, worst_cosine
from clipsec.exposure._encodes import encode_pictures, encode_texts, text_tower
from clipsec.exposure._estimate import (
    Limits,
    Outcomes,
    difference_in_differences,
    estimate,
    rate,
    status_of,
)
from clipsec.exposure._footprint import (
    Ratios,
    agreement,
    extended_label,
    invalid_hybrid,
    paper_label,
    repair_agreement,
    repair_label,
    swap_ratios,
)
from clipsec.exposure._hybrids import (
    hybrid,
    identical_branches,
    interpolated,
    misfit,
    parts_of,
    swap_parts,
    unlike_branches,
)
from clipsec.exposure._interpolation import ALPHAS, GRID, interpolation_of
from clipsec.exposure._names import named_classes
from clipsec.exposure._templates import QUERY_TEMPLATES

__all__ = [
    "ALPHAS",
    "GRID",
    "QUERY_TEMPLATES",
    "Limits",
    "Outcomes",
    "Ratios",
    "agreement",
    "branch_drift",
    "difference_in_differences",
    "encode_pictures",
    "encode_texts",
    "estimate",
    "extended_label",
    "hybrid",
    "identical_branches",
    "interpolated",
    "interpolation_of",
    "invalid_hybrid",
    "linear_cka",
    "misfit",
    "named_classes",
    "no_inputs",
    "paper_label",
    "parts_of",
    "rate",
    "relative_change",
    "repair_agreement",
    "repair_label",
    "status_of",
    "swap_parts",
    "swap_ratios",
    "text_tower",
    "unlike_branches",
    "worst_cosine",
]
