"""Measurements: `python -m benchmarks.layer`, `python -m benchmarks.methods`. Each leaves its table in results/."""

import xmc_explore  # noqa: F401  # before torch: it sets how OpenMP threads wait
