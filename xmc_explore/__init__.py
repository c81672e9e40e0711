"""xmc_explore: train the last layer of an extreme classifier sparse from start to end, and watch it happen.

    import xmc_explore as xe
    corpus = xe.load_corpus("calls-small")
    trace = xe.train(corpus, xe.Recipe(), steps=500)
    trace.metrics("test")["P@1"]

Names load on first use: a headless run needs neither Jupyter nor plotly.
"""

import os
from importlib import import_module

# OpenMP threads that spin while they wait make a step 30 times slower as soon as anything else, a browser say, wants
# the same cores (measured: 2 cores, 14 ms a step against 500). The library reads this when torch loads it, so it helps
# if this import comes before torch's; `make lab` sets it for the whole session.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

_HOME = {
    "load_corpus": ".corpora",
    "corpus_from_table": ".corpora",
    "Recipe": ".recipe",
    "train": ".training",
    "train_many": ".parallel",
    "Trace": ".trace",
    "branch": ".branching",
    "load_recording": ".recordings",
    "FixedFanIn": ".layers",
    "GroupedFixedFanIn": ".layers",
    "backends": ".layers",
    "walk": ".layers.walk",
    "load_walk": ".layers.walk",
    "Rewirer": ".sparsity",
    "Lab": ".widgets",
    "scrub": ".widgets",
    "LongTailExplorer": ".widgets",
    "StepPicture": ".widgets",
    "logit_free": None,
    "memory": None,
    "metrics": None,
    "probes": None,
    "plots": None,
    "claims": None,
    "recordings": None,
    "doctor": None,
    "exercises": None,
    "race": None,
    "demos": None,
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'xmc_explore' has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f".{name}", __name__) if home is None else getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
