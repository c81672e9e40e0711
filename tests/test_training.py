"""A run from the outside: what it learns, what it records, how it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
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


def test_warm_up_and_cosine():
    run = Run(tiny_corpus(texts=False), xe.Recipe(**FEATURES | dict(warmup=10)), steps=110)
    factors = [run.learning_rate_factor(n) for n in range(1, 111)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert factors[60] == pytest.approx(0.5, abs=0.02) and 0 < factors[-1] < 0.01
    run.change(lr_factor=2.0)
    assert run.learning_rate_factor(10) == 2


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
    seen = {}
    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(lambda *_: seen.update(
            {n: p.grad.to_dense().clone() for n, p in run.model.encoder.named_parameters() if p.grad is not None}))
    record = run.step()
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


def test_an_interrupt_leaves_a_trace_that_loads(tmp_path):
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        trace = quick(steps=1_000_000, out=tmp_path / "run", eval_interval=10)
    finally:
        timer.cancel()
    assert trace.status == "interrupted" and 0 < trace.steps < 1_000_000
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
    assert (folder / "events.jsonl").exists()
    del trace
    assert not folder.exists()


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
    run = Run(tiny_corpus(n_train=64, n_test=16), recipe, steps=30)
    before = {n: p.detach().clone() for n, p in run.model.encoder.named_parameters()}
    records = [run.step() for _ in range(30)]
    run.close("finished")
    moved = [n for n, p in run.model.encoder.named_parameters() if not torch.equal(before[n], p)]
    assert any("layer.0." in n for n in moved) and any("layer.5." in n for n in moved)
    assert {f"grad/layer {i}" for i in range(6)} < set(records[0]) and records[0]["grad/embedding"] > 0
    loss = np.array([r["main"] for r in records])
    assert loss[-5:].mean() < loss[:5].mean()


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
    for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
