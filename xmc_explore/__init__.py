"""xmc_explore: train the last layer of an extreme classifier sparse from start to end, and watch it happen.

    import xmc_explore as xe
    corpus = xe.load_corpus("calls-small")
    trace = xe.train(corpus, xe.Recipe(), steps=500)
    trace.metrics("test")["P@1"]

Names load on first use: a headless run needs neither Jupyter nor plotly.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_corpus": ".corpora",
    "Recipe": ".recipe",
    "train": ".training",
    "Trace": ".trace",
    "FixedFanIn": ".layers",
    "backends": ".layers",
    "Rewirer": ".sparsity",
    "Lab": ".widgets",
    "metrics": None,
    "plots": None,
    "doctor": None,
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
