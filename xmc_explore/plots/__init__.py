"""Figures of corpora and traces: pure functions that return a `Picture`. Needs plotly and pandas (the extra `lab`)."""

from . import quick  # noqa: F401  # before any module that imports plotly
from .bills import memory_by_method, memory_by_part, memory_ledger, memory_of_run, steps_and_memory
from .connections import (
    age,
    churn,
    churn_by_frequency,
    connectivity,
    exploration,
    gather,
    in_degree,
    in_degree_drift,
    magnitudes,
    overlap,
    planted_support,
    survival,
)
from .drawing import method_of
from .figures import (
    by_sparsity,
    compare,
    dense_twin,
    gradient_budget,
    gradient_by_block,
    gradient_norm,
    learning,
    loss,
    per_bin,
    precision,
)
from .numbers import numbers
from .picture import Picture
from .style import BINS, CONFIG, looks_of
from .tail import long_tail
from .traffic import memory_traffic

__all__ = ["BINS", "CONFIG", "Picture", "age", "by_sparsity", "churn", "churn_by_frequency", "compare", "connectivity",
           "dense_twin", "exploration", "gather", "gradient_budget", "gradient_by_block", "gradient_norm", "in_degree",
           "in_degree_drift", "learning", "long_tail", "looks_of", "loss", "magnitudes", "memory_by_method",
           "memory_by_part", "memory_ledger", "memory_of_run", "memory_traffic", "method_of", "numbers", "overlap",
           "per_bin", "planted_support", "precision", "steps_and_memory", "survival"]
