"""A run from the outside: what it learns, what it records, how it ends."""

import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus
from scipy.sparse import csr_array
from transformer_for_tests import small_transformer

import xmc_explore as xe
from xmc_explore.losses import LOSSES
from xmc_explore.recipe import METHODS
from xmc_explore.training import Run, TrainingError

FEATURES = dict(encoder="features", aux_clusters=4, fan_in=6, warmup=5, batch_size=32, rewire_interval=10,
                output_lr=0.01)
BAG = dict(hidden=48, aux_clusters=4, warmup=5, batch_size=32, rewire_interval=10, output_lr=0.01)


def quick(corpus=None, steps=40, out=None, **options):
    recipe = xe.Recipe().replace(**{**FEATURES, **options})
    return xe.train(corpus or tiny_corpus(texts=False), recipe, steps=steps, out=out, progress=False)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method):
    options = {k: v for k, v in BAG.items() if k not in METHODS[method]}
    if method == "SET + intermediate":
        options["intermediate"] = 96
    trace = xe.train(tiny_corpus(), xe.Recipe.method(method, **options), steps=80, progress=False)
    _, loss = trace.history("main")
    assert trace.status == "finished" and trace.steps == 80
    assert loss[-10:].mean() < 0.9 * loss[:10].mean()
    m = trace.metrics("test")
    assert m["P@1"] > 30 and m["documents"] == 80  # the most frequent label alone stands in 1 document of 4
    assert {"P@1", "PSP@5", "nDCG@3", "PSnDCG@5", "coverage@5", "recall@5/head", "recall@5/tail"} <= set(m)


def test_a_folder_in_a_benchmark_format_trains_with_an_embedding_for_each_feature(tmp_path):
    corpus = tiny_corpus(texts=False)
    for half, split in (("trn", corpus.train), ("tst", corpus.test)):
        for suffix, matrix in (("Xf", split.features), ("Y", split.labels)):
            rows = [" ".join(f"{j}:{v:g}" for j, v in zip(matrix[[i]].indices, matrix[[i]].data, strict=True))
                    for i in range(len(split))]
            (tmp_path / f"{half}_X_{suffix}.txt").write_text("\n".join([f"{len(split)} {matrix.shape[1]}", *rows, ""]))
    trace = xe.train(xe.load_corpus(tmp_path), xe.Recipe(**BAG), steps=60, progress=False)
    assert trace.metrics("test")["P@1"] > 40
    assert "grad/embedding" in trace.events["step"][0]


def test_rewiring_finds_the_planted_support_of_the_head_before_that_of_the_tail():
    corpus = xe.load_corpus("planted", n_train=3000, n_test=300, n_labels=200, n_features=128, support=6, zipf=1.0)
    recipe = xe.Recipe(encoder="features", fan_in=12, aux_weight=0.0, growth_mode="gradient", rewire_interval=20,
                       rewire_fraction=0.4, output_lr=0.02, batch_size=64)
    trace = xe.train(corpus, recipe, steps=600, progress=False)

    def found(frame):
        reads = np.zeros((corpus.n_labels, corpus.n_features), bool)
        np.put_along_axis(reads, trace.connectivity(frame).astype(np.int64), True, axis=1)
        share = np.take_along_axis(reads, corpus.support, axis=1).mean(1)
        return [share[corpus.bins().of_label == i].mean() for i in range(3)]

    start, end = found(0), found(-1)
    assert all(abs(s - 12 / 128) < 0.06 for s in start)  # chance
    assert end[0] > 0.6 and end[0] > end[1] > end[2]


def test_squared_hinge_and_threshold_pruning_learn_too():
    trace = quick(loss="squared_hinge", prune_mode="threshold", rewire_threshold=0.05, steps=80)
    assert trace.metrics("test")["P@1"] > 40
    assert (trace.history("churn")[1] > 0).any()


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_optimizers_and_autocast(optimizer, autocast):
    trace = quick(tiny_corpus(), encoder="bag", hidden=32, encoder_optimizer=optimizer, output_optimizer=optimizer,
                  output_lr=0.05, autocast=autocast, steps=30)
    _, loss = trace.history("main")
    assert loss[-5:].mean() < loss[:5].mean()


# --- without logits, in place, in few bits

IN_PLACE = dict(output_update="in_place")
SGD = dict(output_optimizer="sgd", momentum=0.0, output_lr=0.1)
LAYERS = {"sparse": {}, "dense": dict(output="dense"), "bottleneck": dict(output="bottleneck", bottleneck_width=7),
          "intermediate": dict(intermediate=40), "static": dict(rewire_interval=0)}


def first_steps(corpus, steps=3, **options):
    """Losses, parameters and metrics after some steps, everything in float64."""
    run = Run(corpus, xe.Recipe(**{**BAG, **options}), steps=100)
    run.add_auxiliary()
    run.model.double()
    for documents in run.documents.values():
        documents.matrix = documents.matrix.astype(np.float64)
    losses = [run.step()["main"] for _ in range(steps)]
    return run, losses, [p.detach().clone() for p in run.model.parameters()], run.evaluate()


@pytest.mark.parametrize("optimizer", [{}, SGD, dict(output_optimizer="adam")])
@pytest.mark.parametrize("loss", ["bce", "squared_hinge"])
@pytest.mark.parametrize("layer", LAYERS)
def test_without_logits_and_in_place_a_run_is_the_same_to_float64(layer, loss, optimizer):
    corpus, options = tiny_corpus(), {"loss": loss, **LAYERS[layer], **optimizer}
    _, losses, parameters, metrics = first_steps(corpus, **options)
    for changed in (dict(logits="chunked"), IN_PLACE):
        run, *found, measured = first_steps(corpus, **options, **changed)
        torch.testing.assert_close(found[0], losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(found[1], parameters, rtol=1e-7, atol=1e-9)
        assert measured == metrics
        assert run.recipe.chunked


@pytest.mark.parametrize("changed", [dict(logits="chunked"), IN_PLACE])
@pytest.mark.parametrize("options", [{}, dict(output="dense", autocast="bfloat16"), SGD])
def test_a_whole_run_without_logits_learns_as_the_plain_one_does(options, changed):
    corpus, options = tiny_corpus(), {**BAG, **options}
    plain, other = (xe.train(corpus, xe.Recipe(**options, **more), steps=60, progress=False) for more in ({}, changed))
    theirs, ours = plain.history("main")[1], other.history("main")[1]
    assert ours[-5:].mean() == pytest.approx(theirs[-5:].mean(), rel=0.02)
    assert other.metrics("test")["P@1"] == pytest.approx(plain.metrics("test")["P@1"], abs=6)
    assert other.frames == plain.frames


def test_an_evaluation_in_chunks_leaves_out_what_is_excluded():
    corpus = tiny_corpus(texts=False)
    test = corpus.test
    first = csr_array((np.ones(len(test)), (np.arange(len(test)), test.labels.indices[test.labels.indptr[:-1]])),
                      shape=test.labels.shape)
    corpus = replace(corpus, test=replace(test, excluded=first))
    found = [Run(corpus, xe.Recipe(**FEATURES, logits=logits), steps=5).evaluate() for logits in ("plain", "chunked")]
    assert found[0] == found[1]


def test_rigl_sees_a_batch_without_logits():
    corpus = tiny_corpus(texts=False)
    runs = [Run(corpus, xe.Recipe(**FEATURES, growth_mode="gradient", aux_weight=0.0, **more), steps=40)
            for more in ({}, dict(logits="chunked"), IN_PLACE)]
    for run in runs:
        for _ in range(10):
            run.step()
    grown = [dict(zip(run.trace.frames[1]["slots"].tolist(), run.trace.frames[1]["new"].tolist(), strict=True))
             for run in runs]
    assert grown[1] == grown[2]
    # The plain path has the gradient before the step, the others after it: nearly the same connections grow.
    same = sum(grown[1].get(slot) == new for slot, new in grown[0].items())
    assert same > 0.8 * len(grown[0]) > 0


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("layer", ["sparse", "dense", "bottleneck"])
def test_weights_of_few_bits_train(layer, dtype, rounding):
    options = {**BAG, **LAYERS[layer], **SGD, **IN_PLACE, "output_dtype": dtype, "rounding": rounding,
               "output_lr": 1.0, "aux_weight": 0.4}
    traces = [xe.train(tiny_corpus(), xe.Recipe(**options), steps=60, progress=False) for _ in range(2)]
    losses = [trace.history("main")[1] for trace in traces]
    assert losses[0][-5:].mean() < 0.9 * losses[0][:5].mean()
    assert losses[0].tolist() == losses[1].tolist()  # chance comes from the seed
    run = Run(tiny_corpus(), xe.Recipe(**options, growth_mode="gradient"), steps=20)
    for _ in range(20):
        run.step()
    weight = run.model.label_layer.weight
    assert weight.dtype == getattr(torch, dtype) and run.model.label_layer.bias.dtype == torch.float32
    assert not run.optimizers[-1].state.get(weight)


def test_the_loss_is_computed_as_often_as_asked_for_and_training_is_the_same():
    options = {**BAG, "logits": "chunked"}
    every, some = (xe.train(tiny_corpus(), xe.Recipe(**options, loss_interval=n), steps=25, progress=False)
                   for n in (1, 10))
    assert some.history("main")[0].tolist() == [1, 10, 20, 25] == some.history("loss")[0].tolist()
    whole = every.history("main")[1]
    assert some.history("main")[1].tolist() == whole[[0, 9, 19, 24]].tolist()
    assert every.metrics("test") == some.metrics("test")


def test_a_run_that_diverges_unseen_by_the_loss_stops_by_its_gradient():
    with pytest.raises(TrainingError, match=r"(loss|gradient of the encoder) is (nan|inf) at step \d+: .*diverged"):
        quick(tiny_corpus(), encoder="bag", hidden=32, output_optimizer="sgd", output_lr=1e30, loss_interval=1000,
              lr_schedule="constant", steps=60, **IN_PLACE)


def test_the_same_recipe_gives_the_same_run_bit_for_bit_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    one, two = (xe.train(tiny_corpus(), xe.Recipe(**BAG, dropout=0.3), steps=25, progress=False) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.history("loss")[1].tolist() == two.history("loss")[1].tolist()
    assert np.array_equal(one.connectivity(), two.connectivity())
    other = xe.train(tiny_corpus(), xe.Recipe(**BAG, dropout=0.3, seed=1), steps=25, progress=False)
    assert other.history("loss")[1].tolist() != one.history("loss")[1].tolist()


def test_two_recipes_with_one_seed_share_the_encoder_and_the_order_of_the_data():
    sparse, dense = (Run(tiny_corpus(), xe.Recipe.method(m, **{**BAG, "seed": 3})) for m in ("SET", "dense"))
    for a, b in zip(sparse.model.encoder.parameters(), dense.model.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    for number in (1, 7, 10, 11, 23):
        assert np.array_equal(sparse.batch_rows(number), dense.batch_rows(number))


def test_an_epoch_sees_every_document_once():
    run = Run(tiny_corpus(n_train=70, texts=False), xe.Recipe(**FEATURES))
    seen = [run.batch_rows(n) for n in (1, 2, 3)]
    assert [len(s) for s in seen] == [32, 32, 6]
    assert sorted(np.concatenate(seen)) == list(range(70))
    assert not np.array_equal(seen[0], run.batch_rows(4))


def test_the_auxiliary_weight_falls_to_zero_at_the_cutoff():
    run = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES, aux_weight=0.4, aux_cutoff=0.5), steps=100)
    weights = [run.auxiliary_weight(n) for n in range(1, 101)]
    assert weights[0] == 0.4 and weights[25] == pytest.approx(0.2)
    assert all(a >= b for a, b in zip(weights, weights[1:], strict=False))
    assert weights[49] > 0 and weights[50:] == [0] * 50


def test_total_is_the_weighted_sum_of_both_losses():
    trace = quick(aux_weight=0.3, aux_cutoff=0.5, steps=20)
    for e in trace.events["step"]:
        aux = e["auxiliary"] or 0
        assert e["loss"] == pytest.approx((1 - e["aux_weight"]) * e["main"] + e["aux_weight"] * aux, rel=1e-5)
        assert (e["auxiliary"] is None) == (e["step"] > 10)


@pytest.mark.parametrize("changed", [{}, dict(logits="chunked"), IN_PLACE])
def test_a_step_follows_the_gradient_of_the_total_loss(changed):
    run = Run(tiny_corpus(), xe.Recipe(**BAG, aux_weight=0.4, **changed), steps=20)
    run.add_auxiliary()
    run.model.train()
    rows, weight = run.batch_rows(1), run.auxiliary_weight(1)
    x, clusters = run.model.features(run.documents["train"].batch(rows, run.device), with_clusters=True)
    main = LOSSES["bce"](run.model.label_layer(x), *run._positives(run.corpus.train.labels, rows))
    auxiliary = LOSSES["bce"](clusters, *run._positives(run._cluster_labels, rows))
    expected = torch.autograd.grad((1 - weight) * main + weight * auxiliary, list(run.model.encoder.parameters()))
    squares = [float((g.to_dense() if g.is_sparse else g).square().sum()) for g in expected]
    assert run.step()["grad"] == pytest.approx(sum(squares) ** 0.5, rel=1e-4)


def test_warm_up_and_cosine():
    run = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES | dict(warmup=10)), steps=110)
    factors = [run.learning_rate_factor(n) for n in range(1, 111)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert factors[60] == pytest.approx(0.5, abs=0.02) and 0 < factors[-1] < 0.01
    run.change(lr_factor=2.0)
    assert run.learning_rate_factor(10) == 2
    short = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES | dict(warmup=100)), steps=10)
    assert [short.learning_rate_factor(n) for n in (1, 5)] == [0.2, 1]  # warm-up takes half of a run at most


def test_live_changes_take_effect_and_are_recorded():
    run = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES, aux_weight=0.0), steps=60)
    for _ in range(10):
        run.step()
    assert run.model.auxiliary is None
    run.change(rewire_interval=3, rewire_fraction=0.5, aux_weight=0.5, aux_cutoff=1.0, growth_mode="gradient")
    for _ in range(10):
        run.step()
    run.evaluate(final=True)
    run.close("finished")
    trace = xe.Trace.of(run.trace)
    assert trace.events["change"][0]["step"] == 10 and trace.events["change"][0]["options"]["rewire_interval"] == 3
    assert trace.history("churn")[0].tolist() == [10, 12, 15, 18]
    assert trace.events["step"][9]["aux_weight"] == 0 and trace.events["step"][10]["aux_weight"] > 0
    with pytest.raises(ValueError, match="fan_in cannot change during a run"):
        run.change(fan_in=3)
    with pytest.raises(ValueError, match="rewire_fraction must be between 0 and 1; got 2"):
        run.change(rewire_fraction=2)


def test_what_a_rewire_drops_and_forgets_can_change_during_a_run():
    recipe = xe.Recipe(**FEATURES | dict(aux_weight=0.0, rewire_interval=5, rewire_end=1.0, rewire_fraction=0.1))
    run = Run(tiny_corpus(texts=False), recipe, steps=12)
    for _ in range(6):
        run.step()
    run.change(prune_mode="threshold", rewire_threshold=1e9, reset_moments=False)
    for _ in range(3):
        run.step()
    layer = run.model.sparse_layer
    before = run._output_optimizer.state[layer.weight]["exp_avg_sq"]
    run.step()
    assert (before > 0).any() and (layer.weight[before > 0] == 0).all()  # all dropped, no moment set to zero
    trace = xe.Trace.of(run.trace)
    first, second = trace.history("churn")[1]
    assert first <= 0.1 and second == 1 and trace.events["change"][0]["options"]["reset_moments"] is False


def test_rewire_now_is_a_change_like_any_other():
    recipe = xe.Recipe(**FEATURES | dict(rewire_interval=0, growth_mode="gradient"))
    run = Run(tiny_corpus(texts=False), recipe, steps=10)
    run.step()
    run.change(rewire_now=True)
    run.step()
    run.step()
    trace = xe.Trace.of(run.trace)
    assert trace.frames == [0, 2] and trace.events["change"][0]["options"] == {"rewire_now": True}
    with pytest.raises(ValueError, match="nothing to rewire"):
        Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES, output="dense"), steps=10).change(rewire_now=True)


def test_a_change_of_connections_in_the_trace_is_the_change_in_the_layer():
    run = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES), steps=60)
    first = run.model.output.indices.clone()
    while not run.finished:
        run.step()
    run.close("finished")
    trace = xe.Trace.of(run.trace)
    assert trace.frames == [0, 10, 20, 30]  # rewire_end: the last third is left alone
    assert np.array_equal(trace.connectivity(0), first.numpy())
    assert np.array_equal(trace.connectivity(-1), run.model.output.indices.numpy())
    moved = (trace.connectivity(1) != trace.connectivity(0)).ravel().nonzero()[0]
    assert np.array_equal(np.sort(trace.changed(1)), moved)
    assert np.array_equal(trace.connectivity(0), first.numpy())  # and back again


def test_gradient_norms_are_those_of_the_parameters():
    corpus = tiny_corpus()
    run = Run(corpus, xe.Recipe(**BAG, aux_weight=0.0, encoder_optimizer="sgd"), steps=10)
    seen, encoder = {}, run.model.encoder  # a hook that named the run would make a cycle, and keep its trace open
    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(lambda *_: seen.update(
            {n: p.grad.to_dense().clone() for n, p in encoder.named_parameters() if p.grad is not None}))
    record = run.step()
    run.close("finished")
    by_hand = {"first": 0.0, "second": 0.0, "embedding": 0.0}
    for name, grad in seen.items():
        by_hand[name.split(".")[0] if name.split(".")[0] in by_hand else "embedding"] += float(grad.square().sum())
    for block, square in by_hand.items():
        assert record[f"grad/{block}"] == pytest.approx(square**0.5, rel=1e-4)
    assert record["grad"] == pytest.approx(sum(by_hand.values()) ** 0.5, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_in_words_and_leaves_a_trace(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+: .*lower the learning rates"):
        quick(output_optimizer="sgd", output_lr=1e30, lr_schedule="constant", steps=60, out=tmp_path / "run")
    trace = xe.Trace(tmp_path / "run")
    assert trace.status == "failed" and "diverged" in trace.events["end"][0]["error"]


def test_an_interrupt_leaves_a_trace_that_loads(tmp_path, monkeypatch):
    step = Run.step

    def interrupted(run):
        if run.step_number == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run)

    monkeypatch.setattr(Run, "step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        trace = quick(steps=60, out=tmp_path / "run", eval_interval=10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert trace.status == "interrupted" and 30 <= trace.steps <= 31
    again = xe.Trace(tmp_path / "run")
    assert again.steps == trace.steps and again.events["end"][0]["status"] == "interrupted"
    assert "interrupted" in repr(again)


def test_a_killed_process_leaves_a_trace_that_loads(tmp_path):
    code = f"""
        import os, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from corpus_for_tests import tiny_corpus
        from test_training import FEATURES
        import xmc_explore as xe
        from xmc_explore.training import Run
        recipe = xe.Recipe(**FEATURES, eval_interval=7)
        run = Run(tiny_corpus(texts=False), recipe, steps=1000, out={str(tmp_path / 'run')!r})
        for _ in range(35):
            run.step()
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120)
    trace = xe.Trace(tmp_path / "run")
    assert trace.status == "running or killed" and 30 <= trace.steps <= 35
    assert trace.frames == [0, 10, 20, 30] and trace.metrics("test")["P@1"] >= 0
    with open(tmp_path / "run" / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "st')
    assert "cut short" in xe.Trace(tmp_path / "run").notes[0]


def test_without_a_folder_the_trace_is_temporary_and_lives_as_long_as_it_is_held():
    trace = quick(steps=5)
    folder = trace.folder
    assert (folder / "events.jsonl.gz").exists()
    del trace
    assert not folder.exists()  # at once: no cycle holds the run, not even the first of a process


def test_a_run_never_overwrites_another(tmp_path):
    quick(steps=5, out=tmp_path / "run")
    with pytest.raises(FileExistsError, match="already holds a trace; choose another folder"):
        quick(steps=5, out=tmp_path / "run")
    assert xe.Trace(tmp_path / "run").steps == 5


@pytest.mark.parametrize("options, error, words", [
    (dict(fan_in=1000), ValueError, "fan_in=1000 exceeds in_features=30"),
    (dict(aux_clusters=31), ValueError, "aux_clusters=31 exceeds the 30 labels"),
    (dict(encoder="transformer"), ValueError, "has no texts"),
])
def test_recipes_that_do_not_fit_the_corpus(options, error, words):
    with pytest.raises(error, match=words):
        quick(**options)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        quick(steps=0)
    with pytest.raises(ValueError, match="has texts and no features"):
        quick(tiny_corpus())


def test_a_model_that_is_not_there_says_what_to_do():
    with pytest.raises(RuntimeError, match="cannot load the encoder 'no/such-model'.*encoder_model='minilm'"):
        quick(tiny_corpus(), encoder="transformer", encoder_model="no/such-model")


def test_a_real_transformer_trains_end_to_end():
    recipe = xe.Recipe(encoder="transformer", max_tokens=8, batch_size=16, aux_clusters=4, fan_in=16, warmup=2,
                       encoder_lr=3e-4, rewire_interval=10, eval_documents=16)
    run = Run(tiny_corpus(n_train=64, n_test=16), recipe, steps=16)
    before = {n: p.detach().clone() for n, p in run.model.encoder.named_parameters()}
    records = [run.step() for _ in range(16)]
    run.close("finished")
    moved = [n for n, p in run.model.encoder.named_parameters() if not torch.equal(before[n], p)]
    assert any("layer.0." in n for n in moved) and any("layer.5." in n for n in moved)
    assert {f"grad/layer {i}" for i in range(6)} < set(records[0]) and records[0]["grad/embedding"] > 0
    loss = np.array([r["main"] for r in records])
    assert loss[-5:].mean() < loss[:5].mean()


def test_the_dropout_inside_a_transformer_is_the_run_s_own(monkeypatch):
    """Same losses whatever the global random state is, which is left alone; a restored run goes on to the bit."""
    small_transformer(monkeypatch)
    corpus = tiny_corpus(n_train=64, n_test=16)
    recipe = xe.Recipe(encoder="transformer", max_tokens=8, batch_size=16, fan_in=16, warmup=2, aux_weight=0.0)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        untouched = torch.get_rng_state()
        run = Run(corpus, recipe, steps=4)
        losses.append([run.step()["main"] for _ in range(2)])
        state = run.state()
        losses[-1] += [run.step()["main"] for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), untouched)
    assert losses[0] == losses[1]
    again = Run(corpus, recipe, steps=4)
    again.restore(state)
    assert [again.step()["main"] for _ in range(2)] == losses[0][2:]
    different = Run(corpus, recipe.replace(seed=1), steps=4).model.encoder
    assert different.seed != again.model.encoder.seed


def test_progress_bar_shows_the_metrics_that_matter(capsys):
    xe.train(tiny_corpus(texts=False), xe.Recipe(**FEATURES), steps=20)
    shown = capsys.readouterr().err
    assert "20/20" in shown and "P@1=" in shown and "recall@5/tail=" in shown and "loss=" in shown


def test_everything_in_the_trace_is_plain_json_with_recipe_versions_and_fingerprint(tmp_path):
    corpus = tiny_corpus(texts=False)
    trace = quick(corpus, out=tmp_path / "run")
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert header["corpus"]["fingerprint"] == corpus.fingerprint and "torch" in header["versions"]
    assert xe.Recipe.from_json(json.dumps(header["recipe"])) == trace.recipe
    assert trace.label_names == corpus.label_names and np.array_equal(trace.label_frequency, corpus.label_frequency)
    for line in gzip.decompress((tmp_path / "run" / "events.jsonl.gz").read_bytes()).splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


@pytest.mark.parametrize("options", [{}, {"logits": "chunked"}, {"output_update": "in_place"}])
def test_a_run_that_diverges_at_its_last_step_is_told_so(options, tmp_path):
    with pytest.raises(TrainingError, match=r"scores of test documents are NaN or infinite after step \d+: the run has "
                                            r"diverged; lower the learning rates \(output_lr=1e\+30"):
        quick(steps=2, out=tmp_path / "run", output_lr=1e30, encoder_lr=1e30, warmup=0, eval_interval=1, **options)
    assert xe.Trace(tmp_path / "run").status == "failed"


@pytest.mark.parametrize("steps", [0, -1, 2.5, "3", True, float("nan")])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match="steps must be at least 1, a whole number; got"):
        quick(steps=steps)


def test_steps_may_be_a_number_of_numpy():
    assert quick(steps=np.int64(2)).steps == 2


@pytest.mark.parametrize("device", ["cudaa", "cpu:x", 3.5])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=f"device={device!r} cannot be used here .*leave it out for"):
        xe.train(tiny_corpus(), device=device, steps=1, progress=False)


@pytest.mark.parametrize(("corpus", "recipe"), [("calls-small", xe.Recipe()), (None, xe.Recipe()),
                                                (tiny_corpus(), "SET"), (tiny_corpus(), {}),
                                                (xe.Recipe(), tiny_corpus())])
def test_a_run_takes_a_corpus_and_a_recipe(corpus, recipe):
    with pytest.raises(TypeError, match="a run takes a corpus .*and a recipe .*got"):
        xe.train(corpus, recipe, steps=1, progress=False)


def test_a_folder_that_is_no_encoder_says_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="the encoder from the folder .*config.json, weights and tokenizer"):
        quick(tiny_corpus(), encoder="bag", encoder_model=str(tmp_path))


def test_a_trace_below_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no trace can be written to .*file.*choose another folder"):
        quick(steps=1, out=tmp_path / "file")
