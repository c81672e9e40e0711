"""Corpora: built-in (`calls`), planted, any folder in a format of the repository, a table of your own."""

from .corpus import BIN_NAMES, Corpus, CorpusError, LabelBins, Split, label_bins
from .load import load_corpus
from .table import corpus_from_table

__all__ = ["BIN_NAMES", "Corpus", "CorpusError", "LabelBins", "Split", "corpus_from_table", "label_bins", "load_corpus"]
