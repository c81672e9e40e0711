"""Corpora: built-in (`calls`), planted, and any folder in an Extreme Classification Repository format."""

from .corpus import BIN_NAMES, Corpus, CorpusError, LabelBins, Split, label_bins
from .load import load_corpus

__all__ = ["BIN_NAMES", "Corpus", "CorpusError", "LabelBins", "Split", "label_bins", "load_corpus"]
