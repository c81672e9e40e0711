"""Metrics against napkinXC, scikit-learn and hand-worked numbers."""

from __future__ import annotations

import math

import napkinxc.metrics as napkin
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix
from sklearn.metrics import ndcg_score

from xmc_explore.corpora import Corpus, Split, label_bins
from xmc_explore.metrics import Evaluator, inverse_propensity

NAPKIN = {
    "P": lambda y, s, q, k: napkin.precision_at_k(y, s, k=k),
    "nDCG": lambda y, s, q, k: napkin.ndcg_at_k(y, s, k=k),
    "PSP": lambda y, s, q, k: napkin.psprecision_at_k(y, s, q, k=k),
    "PSnDCG": lambda y, s, q, k: napkin.psndcg_at_k(y, s, q, k=k),
    "coverage": lambda y, s, q, k: napkin.coverage_at_k(y, s, k=k),
}


def random_data(n: int, n_labels: int, density: float, seed: int = 0):
    """Training labels, test labels, tie-free scores; some test rows are empty, some labels never occur in training."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, n_labels + 1) ** 0.7
    chance = density * n_labels * zipf / zipf.sum()
    train = rng.random((3 * n, n_labels)) < chance
    train[:, rng.permutation(n_labels)[: n_labels // 5]] = False
    test = rng.random((n, n_labels)) < chance
    test[rng.permutation(n)[: n // 10 + 1]] = False
    # informative, so that hits are neither rare nor certain; whole numbers per row, and halves for hits, never tie
    noise = rng.random((n, n_labels)).argsort(1).argsort(1)
    scores = noise + test * (n_labels // 3 + 0.5)
    return csr_array(train.astype(np.int8)), csr_array(test.astype(np.float32)), torch.from_numpy(scores)


def evaluator_for(train: csr_array, **options) -> Evaluator:
    frequency = train.sum(axis=0)
    return Evaluator(frequency, train.shape[0], bin_of_label=label_bins(frequency).of_label, **options)


@pytest.mark.parametrize("n, n_labels, density", [(1, 5, 0.5), (40, 7, 0.3), (300, 60, 0.05), (120, 900, 0.01)])
@pytest.mark.parametrize("propensity", [(0.55, 1.5), (0.6, 2.6)])
def test_equals_napkinxc_and_sklearn(n, n_labels, density, propensity):
    train, test, scores = random_data(n, n_labels, density)
    if n == 1:
        test = csr_array(np.array([[1.0, 0, 1, 0, 0]]))
    evaluator = evaluator_for(train, propensity=propensity)
    evaluator.update(scores, test)
    got = evaluator.compute()

    q = napkin.Jain_et_al_inverse_propensity(csr_matrix(train), *propensity)
    torch.testing.assert_close(evaluator.inv_propensity, torch.from_numpy(q), rtol=1e-12, atol=0)
    assert n == 1 or (train.sum(axis=0)[test.indices] == 0).any() and (np.diff(test.indptr) == 0).any()
    dense = test.toarray()
    for name, reference in NAPKIN.items():
        expected = 100 * reference(dense, scores.numpy(), q, 5)
        assert [got[f"{name}@{k}"] for k in (1, 3, 5)] == pytest.approx(expected[[0, 2, 4]], rel=1e-9), name
    for k in (1, 3, 5):
        assert got[f"nDCG@{k}"] == pytest.approx(100 * ndcg_score(dense, scores.numpy(), k=k), rel=1e-9)
    assert 0 < got["P@5"] < 100 and got["documents"] == n


def test_recall_pools_napkinxc_rows():
    """napkinXC averages recall over rows; weighting its rows by their number of labels gives the pooled recall."""
    train, test, scores = random_data(50, 30, 0.1)
    evaluator = evaluator_for(train)
    evaluator.update(scores, test)
    dense, sizes = test.toarray(), np.diff(test.indptr)
    by_row = np.stack([napkin.recall_at_k(dense[i:i + 1], scores[i:i + 1].numpy(), k=5) for i in range(50)])
    pooled = 100 * (by_row * sizes[:, None]).sum(0) / sizes.sum()
    got = evaluator.compute()
    assert [got[f"recall@{k}"] for k in (1, 3, 5)] == pytest.approx(pooled[[0, 2, 4]])


def test_by_hand():
    # labels 0, 1 head; 2, 3 torso; 4, 5 tail. N = 10 and A = B = 1 give C = 2 (ln 10 - 1), q = 1 + C / (N_l + 1).
    frequency, c = [9, 7, 3, 3, 1, 0], 2 * (math.log(10) - 1)
    q = [1 + c / 10, 1 + c / 8, 1 + c / 4, 1 + c / 4, 1 + c / 2, 1 + c]
    labels = csr_array(np.array([[1, 0, 1, 0, 0, 1],    # {0, 2, 5}
                                 [0, 1, 0, 0, 1, 0],    # {1, 4}
                                 [0, 0, 0, 0, 0, 0],    # {}
                                 [1, 0, 0, 0, 0, 0]]))  # {0}
    top = torch.tensor([[0, 1, 5], [2, 4, 3], [0, 1, 2], [1, 0, 5]])
    # hits:               0     5        4                      0
    evaluator = Evaluator(frequency, 10, ks=(1, 3), propensity=(1, 1), bin_of_label=[0, 0, 1, 1, 2, 2])
    evaluator.update_topk(top, labels)
    got = evaluator.compute()

    d2, d3 = 1 / math.log2(3), 1 / 2
    expected = {
        "documents": 4,
        "P@1": 1 / 4, "P@1/head": 1 / 4, "P@1/torso": 0, "P@1/tail": 0,
        "P@3": 4 / 12, "P@3/head": 2 / 12, "P@3/torso": 0, "P@3/tail": 2 / 12,
        # six assignments: head 0, 1, 0; torso 2; tail 5, 4
        "recall@1": 1 / 6, "recall@1/head": 1 / 3, "recall@1/torso": 0, "recall@1/tail": 0,
        "recall@3": 4 / 6, "recall@3/head": 2 / 3, "recall@3/torso": 0, "recall@3/tail": 1,
        "coverage@1": 1 / 5, "coverage@3": 3 / 5,
        "nDCG@1": 1 / 4,
        "nDCG@3": ((1 + d3) / (1 + d2 + d3) + d2 / (1 + d2) + d2) / 4,
        "PSP@1": q[0] / (q[5] + q[4] + q[0]),
        "PSP@3": (q[0] + q[5] + q[4] + q[0]) / (q[5] + q[2] + q[0] + q[4] + q[1] + q[0]),
        **{f"PSP@1/{name}": gain / (q[5] + q[4] + q[0])
           for name, gain in (("head", q[0]), ("torso", 0), ("tail", 0))},
        **{f"PSP@3/{name}": gain / (q[5] + q[2] + q[0] + q[4] + q[1] + q[0])
           for name, gain in (("head", 2 * q[0]), ("torso", 0), ("tail", q[5] + q[4]))},
        "PSnDCG@1": q[0] / (q[5] + q[4] + q[0]),
        "PSnDCG@3": ((q[0] + d3 * q[5]) / (1 + d2 + d3) + d2 * q[4] / (1 + d2) + d2 * q[0])
        / ((q[5] + d2 * q[2] + d3 * q[0]) / (1 + d2 + d3) + (q[4] + d2 * q[1]) / (1 + d2) + q[0]),
    }
    assert got == pytest.approx({key: v if key == "documents" else 100 * v for key, v in expected.items()})


def test_bins_without_assignments_are_nan_and_absent_when_not_asked_for():
    evaluator = Evaluator([5, 3, 1], 10, ks=(1,), bin_of_label=np.array([0, 1, 2], dtype=np.int8))
    evaluator.update(torch.tensor([[3.0, 2.0, 1.0]]), csr_array(np.array([[1, 0, 0]])))
    got = evaluator.compute()
    assert (got["recall@1/head"], got["P@1/head"], got["P@1/torso"], got["P@1/tail"]) == (100, 100, 0, 0)
    assert math.isnan(got["recall@1/torso"]) and math.isnan(got["recall@1/tail"])

    plain = Evaluator([5, 3, 1], 10, ks=(1,))
    plain.update(torch.tensor([[3.0, 2.0, 1.0]]), csr_array(np.array([[1, 0, 0]])))
    without = plain.compute()
    assert without == {key: v for key, v in got.items() if "/" not in key}


def test_no_label_anywhere_is_zero_or_undefined():
    evaluator = Evaluator([5, 3, 1], 10, ks=(1,))
    evaluator.update(torch.tensor([[3.0, 2.0, 1.0]]), csr_array((1, 3)))
    got = evaluator.compute()
    assert (got["P@1"], got["nDCG@1"], got["documents"]) == (0, 0, 1)
    assert all(math.isnan(got[name]) for name in ("PSP@1", "PSnDCG@1", "recall@1", "coverage@1"))


def test_batches_order_and_merge_do_not_matter():
    train, test, scores = random_data(97, 80, 0.06)
    whole, uneven, left, right = (evaluator_for(train) for _ in range(4))
    whole.update(scores, test)
    expected = whole.compute()

    for start, stop in ((0, 1), (1, 50), (50, 50), (50, 53), (53, 97)):
        uneven.update(scores[start:stop], test[start:stop])
    assert uneven.compute() == pytest.approx(expected, rel=1e-12)

    shuffled = np.random.default_rng(1).permutation(97)
    for rows in np.array_split(shuffled[:40], 3):
        left.update(scores[rows], test[rows])
    for rows in np.array_split(shuffled[40:], 4):
        right.update(scores[rows], test[rows])
    only_right = right.compute()
    left.merge(right)
    assert left.compute() == pytest.approx(expected, rel=1e-12)
    assert right.compute() == only_right

    left.reset()
    left.update(scores, test)
    assert left.compute() == expected


def test_topk_is_the_same_as_scores_and_minus_one_is_a_miss():
    train, test, scores = random_data(30, 40, 0.1)
    by_scores, by_topk, by_more = (evaluator_for(train) for _ in range(3))
    by_scores.update(scores, test)
    by_topk.update_topk(scores.topk(5).indices, test)
    by_more.update_topk(scores.topk(9).indices.int().numpy(), test)
    assert by_scores.compute() == by_topk.compute() == by_more.compute()

    evaluator = Evaluator([1, 1, 1], 10, ks=(1, 2))
    # row 1's -1 must not be read as row 0's last label
    evaluator.update_topk(torch.tensor([[0, -1], [-1, -1]]), csr_array(np.array([[1, 0, 1], [0, 0, 1]])))
    got = evaluator.compute()
    assert (got["P@1"], got["P@2"]) == (50, 25)
    assert got["recall@2"] == pytest.approx(100 / 3)


def test_excluded_pairs_never_enter_the_top_k():
    train, test, scores = random_data(60, 40, 0.1)
    rng = np.random.default_rng(2)
    excluded = csr_array((rng.random((60, 40)) < 0.2) * (rng.random((60, 1)) < 0.7))
    assert (test.toarray() * excluded.toarray()).any()
    before = scores.clone()
    got, expected, without = (evaluator_for(train) for _ in range(3))
    got.update(scores, test, excluded)
    assert torch.equal(scores, before)
    expected.update(torch.where(torch.from_numpy(excluded.toarray()), -1.0, scores), test)
    without.update(scores, test)
    assert got.compute() == expected.compute() != without.compute()
    without.reset()
    without.update(scores, test, csr_array((60, 40)))
    assert without.compute()["P@5"] > expected.compute()["P@5"]


def test_a_top_k_of_the_asked_for_depth_serves_as_all_scores_do():
    train, test, scores = random_data(60, 40, 0.1)
    excluded = csr_array(np.random.default_rng(2).random((60, 40)) < 0.2)
    got, expected = (evaluator_for(train) for _ in range(2))
    expected.update(scores, test, excluded)
    depth = got.depth(excluded)
    assert depth == 5 + excluded.toarray().sum(1).max() and got.depth() == 5 == got.depth(csr_array((60, 40)))
    got.update_topk(scores.topk(depth).indices, test, excluded)
    assert got.compute() == pytest.approx(expected.compute(), nan_ok=True)
    with pytest.raises(ValueError, match=r"excluded \(60, 39\) do not fit"):
        got.update_topk(scores.topk(depth).indices, test, csr_array((60, 39)))


def test_excluded_pairs_are_no_hit_even_where_fewer_than_k_labels_remain():
    evaluator = Evaluator([1, 1, 1], 10, ks=(1, 3))
    labels, excluded = csr_array(np.array([[1, 1, 0]])), csr_array(np.array([[1, 0, 0]]))
    evaluator.update(torch.tensor([[3.0, 2.0, 1.0]]), labels, excluded)
    got = evaluator.compute()
    assert got["P@1"] == 100  # label 1 moves up
    assert got["P@3"] == pytest.approx(100 / 3)
    assert got["recall@3"] == 50


def test_labels_need_not_be_tidy():
    """Unsorted columns, duplicates and stored zeros mean what the dense matrix means."""
    untidy = csr_array((np.array([1, 1, 1, 0, 1], dtype=np.int8), np.array([3, 0, 3, 1, 2]), np.array([0, 4, 5])),
                       shape=(2, 4))
    columns = untidy.indices.copy()
    tidy = csr_array((untidy.toarray() > 0).astype(np.int8))
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.3, 0.2]])
    results = []
    for labels in (untidy, tidy, csr_matrix(tidy)):
        evaluator = Evaluator([4, 3, 2, 1], 10, ks=(1, 2))
        evaluator.update(scores, labels)
        results.append(evaluator.compute())
    assert results[0] == results[1] == results[2]
    assert results[0]["recall@2"] == pytest.approx(200 / 3)
    assert np.array_equal(untidy.indices, columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_score_types_and_gradients(dtype):
    scores = torch.tensor([[0.25, 0.5, 1.0], [1.0, 0.5, 0.25]], dtype=dtype, requires_grad=True)
    evaluator = Evaluator([4, 2, 1], 10, ks=(1,))
    evaluator.update(scores, csr_array(np.array([[0, 0, 1], [0, 1, 0]])))
    assert evaluator.compute()["P@1"] == 50


def test_for_corpus_takes_frequencies_propensity_and_bins():
    train, test, scores = random_data(80, 30, 0.1)
    names = [f"label {i}" for i in range(30)]
    corpus = Corpus("tiny", Split(train, texts=["t"] * 240), Split(test, texts=["t"] * 80), names,
                    propensity=(0.5, 0.4))
    evaluator, by_hand = Evaluator.for_corpus(corpus), evaluator_for(train, propensity=(0.5, 0.4))
    bins = corpus.bins((0.2, 0.9))
    moved = Evaluator.for_corpus(corpus, ks=(2,), bins=bins)
    for e in (evaluator, by_hand, moved):
        e.update(scores, test)
    assert evaluator.compute() == by_hand.compute()
    top = scores.topk(2).indices.numpy()
    head_hits = test.toarray()[np.arange(80)[:, None], top] * (bins.of_label[top] == 0)
    assert moved.compute()["P@2/head"] == pytest.approx(100 * head_hits.sum() / 160)
    assert "A=0.5, B=0.4" in evaluator.describe() and "240 training documents" in evaluator.describe()
    sizes = np.bincount(corpus.bins().of_label)
    assert f"head {sizes[0]}, torso {sizes[1]}, tail {sizes[2]}" in repr(evaluator)
    assert "80 documents so far" in repr(evaluator)


def test_inverse_propensity_values():
    # Amazon-670K's documented setting: N = 490,449, A = 0.6, B = 2.6, for a label used 1, 10, 100 times
    q = inverse_propensity([1, 10, 100], 490_449, 0.6, 2.6)
    assert q.dtype == torch.float64
    assert q.tolist() == pytest.approx([13.1, 6.7, 2.6], abs=0.06)


@pytest.mark.parametrize("arguments, message", [
    (([1, 1], 2), r"n_train >= 3\); got 2"),
    (([1, 1], float("nan")), "got nan"),
    (([1, 1], 10, -0.5, 1.5), r"A >= 0 and B > 0; got A=-0.5, B=1.5"),
    (([1, 1], 10, 0.5, 0.0), r"got A=0.5, B=0.0"),
    (([1, 11, 12], 10), r"0\.\.10 \(n_train\); 2 labels do not, the first is label 1 with 11"),
    (([1, -1], 10), "1 labels do not, the first is label 1 with -1"),
    (([1.0, float("nan")], 10), "label 1 with nan"),
    (([[1, 1]], 10), r"got shape \(1, 2\)"),
])
def test_inverse_propensity_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        inverse_propensity(*arguments)


@pytest.mark.parametrize("options, message", [
    ({"ks": (1, 5)}, "k=5 needs at least as many labels; there are 4"),
    ({"ks": ()}, r"from 1 up; got \(\)"),
    ({"ks": (0, 1)}, r"from 1 up; got \(0, 1\)"),
    ({"ks": (1.5,)}, r"from 1 up; got \(1.5,\)"),
    ({"ks": (1,), "bin_of_label": [0, 1, 2]}, r"each of the 4 labels; got torch.int64, shape \(3,\)"),
    ({"ks": (1,), "bin_of_label": [0, 1, 2, 3]}, r"values \[0, 1, 2, 3\]"),
    ({"ks": (1,), "bin_of_label": [0, 0.5, 1, 2]}, "got torch.float32"),
])
def test_evaluator_refuses_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Evaluator([3, 2, 1, 0], 10, **options)


@pytest.mark.parametrize("scores, labels, excluded, message", [
    (torch.ones(2, 4), csr_array((3, 4)), None, r"scores \(2, 4\), labels \(3, 4\) do not fit: expected \[B, 4\]"),
    (torch.ones(2, 5), csr_array((2, 5)), None, r"scores \(2, 5\), labels \(2, 5\)"),
    (torch.ones(4), csr_array((1, 4)), None, r"scores \(4,\), labels \(1, 4\)"),
    (torch.ones(2, 4), csr_array((2, 4)), csr_array((2, 3)), r"excluded \(2, 3\)"),
    (torch.tensor([[1, math.nan, math.inf, 0], [0, 0, 0, -math.inf]]), csr_array((2, 4)), None, "3 of 8 scores"),
    (torch.tensor([[1, 0, -math.inf, 0]]), csr_array((1, 4)), None, "1 of 4 scores.*update_topk"),
])
def test_update_refuses_and_counts_nothing(scores, labels, excluded, message):
    evaluator = Evaluator([3, 2, 1, 0], 10, ks=(1, 2))
    with pytest.raises(ValueError, match=message):
        evaluator.update(scores, labels, excluded)
    with pytest.raises(RuntimeError, match="no document seen yet"):
        evaluator.compute()


@pytest.mark.parametrize("indices, labels, message", [
    (torch.zeros(2, 1, dtype=torch.int64), csr_array((2, 4)), r"indices \(2, 1\) .* expected \[B, 2 or more\]"),
    (torch.tensor([[0, 1]]), csr_array((2, 4)), r"indices \(1, 2\) and labels \(2, 4\)"),
    (torch.tensor([0, 1]), csr_array((2, 4)), r"indices \(2,\)"),
    (torch.tensor([[0.0, 1.0]]), csr_array((1, 4)), "whole numbers; got torch.float32"),
    (torch.tensor([[0, 4]]), csr_array((1, 4)), r"-1\.\.3; got 0\.\.4"),
    (torch.tensor([[0, -2]]), csr_array((1, 4)), r"-1\.\.3; got -2\.\.0"),
    (torch.tensor([[0, 1], [2, 2]]), csr_array((2, 4)), r"row 1 is \[2, 2\]"),
])
def test_update_topk_refuses_and_counts_nothing(indices, labels, message):
    evaluator = Evaluator([3, 2, 1, 0], 10, ks=(1, 2))
    with pytest.raises(ValueError, match=message):
        evaluator.update_topk(indices, labels)
    assert evaluator.documents == 0


@pytest.mark.parametrize("frequency, options", [
    ([3, 2, 1, 0], {"ks": (1,)}),
    ([3, 2, 1, 0], {"propensity": (0.6, 2.6)}),
    ([3, 2, 0, 1], {}),
    ([3, 2, 1, 0], {"bin_of_label": [0, 1, 2, 2]}),
    ([3, 2, 1], {}),
])
def test_merge_refuses_another_measurement(frequency, options):
    one = Evaluator([3, 2, 1, 0], 10, ks=(1, 2))
    with pytest.raises(ValueError, match="only evaluators of the same ks") as error:
        one.merge(Evaluator(frequency, 10, **({"ks": (1, 2)} | options)))
    assert one.describe() in str(error.value)


cases = st.tuples(st.integers(1, 25), st.integers(5, 40), st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(cases)
def test_all_values_are_percentages_and_bins_add_up(case):
    n, n_labels, density, seed = case
    train, test, scores = random_data(n, n_labels, density, seed)
    evaluator = evaluator_for(train)
    evaluator.update(scores, test)
    got = evaluator.compute()
    assert len(got) == 1 + 3 * (6 + 9)
    for key, value in got.items():
        undefined = key.startswith(("PSP", "PSnDCG", "recall", "coverage")) and math.isnan(value)
        assert key == "documents" or undefined or 0 <= value <= 100 + 1e-9, (key, value)
        if undefined and "/" not in key:
            assert test.nnz == 0
    for k in (1, 3, 5):
        assert sum(got[f"P@{k}/{name}"] for name in ("head", "torso", "tail")) == pytest.approx(got[f"P@{k}"])
    assert got["recall@1"] <= got["recall@5"] or test.nnz == 0


@settings(max_examples=60, deadline=None)
@given(cases)
def test_the_best_ranking_scores_100(case):
    n, n_labels, density, seed = case
    train, test, _ = random_data(n, n_labels, density, seed)
    keep = np.diff(test.indptr) > 0
    assume(keep.any())
    evaluator, test = evaluator_for(train), test[keep]
    # own labels above all others, and the rarer in training the higher
    evaluator.update(torch.from_numpy(test.toarray() * 1e6) + evaluator.inv_propensity, test)
    got = evaluator.compute()
    for metric in ("nDCG", "PSP", "PSnDCG"):
        assert [got[f"{metric}@{k}"] for k in (1, 3, 5)] == pytest.approx([100] * 3), metric
    sizes = np.diff(test.indptr)
    for k in (1, 3, 5):
        assert got[f"P@{k}"] == pytest.approx(100 * np.minimum(sizes, k).mean() / k)
        assert got[f"recall@{k}"] == pytest.approx(100 * np.minimum(sizes, k).sum() / sizes.sum())


# --- label by label -----------------------------------------------------------------------------------------------


def test_labels_are_counted_one_by_one_when_asked():
    train, test, scores = random_data(97, 80, 0.06)
    evaluator, other = evaluator_for(train), evaluator_for(train)
    plain = evaluator_for(train)
    plain.update(scores, test)
    with pytest.raises(RuntimeError, match="reset\\(per_label=True\\)"):
        plain.of_labels(1)
    with pytest.raises(ValueError, match="both with or both without counts per label"):
        plain.merge(evaluator if evaluator.reset(per_label=True) else evaluator)
    other.reset(per_label=True)
    evaluator.update(scores[:50], test[:50])
    other.update(scores[50:], test[50:])
    evaluator.merge(other)
    assert evaluator.compute() == pytest.approx(plain.compute(), rel=1e-12)
    truth = test.toarray() > 0
    for k in (1, max(evaluator.ks)):
        top = np.zeros_like(truth)
        np.put_along_axis(top, scores.topk(k).indices.numpy(), True, axis=1)
        found = evaluator.of_labels(k)
        assert np.array_equal(found["assignments"], truth.sum(0))
        assert np.array_equal(found["predicted"], top.sum(0)) and np.array_equal(found["hits"], (top & truth).sum(0))
    with pytest.raises(ValueError, match="k must be in 1.."):
        evaluator.of_labels(99)


def test_the_parts_of_psp_add_up():
    train, test, scores = random_data(97, 80, 0.06)
    evaluator = Evaluator(np.asarray(train.sum(0)).ravel(), train.shape[0], bin_of_label=np.arange(80) % 3)
    evaluator.update(scores, test)
    got = evaluator.compute()
    for k in (1, 3, 5):
        assert sum(got[f"PSP@{k}/{name}"] for name in ("head", "torso", "tail")) == pytest.approx(got[f"PSP@{k}"])


def test_too_few_labels_say_what_a_run_needs():
    with pytest.raises(ValueError, match="k=5 needs at least as many labels; there are 2. .* its corpus has 5 or more"):
        Evaluator([3, 2], 10)
