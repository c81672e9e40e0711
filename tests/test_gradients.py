"""Inner products of gradients against the gradients themselves, by autograd, for every encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus
from scipy.sparse import csr_array
from transformer_for_tests import small_transformer

import xmc_explore as xe
from xmc_explore.encoders import SparseRows, build_encoder
from xmc_explore.gradients import EncoderGradients

ROWS = np.arange(11)
MASKS = torch.tensor([[1.0, 1, 1] + 8 * [0], 3 * [0] + 4 * [1.0] + 4 * [0], 7 * [0] + 4 * [1.0]])


def encoder_of(kind, monkeypatch):
    """An encoder in training, and a batch of 11 documents for it."""
    corpus = tiny_corpus(texts=kind != "bag of features")
    options = dict(encoder="transformer", max_tokens=8) if kind == "transformer" else dict(hidden=24)
    small_transformer(monkeypatch)
    encoder = build_encoder(corpus, xe.Recipe(**options), torch.Generator().manual_seed(1))
    return encoder.train(), encoder.documents(corpus.train).batch(ROWS, torch.device("cpu"))


def gradient(h, encoder, part):
    """Of all parameters, as one vector in float64."""
    found = torch.autograd.grad(h, list(encoder.parameters()), part, retain_graph=True, allow_unused=True)
    return torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in found if g is not None]).double()


def expected(h, encoder, parts, masks, total):
    whole = parts[:total].sum(0)
    vectors = [gradient(h, encoder, part) for part in (*parts, *(mask.unsqueeze(1) * whole for mask in masks))]
    return torch.stack(vectors) @ torch.stack(vectors).t()


KINDS = ["bag", "bag of features", "transformer"]


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_autograd_in_float64(kind, monkeypatch):
    encoder, batch = encoder_of(kind, monkeypatch)
    gradients = EncoderGradients(encoder.double())
    h = encoder((*batch[:-1], batch[-1].double()) if kind != "transformer" else batch)
    parts = torch.randn(4, *h.shape, dtype=torch.float64)
    found = gradients.inner_products(h, parts, MASKS.double(), total=3)
    assert found.shape == (7, 7) and found.dtype == torch.float64
    torch.testing.assert_close(found, expected(h, encoder, parts, MASKS.double(), 3), rtol=1e-10, atol=1e-10)
    assert torch.allclose(found[4:].sum(0), found[:3].sum(0), rtol=1e-10), "masks add up to the sum of the parts"
    alone = gradients.inner_products(h, parts)
    torch.testing.assert_close(alone, found[:4, :4], rtol=1e-12, atol=1e-12)
    assert bool(gradients._seen) == (kind != "transformer"), "which of the two ways was it?"


@pytest.mark.parametrize("autocast, tolerance", [(False, 1e-5), (True, 0.02)])
@pytest.mark.parametrize("kind", KINDS)
def test_in_fewer_bits_they_are_those_of_float64_up_to_rounding(kind, autocast, tolerance, monkeypatch):
    encoder, batch = encoder_of(kind, monkeypatch)
    gradients = EncoderGradients(encoder)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        h = encoder(batch)
    parts = torch.randn(3, *h.shape)
    found = gradients.inner_products(h, parts, MASKS)
    want = expected(h, encoder, parts.to(h.dtype), MASKS.to(h.dtype), 3)
    norms = want.diagonal().sqrt()
    assert ((found - want).abs() / norms.outer(norms)).max() < tolerance


def test_documents_without_a_token_and_tokens_that_come_twice(monkeypatch):
    encoder, _ = encoder_of("bag", monkeypatch)
    matrix = csr_array(np.array([[0, 1, 2, 0], [0, 0, 0, 0], [0, 1, 0, 3]], np.float32))
    ids, offsets, weights = SparseRows(matrix).batch(np.array([1, 0, 2, 1]), torch.device("cpu"))
    ids = torch.cat([ids, ids[-1:]])  # the last document's last token once more: rows of a corpus have each once
    offsets[-1], weights = len(ids) - 1, torch.cat([weights, weights[-1:]])
    gradients = EncoderGradients(encoder.double())
    h = encoder((ids, offsets, weights.double()))
    parts = torch.randn(2, *h.shape, dtype=torch.float64)
    found = gradients.inner_products(h, parts)
    torch.testing.assert_close(found, expected(h, encoder, parts, [], 2), rtol=1e-10, atol=1e-10)


def test_what_does_not_learn_has_no_part_in_them(monkeypatch):
    encoder, batch = encoder_of("bag", monkeypatch)
    encoder.embedding.weight.requires_grad_(False)
    gradients = EncoderGradients(encoder)
    h = encoder(batch)
    parts = torch.randn(2, *h.shape)
    rest = [p for p in encoder.parameters() if p.requires_grad]
    by_hand = [torch.cat([g.flatten() for g in torch.autograd.grad(h, rest, p, retain_graph=True)]) for p in parts]
    by_hand = torch.stack(by_hand).double()
    torch.testing.assert_close(gradients.inner_products(h, parts), by_hand @ by_hand.t(), rtol=1e-5, atol=1e-5)


def test_an_evaluation_in_between_is_not_looked_at_and_nothing_is_held(monkeypatch):
    encoder, batch = encoder_of("bag", monkeypatch)
    gradients = EncoderGradients(encoder)
    h = encoder(batch)
    parts = torch.randn(2, *h.shape)
    before = gradients.inner_products(h, parts)
    with torch.no_grad():
        encoder.eval()((batch[0][:1], batch[1][:1], batch[2][:1]))
    assert torch.equal(gradients.inner_products(h, parts), before)
    assert all(p.grad is None for p in encoder.parameters())
    gradients.forget()
    assert not gradients._seen
