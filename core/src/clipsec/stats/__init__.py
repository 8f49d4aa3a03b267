"""Statistics of verdicts: intervals, exact paired tests, AUROC with bootstrap, robust z-scores."""

from clipsec.stats._multiple import holm
from clipsec.stats._outliers import robust_z
from clipsec.stats._paired import RESAMPLES, newcombe_paired, no_change_bound, paired_bootstrap
from clipsec.stats._proportions import (
    Proportion,
    binomial_test,
    clopper_pearson,
    mcnemar_exact,
    newcombe,
    proportion,
    wilson,
)
from clipsec.stats._ranking import Auroc, auroc

__all__ = [
    "RESAMPLES",
    "Auroc",
    "Proportion",
    "auroc",
    "binomial_test",
    "clopper_pearson",
    "holm",
    "mcnemar_exact",
    "newcombe",
    "newcombe_paired",
    "no_change_bound",
    "paired_bootstrap",
    "proportion",
    "robust_z",
    "wilson",
]
