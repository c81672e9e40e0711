"""Probes: gradients against autograd in float64, connections by their definitions, and a run that never notices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus
from torch import nn
from torch.nn import functional as F
from transformer_for_tests import small_transformer

import xmc_explore as xe
from xmc_explore import logit_free, probes
from xmc_explore.corpora import BIN_NAMES
from xmc_explore.losses import LOSSES
from xmc_explore.training import Run

BAG = dict(hidden=24, aux_clusters=4, warmup=5, batch_size=32, fan_in=4, rewire_interval=10, output_lr=0.01,
           dropout=0.2)
PARTS = (*BIN_NAMES, "auxiliary")


def recipe(**options) -> xe.Recipe:
    return xe.Recipe().replace(**{**BAG, **options})


def run_of(steps=40, corpus=None, **options) -> Run:
    return Run(corpus or tiny_corpus(), recipe(**options), steps=steps)


# --- the run does not notice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, dict(growth_mode="gradient", intermediate=40), dict(output="bottleneck", bottleneck_width=3),
    dict(output="dense", aux_weight=0.0), dict(autocast="bfloat16", loss="squared_hinge"),
    dict(encoder="transformer", max_tokens=8, intermediate=40),
    dict(output_update="in_place"), dict(group_size=4, head_share=0.5),
    dict(output_update="in_place", output_optimizer="sgd", momentum=0.0, output_dtype="bfloat16")],
    ids=lambda o: ",".join(map(str, o.values())) or "default")
def test_a_run_is_the_same_bit_for_bit_with_probes_and_without(options, monkeypatch):
    small_transformer(monkeypatch)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, two = (xe.train(tiny_corpus(), recipe(**options, probe_interval=every), steps=25, progress=False)
                for every in (0, 3))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()
    assert one.history("loss")[1].tolist() == two.history("loss")[1].tolist()
    assert one.history("grad")[1].tolist() == two.history("grad")[1].tolist()
    assert one.metrics() == two.metrics()
    if one.frames:
        assert np.array_equal(one.connectivity(), two.connectivity())
    for event in two.events["probe"]:
        assert sum(event[f"budget/share/{name}"] for name in PARTS) == pytest.approx(1, abs=1e-4)
    assert not one.events["probe"] and [e["step"] for e in two.events["probe"]] == list(range(3, 25, 3))
    again = xe.train(tiny_corpus(), recipe(**options, probe_interval=3), steps=25, progress=False)
    for name in ("snr", "budget/share/tail"):
        assert two.history(name)[1].tolist() == again.history(name)[1].tolist()


def test_only_what_the_recipe_names_is_measured():
    trace = xe.train(tiny_corpus(), recipe(probe_interval=5, probes="snr"), steps=10, progress=False)
    assert set(trace.events["probe"][0]) == {"kind", "step", "seconds", "snr"}
    with pytest.raises(ValueError, match="probes='budget,norm' names 'norm'; give some of budget, twin, snr"):
        xe.Recipe(probes="budget,norm")


def test_an_encoder_without_parameters_has_no_gradient_to_look_at():
    trace = xe.train(tiny_corpus(texts=False), recipe(encoder="features", probe_interval=5), steps=10, progress=False)
    assert not trace.events["probe"]


# --- the encoder's gradient ---------------------------------------------------------------------------------------


def gradient(outputs, run, **options) -> torch.Tensor:
    """Of the encoder's parameters as one dense vector, by autograd."""
    found = torch.autograd.grad(outputs, list(run.model.encoder.parameters()), retain_graph=True, allow_unused=True,
                                **options)
    return torch.cat([(g.to_dense() if g.is_sparse else g).flatten() for g in found if g is not None])


@pytest.mark.parametrize("options", [
    {}, dict(intermediate=40), dict(output="dense"), dict(loss="squared_hinge"), dict(aux_weight=0.0),
    dict(output="bottleneck", bottleneck_width=3), dict(group_size=4, head_share=0.5),
    dict(loss="squared_hinge", intermediate=40, aux_weight=0.0), dict(encoder="transformer", max_tokens=8),
    dict(encoder="transformer", max_tokens=8, loss="squared_hinge", aux_weight=0.0)],
    ids=lambda o: ",".join(map(str, o.values())) or "default")
def test_budget_twin_and_snr_are_what_autograd_says_in_float64(options, monkeypatch):
    small_transformer(monkeypatch)
    run = run_of(probe_interval=1, dropout=0.0, batch_size=30, **options)  # micro-batches of 8, 8, 7 and 7
    for _ in range(3):  # past the first steps, where all labels say the same
        run.step()
    run.model.double().train()
    weight, rows = run.auxiliary_weight(4), run.batch_rows(4)
    batch = run.documents["train"].batch(rows, run.device)
    if "encoder" not in options:
        batch = (*batch[:2], batch[2].double())
    x, cluster_logits = run.model.features(batch, with_clusters=weight > 0)
    logits = run.model.label_layer(x)
    positives = run._positives(run.corpus.train.labels, rows)
    clusters = run._positives(run._cluster_labels, rows) if weight > 0 else None
    twin = run.probes._twin and [p.detach().clone() for p in run.probes._twin.layer.parameters()]
    found = run.probes(4, run.recipe, x, positives, clusters, weight, 1.0)

    loss_of = LOSSES[run.recipe.loss]
    total = (1 - weight) * loss_of(logits, *positives)
    parts = {}
    dlogits, = torch.autograd.grad(total, logits, retain_graph=True)
    of_label = torch.from_numpy(run.corpus.bins().of_label)
    for i, name in enumerate(BIN_NAMES):
        parts[name] = gradient(logits, run, grad_outputs=dlogits * (of_label == i))
    parts["auxiliary"] = torch.zeros_like(parts["head"])
    if weight > 0:
        auxiliary = weight * loss_of(cluster_logits, *clusters)
        parts["auxiliary"], total = gradient(auxiliary, run), total + auxiliary
    whole = gradient(total, run)

    for name, part in parts.items():
        assert found[f"budget/norm/{name}"] == pytest.approx(float(part.norm()), rel=1e-10)
        assert found[f"budget/share/{name}"] == pytest.approx(float(part @ whole / (whole @ whole)), abs=1e-10)
    assert torch.allclose(sum(parts.values()), whole, rtol=1e-10, atol=1e-12), "the parts add up to the whole"
    assert sum(found[f"budget/share/{name}"] for name in PARTS) == pytest.approx(1, abs=1e-10)

    order = np.random.default_rng([run.recipe.seed, 13, 4]).permutation(len(rows))
    spread = 0.0
    for part in np.array_split(order, 4):
        at = torch.from_numpy(np.sort(part))
        keep = torch.isin(positives[0], at)
        moved = torch.searchsorted(at, positives[0][keep]), positives[1][keep]
        value = (1 - weight) * loss_of(logits[at], *moved)
        if weight > 0:
            keep = torch.isin(clusters[0], at)
            moved = torch.searchsorted(at, clusters[0][keep]), clusters[1][keep]
            value = value + weight * loss_of(cluster_logits[at], *moved)
        spread += len(at) / len(rows) * float((gradient(value, run) - whole).square().sum())
    assert found["snr"] == pytest.approx(float(whole.square().sum()) / spread, rel=1e-6)  # shares are float32

    if twin:  # which learns in float32
        dx, = torch.autograd.grad((1 - weight) * loss_of(F.linear(x, *(p.double() for p in twin)), *positives), x,
                                  retain_graph=True)
        dense, labels = gradient(x, run, grad_outputs=dx), whole - parts["auxiliary"]
        for name, ours in (("twin/cosine", labels), ("twin/cosine_total", whole)):
            assert found[name] == pytest.approx(float(F.cosine_similarity(ours, dense, dim=0)), abs=1e-6)
        assert found["twin/norm_ratio"] == pytest.approx(float(labels.norm() / dense.norm()), rel=1e-5)
    assert bool(twin) == ("output" not in options) == ("twin/cosine" in found)


@pytest.mark.parametrize("autocast, tolerance", [("none", 1e-4), ("bfloat16", 0.03)])
def test_in_fewer_bits_the_budget_is_what_autograd_says_up_to_rounding(autocast, tolerance):
    run = run_of(probe_interval=1, autocast=autocast, batch_size=64)
    for _ in range(10):
        run.step()
    weight, rows = run.auxiliary_weight(11), run.batch_rows(11)
    run.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast == "bfloat16"):
        x, cluster_logits = run.model.features(run.documents["train"].batch(rows, run.device), with_clusters=True)
        logits = run.model.label_layer(x).float()
    positives, clusters = (run._positives(of, rows) for of in (run.corpus.train.labels, run._cluster_labels))
    found = run.probes(11, run.recipe, x, positives, clusters, weight, 1.0)
    dlogits, = torch.autograd.grad((1 - weight) * LOSSES["bce"](logits, *positives), logits, retain_graph=True)
    of_label = torch.from_numpy(run.corpus.bins().of_label)
    parts = [gradient(logits, run, grad_outputs=dlogits * (of_label == i)).double() for i in range(3)]
    parts.append(gradient(weight * LOSSES["bce"](cluster_logits.float(), *clusters), run).double())
    whole = sum(parts)
    for name, part in zip(PARTS, parts, strict=True):
        assert found[f"budget/share/{name}"] == pytest.approx(float(part @ whole / (whole @ whole)), abs=tolerance)
        assert found[f"budget/norm/{name}"] == pytest.approx(float(part.norm()), rel=tolerance)


def test_a_measurement_does_not_depend_on_what_else_is_measured():
    every = {}
    for probes_ in ("budget,twin,snr", "budget", "snr", "twin", "twin,snr"):
        run = run_of(probe_interval=10, probes=probes_)
        for _ in range(10):
            run.step()
        event, = run.trace.events["probe"]
        for name, value in event.items():
            if "/" in name or name == "snr":
                assert value == pytest.approx(every.setdefault(name, value), rel=1e-4, abs=1e-5), (probes_, name)
    assert len(every) == 8 + 3 + 1


def test_parts_of_the_input_gradient_add_up_whatever_the_chunks(monkeypatch):
    layer = xe.FixedFanIn(13, 37, 5).double()
    x = torch.randn(6, 13, dtype=torch.float64, requires_grad=True)
    rows, columns = torch.tensor([0, 0, 3, 5]), torch.tensor([1, 36, 20, 0])
    bins = torch.randint(3, (37,))
    expected, = torch.autograd.grad(LOSSES["bce"](layer(x), rows, columns), x)
    for logits in (1 << 20, 60):
        monkeypatch.setattr(logit_free, "CHUNK_ELEMENTS", logits)
        found = probes.input_gradient(layer, x, rows, columns, "bce", bins)
        assert torch.allclose(found.sum(0), expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(TypeError, match="cannot be gone through label by label"):
        probes.input_gradient(nn.Bilinear(2, 2, 37), x, rows, columns, "bce", bins)


# --- the dense twin -----------------------------------------------------------------------------------------------


def adam(parameters, **options):
    return torch.optim.AdamW(parameters, **options)


def test_the_twin_begins_as_the_sparse_layer_with_fresh_weights_where_that_has_none():
    layer = xe.FixedFanIn(50, 30, 4)
    with torch.no_grad():
        layer.bias.normal_()
    twin = probes.DenseTwin(layer, adam, xe.Recipe())
    dense = layer.to_dense()
    there = dense != 0
    assert torch.equal(twin.layer.weight[there], dense[there]) and torch.equal(twin.layer.bias, layer.bias)
    fresh = twin.layer.weight[~there].detach()
    assert fresh.abs().max() <= 50**-0.5 and float(fresh.std()) == pytest.approx(50**-0.5 / math.sqrt(3), rel=0.05)
    assert torch.equal(probes.DenseTwin(layer, adam, xe.Recipe()).layer.weight, twin.layer.weight), "seeded"


@pytest.mark.parametrize("make", [adam, torch.optim.SGD])  # to Adam all scales of a loss are alike
def test_the_twin_learns_as_a_dense_layer_would_and_the_encoder_does_not_hear_it(make):
    layer = xe.FixedFanIn(10, 7, 10)  # all features: its twin is the same layer
    recipe = xe.Recipe(output_weight_decay=0.0)
    twin, optimizer = probes.DenseTwin(layer, make, recipe), make(layer.parameters(), lr=0.5 * recipe.output_lr,
                                                                  weight_decay=0.0)
    rows, columns = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 6])
    for _ in range(3):
        x = torch.randn(4, 10, requires_grad=True)
        twin.learn(x, (rows, columns), "bce", 0.7, 0.5)
        assert x.grad is None
        (0.7 * LOSSES["bce"](layer(x.detach()), rows, columns)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(twin.layer.weight, layer.to_dense(), atol=1e-5)
    expected = probes.input_gradient(layer, x, rows, columns, "bce")[0]
    found = twin.learn(x, (rows, columns), "bce", 0.7, 0.5, want_gradient=True)
    assert torch.allclose(found, expected, atol=1e-5), "before the step, and of the loss as it is"


def test_a_layer_that_reads_everything_agrees_with_its_twin_and_a_sparse_one_does_not():
    full, sparse = (xe.train(tiny_corpus(), recipe(fan_in=k, rewire_interval=0, probe_interval=5, aux_weight=0.0),
                             steps=30, progress=False) for k in (24, 2))
    assert np.allclose(full.history("twin/cosine")[1], 1, atol=1e-3)
    assert np.allclose(full.history("twin/norm_ratio")[1], 1, atol=1e-2)
    assert (sparse.history("twin/cosine")[1] < 0.97).all()
    assert np.array_equal(sparse.history("twin/cosine")[1], sparse.history("twin/cosine_total")[1])


# --- connections during a run -------------------------------------------------------------------------------------


def test_a_rewire_says_what_it_did_to_each_bin():
    corpus = xe.load_corpus("planted", n_train=400, n_test=50, n_labels=40, n_features=32, support=4)
    options = dict(encoder="features", fan_in=6, rewire_interval=5, batch_size=32, aux_weight=0.0)
    trace = xe.train(corpus, xe.Recipe(**options), steps=60, progress=False)
    of_label, born, tried = corpus.bins().of_label, np.zeros((40, 6)), set()
    tried |= {(label, f) for label, row in enumerate(trace.connectivity(0)) for f in row}
    assert trace.events["rewire"]
    for event in trace.events["rewire"]:
        slots, now = trace.changed(event["frame"]), trace.connectivity(event["frame"])
        born.reshape(-1)[slots] = event["step"]
        tried |= {(label, f) for label, row in enumerate(now) for f in row}
        assert event["explored"] == pytest.approx(len(tried) / (40 * 32), rel=1e-6)
        for i, name in enumerate(BIN_NAMES):
            labels = np.flatnonzero(of_label == i)
            replaced = np.isin(slots // 6, labels).sum()
            assert event[f"churn/{name}"] == pytest.approx(replaced / (6 * len(labels)), rel=1e-6)
            assert event[f"age/{name}"] == pytest.approx((event["step"] - born[labels]).mean(), rel=1e-6)
            found = [len(set(now[label]) & set(corpus.support[label])) / 4 for label in labels]
            assert event[f"found/{name}"] == pytest.approx(np.mean(found), rel=1e-6)


def test_support_is_found_only_where_the_layer_reads_the_features_themselves():
    corpus = xe.load_corpus("planted", n_train=400, n_test=50, n_labels=40, n_features=32, support=4)
    recipe = xe.Recipe(hidden=24, fan_in=6, rewire_interval=5, aux_weight=0.0)
    trace = xe.train(corpus, recipe, steps=20, progress=False)
    assert trace.events["rewire"] and "found/head" not in trace.events["rewire"][0]


def test_labels_that_share_rows_and_layers_too_large_to_remember(monkeypatch):
    monkeypatch.setattr(probes, "TRIED", 10)
    bins, row_of = np.array([0, 1, 1, 2]), np.array([-1, 0, 0, 1])
    probe = probes.ConnectionProbe(np.array([[0, 1], [2, 3]]), 8, bins, row_of=row_of)
    found = probe.rewired(10, np.array([1]), np.array([7], np.int16))
    assert found == {"churn/torso": 0.5, "churn/tail": 0.0, "age/torso": 5.0, "age/tail": 10.0}


# --- connections afterwards ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    return xe.load_corpus("planted", n_train=400, n_test=50, n_labels=40, n_features=32, support=4)


@pytest.fixture(scope="module")
def trace(planted):
    options = dict(encoder="features", fan_in=6, rewire_interval=5, batch_size=32, aux_weight=0.0)
    return xe.train(planted, xe.Recipe(**options), steps=60, progress=False)


def test_every_connection_has_a_birth_and_a_death(trace):
    found = probes.lives(trace.store)
    expected = []
    now = [[(int(f), 0) for f in row] for row in trace.connectivity(0)]
    for number, step in enumerate(trace.frames[1:], start=1):
        after = trace.connectivity(number)
        for slot in trace.changed(number):
            label, k = divmod(int(slot), 6)
            expected.append((label, now[label][k][1], step))
            now[label][k] = int(after[label, k]), step
    expected += [(label, born, -1) for label, row in enumerate(now) for _, born in row]
    assert sorted(zip(*(part.tolist() for part in found), strict=True)) == sorted(expected)
    replaced = np.bincount(found.label[found.died >= 0], minlength=40)
    assert np.array_equal(probes.replaced(trace.store), replaced)
    by_bin = probes.moves(trace.store, np.arange(40) % 2)
    assert [by_bin["head"], by_bin["torso"]] == pytest.approx([replaced[::2].mean() / 6, replaced[1::2].mean() / 6])
    assert math.isnan(by_bin["tail"])


def test_survival_by_hand():
    # In the head: deaths at ages 10 and 20, and one still alive at the end at age 20. In the tail: nothing.
    # And one was grown by the last rewire: it was never at risk.
    lives = [0, 0, 0, 0, 1], [10, 10, 20, 40, 0], [20, 30, -1, -1, 5]
    found = probes.survival(probes.Lives(*map(np.array, lives)), 40, np.array([0, 1]))
    assert set(found) == {"head"}
    ages, share = found["head"]
    assert ages.tolist() == [0, 10, 20] and share == pytest.approx([1, 2 / 3, 2 / 3 * 1 / 2])
    every = probes.survival(probes.Lives(*map(np.array, ([0, 1], [0, 0], [-1, 5]))), 40, np.array([0, 1]), grown=False)
    assert every["torso"][1].tolist() == [1, 0] and every["head"][1].tolist() == [1, 1]


def test_ages_and_exploration_agree_with_what_the_run_counted(trace, planted):
    of_label = planted.bins().of_label
    age, tried = probes.ages(trace.store, of_label), probes.explored(trace.store, trace.width, of_label)
    size = np.bincount(of_label, minlength=3) / 40
    for number, event in enumerate(trace.events["rewire"], start=1):
        for name in BIN_NAMES:
            assert age[name][number] == pytest.approx(event[f"age/{name}"], rel=1e-6)
        total = sum(size[i] * tried[name][number] for i, name in enumerate(BIN_NAMES))
        assert total == pytest.approx(event["explored"], rel=1e-6)
    assert [tried[name][0] for name in BIN_NAMES] == pytest.approx([6 / 32] * 3)
    with pytest.raises(ValueError, match="more connections than the .* that can be remembered"):
        probes.explored(trace.store, 1 << 30, of_label)


def test_in_degree_adds_up_and_leaves_out_a_dense_head():
    indices, of_label = np.array([[-1, -1], [0, 2], [2, 3]]), np.array([0, 1, 2])
    assert probes.in_degree(indices, 5).tolist() == [1, 0, 2, 1, 0]
    by_bin = probes.in_degree(indices, 5, of_label)
    assert by_bin.tolist() == [[0] * 5, [1, 0, 1, 0, 0], [0, 0, 1, 1, 0]]


def test_magnitudes_from_the_largest_down():
    weight = np.array([[3.0, -1.0], [0.5, 0.0], [2.0, -4.0]])
    found = probes.magnitude_spectrum(weight, np.array([0, 2, 0]), points=4)
    assert found["head"].tolist() == [4, 3, 2, 1] and set(found) == {"head", "tail"}


def test_overlap_is_a_jaccard_index_and_chance_is_as_said():
    indices = np.array([[0, 1, 2], [2, 1, 5], [7, 8, 9]])
    assert probes.overlap(indices, np.array([[0, 1], [0, 2], [1, 1]])).tolist() == [0.5, 0, 1]
    random = xe.FixedFanIn(64, 40_000, 8).indices.numpy()
    pairs = np.arange(40_000).reshape(-1, 2)
    assert probes.overlap(random, pairs).mean() == pytest.approx(probes.fair_overlap(64, 8), rel=0.02)


def test_related_labels_share_documents():
    corpus = tiny_corpus()
    related = probes.related_pairs(corpus.train.labels, n=10)
    together = (corpus.train.labels.T @ corpus.train.labels).toarray()
    count = together.diagonal()
    cosine = np.triu(together / np.sqrt(np.outer(count, count)), 1) * (together >= 3)
    assert cosine[tuple(related.T)] == pytest.approx(np.sort(cosine.ravel())[::-1][:10])
    chance = probes.shuffled_pairs(related)
    assert set(chance[:, 0]) <= set(related[:, 0]) and set(chance[:, 1]) <= set(related[:, 1])
    assert (chance[:, 0] != chance[:, 1]).all() and len(probes.shuffled_pairs(np.array([[3, 3], [3, 3]]))) == 0


# --- performance, label by label ----------------------------------------------------------------------------------


def test_the_last_evaluation_is_kept_label_by_label(trace, planted):
    table = trace.of_labels(3)
    bins, metrics = trace.bins(), trace.metrics()
    assert table["label"].tolist() == planted.label_names
    assert table["test documents"].tolist() == np.asarray(planted.test.labels.sum(0)).ravel().tolist()
    assert table["predicted"].sum() == 3 * metrics["documents"]
    assert 100 * table["hits"].sum() / table["predicted"].sum() == pytest.approx(metrics["P@3"])
    for name in BIN_NAMES:
        part = table[table["bin"] == name]
        assert len(part) == len(bins.labels(name))
        if part["test documents"].sum():
            found = 100 * part["hits"].sum() / part["test documents"].sum()
            assert found == pytest.approx(metrics[f"recall@3/{name}"])
    assert table["precision"].dropna().between(0, 100).all()
    assert table["precision"].isna().equals(table["predicted"] == 0)
    with pytest.raises(KeyError, match="k=2 was not counted; choose one of 1, 3, 5"):
        trace.of_labels(2)


def test_a_run_has_values_label_by_label_from_its_first_evaluation_on_and_stores_them_when_it_ends():
    run = run_of(steps=400)
    run.step()
    with pytest.raises(KeyError, match="running or killed, 1 steps.*from the first evaluation on"):
        xe.Trace.of(run.trace).of_labels()
    run.evaluate()
    early = xe.Trace.of(run.trace)
    for _ in range(150):
        run.step()
    run.evaluate()
    live = xe.Trace.of(run.trace)
    assert not (run.trace.folder / "of_labels.npz").exists()
    run.close("interrupted")
    stopped = xe.Trace(run.trace.folder)
    assert stopped.status == "interrupted" and live.of_labels(3).equals(stopped.of_labels(3))
    for trace in (early, live, stopped):
        table = trace.of_labels(3)
        assert 100 * table["hits"].sum() / table["predicted"].sum() == pytest.approx(trace.metrics()["P@3"])
    assert not early.of_labels(3).equals(live.of_labels(3))  # what a trace has said does not change


def test_a_run_that_ends_before_its_first_evaluation_has_no_values_label_by_label():
    run = run_of()
    run.step()
    run.close("interrupted")
    with pytest.raises(KeyError, match="interrupted, 1 steps"):
        xe.Trace.of(run.trace).of_labels()
