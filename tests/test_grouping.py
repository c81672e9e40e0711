"""Groups and a dense head as options of a recipe: who is in them, what is trained, what is recorded."""

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
from xmc_explore import memory
from xmc_explore.grouping import group_order, head_labels
from xmc_explore.layers import HeadTail
from xmc_explore.logit_free import logit_gradient, loss_by_chunks, step_in_place, top_labels
from xmc_explore.losses import LOSSES
from xmc_explore.model import Classifier
from xmc_explore.plots import method_of
from xmc_explore.training import Run

SMALL = dict(encoder="features", fan_in=4, aux_weight=0.0, batch_size=16, warmup=2, eval_documents=20)


@pytest.mark.parametrize("grouping", ["frequency", "random", "clusters"])
def test_an_order_holds_each_label_once_and_is_the_same_for_a_seed(grouping):
    corpus = tiny_corpus()
    recipe = xe.Recipe(grouping=grouping, group_size=4)
    labels = np.arange(3, 30)
    order = group_order(corpus, recipe, labels)
    assert np.array_equal(np.sort(order), np.arange(27))
    assert np.array_equal(order, group_order(corpus, recipe, labels))
    if grouping == "frequency":
        assert (np.diff(corpus.label_frequency[labels][order]) <= 0).all()


def test_clusters_put_labels_with_the_same_words_together():
    corpus = xe.load_corpus("planted", n_labels=60, n_train=1200, n_test=20, n_features=40)
    recipe = xe.Recipe(encoder="features", group_size=6)

    def likeness(order):
        from xmc_explore.auxiliary import label_centroids
        vectors = label_centroids(corpus, recipe).toarray()[order].reshape(-1, 6, 40)
        return np.linalg.norm(vectors.sum(1), axis=1).mean()

    found = likeness(group_order(corpus, recipe, np.arange(60)))
    assert found > likeness(group_order(corpus, recipe.replace(grouping="random"), np.arange(60)))


def test_the_head_is_as_few_labels_as_hold_its_share():
    corpus = tiny_corpus()
    assert len(head_labels(corpus, 0.0)) == 0 and len(head_labels(corpus, 1.0)) <= corpus.n_labels - 1
    head, frequency = head_labels(corpus, 0.4), corpus.label_frequency
    rest = np.setdiff1d(np.arange(corpus.n_labels), head)
    assert frequency[head].sum() >= 0.4 * frequency.sum() > frequency[head].sum() - frequency[head].min()
    assert frequency[head].min() >= frequency[rest].max()
    assert np.array_equal(head_labels(corpus, 0.5), (corpus.bins().of_label == 0).nonzero()[0])


# --- a dense head and a sparse tail -------------------------------------------------------------------------------


def head_tail(dtype=torch.float64, group_size=3):
    g = torch.Generator().manual_seed(0)
    tail = (xe.FixedFanIn(11, 20, 4, generator=g, dtype=dtype) if group_size == 1
            else xe.GroupedFixedFanIn(11, 20, 4, group_size, order=torch.randperm(20, generator=g), generator=g,
                                      dtype=dtype))
    layer = HeadTail(torch.nn.Linear(11, 5, dtype=dtype), tail, torch.tensor([7, 2, 24, 0, 11]))
    for part in (layer.head, layer.tail):
        torch.nn.init.normal_(part.bias, generator=g)
    return layer


@pytest.mark.parametrize("group_size", [1, 3])
def test_head_and_tail_equal_a_dense_layer_with_the_same_entries(group_size):
    layer = head_tail(group_size=group_size)
    x = torch.randn(6, 11, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    expected = torch.nn.functional.linear(x, layer.to_dense(), layer.bias)
    torch.testing.assert_close(y, expected)
    grad = torch.randn(6, 25, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad))
    assert torch.equal(layer.to_dense()[7], layer.head.weight[0])
    head, tail = layer.labels()
    assert head.tolist() == [7, 2, 24, 0, 11] and tail.tolist() == [i for i in range(25) if i not in (7, 2, 24, 0, 11)]
    rows = layer.rows_of_labels()
    assert (rows[head] == -1).all() and rows[tail].max() == len(layer.tail.indices) - 1
    labels = torch.tensor([3, 24, 7, 9])
    torch.testing.assert_close(layer.part_scores(x.detach(), labels), y.detach()[:, labels])
    of_some = torch.zeros_like(grad).index_copy_(1, labels, grad[:, labels])
    torch.testing.assert_close(layer.part_gradients(grad[:, labels], x.detach(), labels)[0], of_some @ layer.to_dense())


@pytest.mark.parametrize("loss", LOSSES)
def test_head_and_tail_without_logits(loss):
    layer, twin = head_tail(), head_tail()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(6, 11, dtype=torch.float64)
    rows, columns = (torch.rand(6, 25) < 0.3).nonzero(as_tuple=True)
    plain_x, chunked_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits = layer(plain_x)
    logits.retain_grad()
    plain = LOSSES[loss](logits, rows, columns)
    plain.backward()
    value = loss_by_chunks(twin, chunked_x, rows, columns, loss=loss, chunk=4)
    value.backward()
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(chunked_x.grad, plain_x.grad)
    for mine, other in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    part, *pairs = layer.split(rows, columns)[1]
    torch.testing.assert_close(logit_gradient(part, x, torch.tensor([4, 0]), *pairs, loss=loss),
                               logits.grad[:, layer.labels()[1][[4, 0]]])
    torch.testing.assert_close(top_labels(layer, x, 3)[0], logits.detach().topk(3).values)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (layer, twin)]
    optimizers[0].step()
    done = step_in_place(twin, optimizers[1], x, rows, columns, loss=loss)
    torch.testing.assert_close(done.loss, plain.detach())
    torch.testing.assert_close(done.dx, plain_x.grad)
    for mine, other in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


# --- runs ---------------------------------------------------------------------------------------------------------

KINDS = [dict(group_size=4), dict(group_size=4, head_share=0.3), dict(head_share=0.3)]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_the_same_run_with_and_without_logits(options, growth):
    corpus = tiny_corpus(texts=False)
    recipe = xe.Recipe(**SMALL, **options, growth_mode=growth, rewire_interval=3)
    losses = {}
    for way in (dict(), dict(logits="chunked"), dict(output_update="in_place", probe_interval=2)):
        trace = xe.train(corpus, recipe.replace(**way), steps=8, progress=False)
        losses[str(way)] = trace.history("loss")[1]
        assert len(trace.frames) == 2 and trace.status == "finished" and "P@1" in trace.metrics()
    # RigL without logits looks at the weights after the step, so it may grow others
    first = next(iter(losses.values()))[:3 if growth == "gradient" else None]
    for found in losses.values():
        np.testing.assert_allclose(found[:len(first)], first, rtol=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_trace_tells_what_each_label_reads(options):
    corpus = tiny_corpus(texts=False)
    run = Run(corpus, xe.Recipe(**SMALL, **options, rewire_interval=2, rewire_fraction=0.5), steps=8)
    while not run.finished:
        run.step()
    run.close("finished")
    trace = xe.Trace(run.trace.folder)
    frame, dense = trace.frame(-1), run.model.output.to_dense()
    rows = run.model.rows_of_labels().numpy()
    assert frame.indices.shape == (30, 4) and np.array_equal(trace.store.groups, rows)
    assert (frame.indices[rows < 0] == -1).all() and (rows < 0).any() == ("head_share" in options)
    for label in (rows >= 0).nonzero()[0]:
        assert set(dense[label].nonzero().flatten().tolist()) <= set(frame.indices[label].tolist())
    assert len(trace.store.changed(1)) and trace.table("rewire")["churn"].iloc[0] > 0


@pytest.mark.parametrize("options", [dict(), *KINDS], ids=str)
def test_the_ledger_predicts_what_is_measured(options):
    corpus = tiny_corpus(texts=False)
    run = Run(corpus, xe.Recipe(**SMALL, **options), steps=4)
    measured = run.step()["output_bytes"]
    n_head = len(head_labels(corpus, run.recipe.head_share))
    assert measured == memory.predicted("sparse", run.model.width, 30, 4, group_size=run.recipe.group_size, head=n_head)


def test_low_precision_reaches_head_and_tail():
    corpus = tiny_corpus(texts=False)
    recipe = xe.Recipe(**SMALL, group_size=4, head_share=0.3, output_dtype="bfloat16", rounding="stochastic",
                       output_update="in_place", output_optimizer="sgd", momentum=0.0, output_lr=1.0)
    run = Run(corpus, recipe, steps=4)
    before = run.model.output.head.weight.clone()
    run.step()
    output = run.model.output
    assert output.head.weight.dtype == output.tail.weight.dtype == torch.bfloat16
    assert output.head.bias.dtype == torch.float32 and (output.head.weight != before).any()


def test_first_biases_go_to_the_labels_they_belong_to():
    corpus = tiny_corpus(texts=False)
    plain = Classifier(corpus, xe.Recipe(**SMALL))
    split = Classifier(corpus, xe.Recipe(**SMALL, group_size=4, head_share=0.4))
    assert torch.equal(plain.output.bias, split.output.bias)


def test_recipes_say_what_cannot_be_and_are_called_by_name():
    with pytest.raises(ValueError, match="are about a sparse output layer; output is 'dense'"):
        xe.Recipe(output="dense", group_size=4)
    with pytest.raises(ValueError, match="grouping='names'"):
        xe.Recipe(grouping="names")
    with pytest.raises(ValueError, match="head_share must be between 0 and 1"):
        xe.Recipe(head_share=2.0)
    for name in ("grouped SET", "grouped SET + head"):
        assert method_of(xe.Recipe.method(name)) == name
