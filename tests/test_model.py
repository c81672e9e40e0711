"""The parts of the classifier: losses against torch, encoders."""

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus
from scipy.sparse import csr_array

import xmc_explore as xe
from xmc_explore.corpora import Split
from xmc_explore.encoders import (
    BagEncoder,
    TokenRows,
    TransformerEncoder,
    load_tokenizer,
    load_transformer,
    token_counts,
    token_embeddings,
)
from xmc_explore.losses import bce, squared_hinge
from xmc_explore.model import Classifier, Dropout, first_bias


def test_losses_against_their_definitions():
    logits = (3 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    y = (torch.rand(5, 7) < 0.3).double()
    rows, columns = y.nonzero(as_tuple=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum") / 5
    torch.testing.assert_close(bce(logits, rows, columns), expected)
    torch.testing.assert_close(torch.autograd.grad(bce(logits, rows, columns), logits)[0],
                               (logits.sigmoid() - y) / 5)
    hinge = torch.relu(1 - (2 * y - 1) * logits).square().sum() / 5
    torch.testing.assert_close(squared_hinge(logits, rows, columns), hinge)


def test_the_first_bias_predicts_the_frequency_of_each_label():
    corpus = tiny_corpus(texts=False)
    bias = first_bias(corpus, xe.Recipe(encoder="features"))
    share = corpus.label_frequency / len(corpus.train)
    assert np.allclose(bias.sigmoid(), share, atol=0.002)
    assert (first_bias(corpus, xe.Recipe(loss="squared_hinge")) == -1).all()
    assert (first_bias(corpus, xe.Recipe(bias_init="zero")) == 0).all()


@pytest.mark.parametrize("method, parts", [
    ("dense", torch.nn.Linear), ("bottleneck", torch.nn.Sequential), ("SET", xe.FixedFanIn)])
def test_output_layers(method, parts):
    corpus = tiny_corpus()
    model = Classifier(corpus, xe.Recipe.method(method, hidden=40))
    assert isinstance(model.output, parts) and model.auxiliary is None
    batch = model.encoder.documents(corpus.test).batch(np.arange(6), torch.device("cpu"))
    assert model(batch).shape == (6, 30) and model.features(batch)[1] is None
    model.add_auxiliary(5)
    assert model.features(batch, with_clusters=True)[1].shape == (6, 5)


def test_dropout_keeps_the_mean_and_draws_from_its_own_seed():
    x, dropout = torch.ones(200, 500), Dropout(0.3, seed=1)
    y = dropout(x)
    torch.testing.assert_close(y.unique(), torch.tensor([0, 1 / 0.7]))
    assert float(y.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(Dropout(0.3, seed=1)(x), y) and not torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x


def test_intermediate_layer_with_and_without_non_linearity():
    corpus = tiny_corpus()
    with_relu = Classifier(corpus, xe.Recipe(hidden=40, intermediate=64))
    without = Classifier(corpus, xe.Recipe(hidden=40, intermediate=64, intermediate_activation="none"))
    assert with_relu.output.in_features == without.output.in_features == 64
    h = torch.randn(3, 40)
    assert torch.equal(with_relu.intermediate(h), without.intermediate(h).relu())


def test_bag_encoder_is_the_mean_of_the_pretrained_tokens():
    corpus = tiny_corpus()
    encoder = BagEncoder(corpus, xe.Recipe(), torch.Generator().manual_seed(0))
    ids, offsets, weights = encoder.documents(corpus.test).batch(np.array([4]), torch.device("cpu"))
    assert float(weights.sum()) == pytest.approx(1)
    tokens = load_tokenizer("minilm")(corpus.test.texts[4], add_special_tokens=False)["input_ids"]
    assert sorted(encoder.used[ids]) == sorted(set(tokens))
    torch.testing.assert_close(encoder.embedding(ids, offsets, per_sample_weights=weights)[0],
                               token_embeddings("minilm")[tokens].mean(0))


def test_the_bag_reads_from_files_what_transformers_would_load(monkeypatch):
    with monkeypatch.context() as without_its_own_loading:
        without_its_own_loading.setattr("xmc_explore.encoders.load_tokenizer", None)
        without_its_own_loading.setattr("xmc_explore.encoders.load_transformer", None)
        texts = [*tiny_corpus().train.texts, "", "naïve café — 你好 😀 don't x_y.z" * 9]
        counts = token_counts(Split(csr_array((len(texts), 1)), texts), "minilm", 9).toarray()
        table = token_embeddings.__wrapped__("minilm")
    for text, row in zip(texts, counts, strict=True):
        ids = load_tokenizer("minilm")(text, add_special_tokens=False, truncation=True, max_length=9)["input_ids"]
        assert np.array_equal(row, np.bincount(ids, minlength=len(load_tokenizer("minilm"))))
    assert torch.equal(table, load_transformer("minilm").get_input_embeddings().weight)


def test_padding_does_not_change_a_document():
    encoder = TransformerEncoder(xe.Recipe(encoder="transformer"), seed=0).eval()
    docs = TokenRows([np.array([101, 2003, 102]), np.array([101, 2003, 2009, 2025, 7592, 102])], 0)
    device = torch.device("cpu")
    with torch.no_grad():
        alone = encoder(docs.batch(np.array([0]), device))[0]
        padded = encoder(docs.batch(np.array([0, 1]), device))[0]
    torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-5)
