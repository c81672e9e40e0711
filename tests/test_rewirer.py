"""One update, two scores: what a rewire must keep, and what it must change."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xmc_explore as xe
from xmc_explore.sparsity import scores


def make(d=20, n_labels=15, k=4, seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    layer = xe.FixedFanIn(d, n_labels, k, generator=g)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    options = {"interval": 1, "schedule": "constant", "fraction": 0.3} | options
    return layer, optimizer, xe.Rewirer(layer, optimizer, **options)


def train_step(layer, optimizer, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(8, layer.in_features, generator=g)
    y = torch.randn(8, layer.out_features, generator=g)
    optimizer.zero_grad()
    (layer(x) - y).square().mean().backward()
    optimizer.step()
    return x, y


@settings(max_examples=60, deadline=None)
@given(d=st.integers(2, 30), n_labels=st.integers(1, 25), fraction=st.floats(0, 1), data=st.data(),
       grow=st.sampled_from(["random", "gradient"]), mode=st.sampled_from(["fraction", "threshold"]))
def test_whatever_the_options_the_layer_stays_a_fixed_fan_in_layer(d, n_labels, fraction, data, grow, mode):
    k = data.draw(st.integers(1, d))
    layer, optimizer, rewirer = make(d, n_labels, k, grow=grow, mode=mode, fraction=fraction, threshold=fraction)
    for seed in range(3):
        train_step(layer, optimizer, seed)
        before, weight = layer.indices.clone(), layer.weight.detach().clone()
        event = rewirer.step()
        assert layer.indices.shape == (n_labels, k) and layer.indices.dtype == torch.int16
        assert all(len(set(row)) == k and 0 <= min(row) and max(row) < d for row in layer.indices.tolist())
        moved = torch.zeros(n_labels * k, dtype=torch.bool)
        moved[event.slots] = True
        moved = moved.view(n_labels, k)
        assert torch.equal(layer.indices[~moved], before[~moved])
        assert torch.equal(layer.weight[~moved], weight[~moved])
        assert (layer.weight[moved] == 0).all()
        assert torch.equal(before.flatten()[event.slots], event.old)
        assert torch.equal(layer.indices.flatten()[event.slots], event.new)
        # what is grown was not there before: a pruned connection does not come straight back
        for row in moved.any(1).nonzero().squeeze(1).tolist():
            assert not set(layer.indices[row][moved[row]].tolist()) & set(before[row].tolist())
        assert event.churn == pytest.approx(len(event.slots) / (n_labels * k))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_fraction_drops_the_lowest_over_the_whole_layer(fraction):
    layer, _, rewirer = make(d=50, n_labels=30, k=6, fraction=fraction)
    weight = layer.weight.detach().clone().abs()
    event = rewirer.rewire()
    assert len(event.slots) == int(fraction * 30 * 6)
    dropped = torch.zeros(180, dtype=torch.bool)
    dropped[event.slots] = True
    if 0 < fraction < 1:
        assert weight.flatten()[dropped].max() <= weight.flatten()[~dropped].min()


def test_threshold_drops_every_slot_below_it_and_no_other():
    layer, _, rewirer = make(d=50, n_labels=30, k=6, mode="threshold", threshold=0.2)
    expected = (layer.weight.detach().abs() < 0.2).flatten().nonzero().squeeze(1)
    assert 0 < len(expected) < 180
    assert torch.equal(rewirer.rewire().slots, expected)


def test_a_row_never_drops_more_than_it_can_regrow_and_keeps_its_strongest():
    layer, _, rewirer = make(d=6, n_labels=10, k=4, fraction=1.0)
    strongest = layer.weight.detach().abs().topk(2, dim=1).indices
    kept = layer.indices.gather(1, strongest).clone()
    event = rewirer.rewire()
    assert len(event.slots) == 20
    assert torch.equal(layer.indices.gather(1, strongest), kept)


def test_rigl_grows_the_largest_gradients_of_the_dense_layer():
    layer, optimizer, rewirer = make(d=30, n_labels=12, k=5, grow="gradient", fraction=0.4)
    dense = layer.to_dense().requires_grad_()
    before = layer.indices.clone()
    bias = layer.bias.detach().clone()
    x, y = train_step(layer, optimizer)
    (torch.nn.functional.linear(x, dense, bias) - y).square().mean().backward()
    score = dense.grad.abs().scatter(1, before.long(), -1.0)
    event = rewirer.step()
    for row in range(12):
        new = event.new[event.slots // 5 == row].tolist()
        assert new == score[row].topk(len(new)).indices.tolist()


@pytest.mark.parametrize("d", [12, 16])  # from 4 K features on they are drawn, below they get random scores
def test_random_growth_is_uniform_over_the_features_not_read(d):
    layer, _, rewirer = make(d=d, n_labels=4000, k=4, fraction=0.5)
    layer.weight.data[:, :2] = 1  # each row drops two slots
    taken = torch.bincount(layer.indices.flatten().long(), minlength=d)
    event = rewirer.rewire()
    chance = (4000 - taken) / (4000 - taken).sum()
    counts = torch.bincount(event.new.long(), minlength=d)
    assert ((counts - chance * len(event.new)).abs() < 5 * (chance * len(event.new)).sqrt()).all()
    assert torch.equal(event.slots % 4, torch.tensor([2, 3]).repeat(4000))
    first, second = event.new.view(4000, 2).long().t()
    assert (first != second).all()
    assert (first < second).float().mean() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


def test_growth_looks_at_no_more_than_the_rows_that_lose_something(monkeypatch):
    seen = []
    draw = scores.draw
    monkeypatch.setattr(scores.uniform, "draw", lambda present, *rest: seen.append(len(present))
                        or draw(present, *rest))
    layer, _, rewirer = make(d=100, n_labels=50, k=4, fraction=0.01)
    rewirer.rewire()
    assert sum(seen) <= 2


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("make_optimizer, moments", [
    (lambda p: torch.optim.Adam(p, lr=0.01), ("exp_avg", "exp_avg_sq")),
    (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), ("momentum_buffer",)),
], ids=["adam", "sgd"])
def test_moments_of_replaced_slots_are_reset_or_kept(reset, make_optimizer, moments):
    layer = xe.FixedFanIn(20, 15, 4, generator=torch.Generator().manual_seed(0))
    optimizer = make_optimizer(layer.parameters())
    rewirer = xe.Rewirer(layer, optimizer, interval=2, schedule="constant", reset_moments=reset)
    train_step(layer, optimizer)
    assert rewirer.step() is None
    train_step(layer, optimizer, 1)
    before = {m: optimizer.state[layer.weight][m].flatten().clone() for m in moments}
    slots = rewirer.step().slots
    for m in moments:
        after = optimizer.state[layer.weight][m].flatten()
        assert (before[m][slots] != 0).all()
        assert (after[slots] == 0).all() if reset else torch.equal(after, before[m])
        kept = torch.ones(60, dtype=torch.bool)
        kept[slots] = False
        assert torch.equal(after[kept], before[m][kept])
    assert (optimizer.state[layer.bias][moments[0]] != 0).any()


def test_grown_weights_start_at_zero_and_get_gradient_at_once():
    layer, optimizer, rewirer = make(d=30, n_labels=12, k=5)
    train_step(layer, optimizer)
    slots = rewirer.step().slots
    assert (layer.weight.flatten()[slots] == 0).all()
    train_step(layer, optimizer, 1)
    assert (layer.weight.grad.flatten()[slots] != 0).all()
    assert (layer.weight.flatten()[slots] != 0).all()


def test_uniform_init_draws_grown_weights_like_new_ones():
    layer, _, rewirer = make(d=60, n_labels=400, k=9, init="uniform")
    grown = layer.weight.detach().flatten()[rewirer.rewire().slots]
    assert grown.abs().max() <= 1 / 3 and grown.std() == pytest.approx(1 / 3 / 3**0.5, rel=0.1)


def test_interval_end_and_schedule():
    layer, optimizer, rewirer = make(d=100, n_labels=50, k=10, interval=10, fraction=0.4, schedule="cosine", end=40)
    churn = {}
    for step in range(1, 101):
        train_step(layer, optimizer, step)
        event = rewirer.step()
        if event is not None:
            assert event.step == step
            churn[step] = event.churn
    assert list(churn) == [10, 20, 30, 40]
    assert churn[20] == pytest.approx(0.2, abs=0.002) and churn[40] == 0
    assert churn[10] > churn[20] > churn[30]


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_a_requested_rewire_comes_with_the_next_step_and_once(grow):
    layer, optimizer, rewirer = make(grow=grow, interval=100)
    found = []
    for step in range(1, 6):
        rewirer.requested = step == 3
        train_step(layer, optimizer, step)
        found.append(rewirer.step())
    assert [event is not None for event in found] == [False, False, True, False, False]
    assert found[2].step == 3 and len(found[2].slots) == int(0.3 * layer.weight.numel())


def test_the_same_seed_gives_the_same_connections_and_another_seed_others():
    def run(seed):
        layer, optimizer, rewirer = make(seed=5)
        rewirer.generator.manual_seed(seed)
        for step in range(5):
            train_step(layer, optimizer, step)
            rewirer.step()
        return layer.indices.clone()

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_state_dict_continues_where_it_left_off():
    layer, optimizer, rewirer = make(interval=3)
    for step in range(4):
        train_step(layer, optimizer, step)
        rewirer.step()
    rewirer.requested = True
    twin, twin_optimizer, twin_rewirer = make(interval=1, seed=9)
    twin.load_state_dict(layer.state_dict())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin_rewirer.load_state_dict(rewirer.state_dict())
    for step in range(4, 9):
        for model, opt, rew in ((layer, optimizer, rewirer), (twin, twin_optimizer, twin_rewirer)):
            train_step(model, opt, step)
            assert (rew.step() is not None) == (step in (4, 5, 8))  # as requested, then every third
    assert torch.equal(layer.indices, twin.indices) and torch.equal(layer.weight, twin.weight)


def test_a_score_of_your_own():
    def lowest_feature_first(candidates):
        return -torch.arange(candidates.layer.in_features).float().expand(len(candidates.rows), -1).clone()

    layer, _, rewirer = make(d=30, n_labels=8, k=3, grow=lowest_feature_first, drop=lambda layer: -layer.weight.abs())
    largest = layer.weight.detach().abs().flatten().topk(7).indices.sort().values
    before = layer.indices.clone()
    event = rewirer.rewire()
    assert torch.equal(event.slots, largest)
    for row in set((event.slots // 3).tolist()):
        new = event.new[event.slots // 3 == row].tolist()
        free = [j for j in range(30) if j not in before[row].tolist()]
        assert new == free[:len(new)]


def test_scores_are_looked_at_only_when_a_rewire_is_due():
    layer, optimizer, rewirer = make(grow="gradient", interval=3)
    train_step(layer, optimizer)
    assert rewirer._grad is None
    rewirer.step()
    rewirer.step()
    train_step(layer, optimizer)
    assert rewirer._grad is not None
    rewirer.step()
    assert rewirer._grad is None and rewirer._x is None


@pytest.mark.parametrize("options, words", [
    (dict(fraction=1.5), "0 to 1; got 1.5"), (dict(interval=0), "at least 1 step"), (dict(mode="rows"), "mode='rows'"),
    (dict(grow="momentum"), "grow='momentum'"), (dict(drop="age"), "drop='age'"),
    (dict(schedule="cosine", end=None), "needs end="), (dict(schedule="linear"), "schedule='linear'"),
    (dict(init="one"), "init='one'"),
])
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_bad_scores_and_rigl_without_a_batch():
    layer, _, rewirer = make(grow="gradient")
    with pytest.raises(RuntimeError, match="looks at a batch, and none was seen"):
        rewirer.rewire()
    rewirer.grow = lambda c: torch.full((len(c.rows), c.layer.in_features), float("nan"))
    with pytest.raises(ValueError, match="finite numbers"):
        rewirer.rewire()
    rewirer.grow = lambda c: torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"got \[2, 2\]"):
        rewirer.rewire()
    rewirer.drop = lambda layer: layer.weight[:1]
    with pytest.raises(ValueError, match="drop score"):
        rewirer.rewire()


# --- labels in groups ---------------------------------------------------------------------------------------------


def make_grouped(d=40, n_labels=14, k=4, size=4, **options):
    g = torch.Generator().manual_seed(0)
    layer = xe.GroupedFixedFanIn(d, n_labels, k, size, order=torch.randperm(n_labels, generator=g), generator=g)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    options = {"interval": 1, "schedule": "constant", "fraction": 0.3} | options
    return layer, optimizer, xe.Rewirer(layer, optimizer, **options)


@pytest.mark.parametrize("mode", ["fraction", "threshold"])
@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("d", [7, 40])
def test_a_group_drops_and_grows_as_one(mode, grow, d):
    layer, optimizer, rewirer = make_grouped(d, mode=mode, grow=grow, threshold=0.24)
    for seed in range(3):
        train_step(layer, optimizer, seed)
        before, weight = layer.indices.clone(), layer.weight.detach().clone()
        members = [(layer.group_of_label == g).nonzero().flatten() for g in range(4)]
        mean = torch.stack([weight[m].abs().mean(0) for m in members])
        event = rewirer.step()
        moved = torch.zeros(16, dtype=torch.bool)
        moved[event.slots] = True
        moved = moved.view(4, 4)
        assert 0 < len(event.slots) < 16 and event.churn == len(event.slots) / 16
        assert mean[moved].max() <= mean[~moved].min() if d > 8 else True
        assert all(len(set(row)) == 4 and 0 <= min(row) and max(row) < d for row in layer.indices.tolist())
        assert torch.equal(layer.indices[~moved], before[~moved])
        for group, labels in enumerate(members):
            assert not set(layer.indices[group][moved[group]].tolist()) & set(before[group].tolist())
            for label in labels:
                assert (layer.weight[label][moved[group]] == 0).all()
                assert torch.equal(layer.weight[label][~moved[group]], weight[label][~moved[group]])
                moments = optimizer.state[layer.weight]["exp_avg"][label]
                assert (moments[moved[group]] == 0).all() and (moments[~moved[group]] != 0).all()


def test_rigl_grows_the_largest_summed_gradients_of_a_group():
    layer, optimizer, rewirer = make_grouped(grow="gradient", fraction=0.4)
    dense, before = layer.to_dense().requires_grad_(), layer.indices.clone()
    bias = layer.bias.detach().clone()
    x, y = train_step(layer, optimizer)
    (torch.nn.functional.linear(x, dense, bias) - y).square().mean().backward()
    event = rewirer.step()
    for group in range(4):
        score = dense.grad[layer.group_of_label == group].abs().sum(0)
        score[before[group].long()] = -1
        new = event.new[event.slots // 4 == group].tolist()
        assert new == score.topk(len(new)).indices.tolist()


@pytest.mark.parametrize(("options", "words"), [
    ({"interval": None}, "interval must be a whole number; got None"), ({"interval": 2.5}, "interval .* got 2.5"),
    ({"fraction": "a"}, "fraction must be a number; got 'a'"), ({"fraction": float("nan")}, "fraction .* got nan"),
    ({"threshold": None}, "threshold must be a number; got None"), ({"end": 2.5}, "end must be a whole number"),
    ({"seed": None}, "seed must be a whole number; got None"),
])
def test_options_of_the_wrong_kind_are_refused_in_words(options, words):
    layer = xe.FixedFanIn(8, 4, 2)
    with pytest.raises(ValueError, match=words):
        xe.Rewirer(layer, **{"end": 10, **options})


def test_an_optimizer_of_other_weights_and_another_layer_are_refused():
    layer, other = xe.FixedFanIn(8, 4, 2), torch.nn.Linear(8, 4)
    with pytest.raises(ValueError, match="does not train the layer's weight"):
        xe.Rewirer(layer, torch.optim.SGD(other.parameters(), 0.1), end=3)
    with pytest.raises(TypeError, match="FixedFanIn or a GroupedFixedFanIn; got Linear"):
        xe.Rewirer(other, end=3)
