"""Figures of corpora and traces: pure functions that return a `Picture`. Needs plotly and pandas (the extra `lab`)."""

from .drawing import method_of
from .figures import (
    churn,
    compare,
    connectivity,
    gradient_by_block,
    gradient_norm,
    in_degree,
    long_tail,
    loss,
    memory_ledger,
    per_bin,
    precision,
)
from .picture import Picture
from .style import BINS, CONFIG, looks_of

__all__ = ["BINS", "CONFIG", "Picture", "churn", "compare", "connectivity", "gradient_by_block", "gradient_norm",
           "in_degree", "long_tail", "looks_of", "loss", "memory_ledger", "method_of", "per_bin", "precision"]
