"""Statistics of verdicts: intervals, exact paired tests, AUROC with bootstrap, robust z-scores."""

from clipsec.stats._outliers import robust_z
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
    "Auroc",
    "Proportion",
    "auroc",
    "binomial_test",
    "clopper_pearson",
    "mcnemar_exact",
    "newcombe",
    "proportion",
    "robust_z",
    "wilson",
]
