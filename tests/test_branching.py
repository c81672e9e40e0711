"""A branch goes on as the run did, to the bit; and a run that cannot be continued says why."""

import json
import shutil

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
from xmc_explore.branching import BranchError
from xmc_explore.trace import TraceError
from xmc_explore.training import Run

FEATURES = dict(encoder="features", aux_clusters=4, fan_in=6, warmup=5, batch_size=32, rewire_interval=8,
                output_lr=0.01)
BAG = dict(hidden=32, aux_clusters=4, warmup=5, batch_size=32, rewire_interval=8, output_lr=0.01)
RECIPES = {
    "SET, auxiliary, dropout, SparseAdam": dict(BAG, dropout=0.3),
    "RigL": dict(FEATURES, growth_mode="gradient", aux_weight=0.0),
    "intermediate, SGD, uniform": dict(BAG, intermediate=48, encoder_optimizer="sgd", output_optimizer="sgd",
                                       init_mode="uniform", output_lr=0.05),
    "threshold, squared hinge, probes": dict(BAG, prune_mode="threshold", rewire_threshold=0.05, loss="squared_hinge",
                                             probe_interval=6, probes="budget,snr"),
    "in place, bfloat16, by chance": dict(BAG, output_update="in_place", output_optimizer="sgd", momentum=0.0,
                                          output_dtype="bfloat16", rounding="stochastic", output_lr=0.2),
    "groups of labels and a dense head": dict(BAG, group_size=4, head_share=0.3, growth_mode="gradient"),
    "in place, Adam": dict(BAG, output_update="in_place"),
}


def drive(run, steps=None):
    """Take all steps, or some; returns what was recorded of each, without the time it took."""
    records = []
    while not run.finished and (steps is None or len(records) < steps):
        records.append({k: v for k, v in run.step().items() if k not in ("seconds", "output_bytes")})
    if run.finished:
        run.evaluate(final=True)
        run.close("finished")
    return records


def same_end(one, two):
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_equal(one.last_metrics, two.last_metrics)
    a, b = one.trace, two.trace
    assert [f["step"] for f in a.frames] == [f["step"] for f in b.frames]
    for i in range(len(a.frames)):
        assert np.array_equal(a.store.seek(i).indices, b.store.seek(i).indices)


def without_time(events):
    return [{k: v for k, v in e.items() if k not in ("seconds", "output_bytes")} for e in events]


@pytest.mark.parametrize("checkpoint_interval", [0, 10])
@pytest.mark.parametrize("name", RECIPES)
def test_an_unchanged_branch_goes_on_to_the_bit(name, checkpoint_interval, tmp_path):
    corpus = tiny_corpus(texts="encoder" not in RECIPES[name])
    recipe = xe.Recipe().replace(**RECIPES[name], checkpoint_interval=checkpoint_interval, eval_interval=7)
    first = Run(corpus, recipe, steps=40, out=tmp_path / "first")
    records = drive(first)
    trace = xe.Trace(tmp_path / "first")
    assert trace.frames == [0, 8, 16, 24] and trace.checkpoints == ([10, 20, 30, 40] if checkpoint_interval else [])
    for frame, step in ((2, 16), (-1, 24), (0, 0)):
        again = []
        second = xe.branch(trace, frame, corpus, on_step=lambda *s, seen=again: seen.append(s))
        start = step // 10 * 10 if checkpoint_interval else 0
        assert again == [(s, step) for s in range(start + 1, step + 1)]
        assert second.step_number == step and drive(second) == records[step:]
        same_end(first, second)
        record = xe.Trace(second.trace.folder)
        for kind in ("step", "eval", "rewire", "probe", "change"):
            assert without_time(record.events[kind]) == without_time(trace.events[kind]), kind
        assert record.header["branched_from"] == {"trace": "first", "frame": frame % 4, "step": step}


def test_a_planted_run_is_loaded_by_its_name_and_branched():
    recipe = xe.Recipe(**FEATURES, probe_interval=0)
    trace = xe.train(xe.load_corpus("planted"), recipe, steps=20, progress=False)
    run = xe.branch(trace, 1)
    drive(run)
    assert xe.Trace.of(run.trace).metrics("test") == trace.metrics("test")
    assert np.array_equal(xe.Trace.of(run.trace).connectivity(), trace.connectivity())


def test_changes_on_the_way_are_made_again_and_later_ones_are_not():
    corpus, recipe = tiny_corpus(texts=False), xe.Recipe(**FEATURES)
    first = Run(corpus, recipe, steps=60)
    drive(first, 10)
    first.change(lr_factor=0.5, growth_mode="gradient")
    drive(first, 5)
    first.change(rewire_now=True)
    drive(first, 9)
    first.change(rewire_interval=4)  # after the frame of step 24
    changed = first.state()
    drive(first, 4)
    first.close("interrupted")
    trace = xe.Trace.of(first.trace)
    assert trace.frames == [0, 8, 16, 24, 28]
    branch = xe.branch(trace, 3, corpus, states=[changed])  # which is of that step and does not serve
    assert branch.recipe == recipe.replace(lr_factor=0.5, growth_mode="gradient")
    assert [e["step"] for e in branch.trace.events["change"]] == [10, 15]
    branch.change(rewire_interval=4)
    drive(branch, 4)
    assert np.array_equal(branch.model.output.indices.numpy(), first.model.output.indices.numpy())
    assert torch.equal(branch.model.output.weight, first.model.output.weight)


def test_a_changed_branch_differs_from_the_frame_on_and_can_be_branched_itself(tmp_path):
    corpus, recipe = tiny_corpus(texts=False), xe.Recipe(**FEATURES, checkpoint_interval=9)
    trace = xe.train(corpus, recipe, steps=40, out=tmp_path / "first", progress=False)
    run = xe.branch(trace, 2, corpus, steps=64, out=tmp_path / "second", rewire_fraction=0.5, lr_factor=2.0)
    assert (run.step_number, run.steps, run.recipe.rewire_fraction) == (16, 64, 0.5)
    drive(run)
    second = xe.Trace(tmp_path / "second")
    assert second.frames == [0, 8, 16, 24, 32, 40] and second.steps == second.header["steps"] == 64
    assert second.header["first_steps"] == 40 and "branched from 'first'" in repr(second)
    assert second.table("step")["loss"][:16].tolist() == trace.table("step")["loss"][:16].tolist()
    assert second.table("step")["loss"][16] != trace.table("step")["loss"][16]
    assert second.table("rewire")["churn"][2] > 2 * trace.table("rewire")["churn"][2]
    third = xe.branch(second, 4, corpus)
    drive(third)
    same_end(run, third)


def test_a_branch_is_driven_to_its_end_as_a_run_is(tmp_path):
    corpus, recipe = tiny_corpus(texts=False), xe.Recipe(**FEATURES, checkpoint_interval=10)
    whole = xe.train(corpus, recipe, steps=24, progress=False)
    done = xe.branch(whole, 1, corpus).finish(progress=False)
    assert done.status == "finished" and done.metrics("test") == whole.metrics("test")


def test_states_in_memory_spare_the_way_there():
    corpus = tiny_corpus(texts=False)
    first, states = Run(corpus, xe.Recipe(**FEATURES), steps=40), []
    for _ in range(5):
        drive(first, 6)
        states.append(first.state())
        if len(states) == 3:
            first.change(lr_factor=0.1)
            states.append(first.state())  # at the same step, and already changed
    first.close("interrupted")
    trace = xe.Trace.of(first.trace)
    assert [s.step for s in states] == [6, 12, 18, 18, 24, 30]
    for frame, start in ((1, 6), (2, 12), (3, 24)):
        again = []
        run = xe.branch(trace, frame, corpus, states=states, on_step=lambda s, _, seen=again: seen.append(s))
        assert again == list(range(start + 1, 8 * frame + 1))
        drive(run, 2)
    again = xe.branch(trace, 1, corpus, states=states)  # a state is not used up by the runs that start from it
    assert torch.equal(again.model.output.weight, xe.branch(trace, 1, corpus).model.output.weight)


def test_old_checkpoints_thin_out_before_they_fill_the_disk(tmp_path, monkeypatch):
    corpus, recipe = tiny_corpus(texts=False), xe.Recipe(**FEATURES, checkpoint_interval=2)
    xe.train(corpus, recipe, steps=2, out=tmp_path / "one", progress=False)
    (size,) = [p.stat().st_size for p in (tmp_path / "one" / "checkpoints").iterdir()]
    monkeypatch.setattr("xmc_explore.trace.CHECKPOINT_BYTES", int(4.9 * size))
    trace = xe.train(corpus, recipe, steps=40, out=tmp_path / "two", progress=False)
    assert trace.checkpoints == [2, 34, 38, 40]  # at each fifth, every second one of the older four has gone
    run = xe.branch(trace, -1, corpus)
    assert run.step_number == 24


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branching") / "run"
    recipe = xe.Recipe(**FEATURES, checkpoint_interval=10)
    xe.train(tiny_corpus(texts=False), recipe, steps=30, out=folder, progress=False)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def test_what_cannot_be_branched(folder):
    corpus = tiny_corpus(texts=False)
    with pytest.raises(ValueError, match="fan_in cannot change during a run; live options are"):
        xe.branch(folder, 1, corpus, fan_in=3)
    with pytest.raises(ValueError, match="Recipe: rewire_fraction must be between 0 and 1; got 3"):
        xe.branch(folder, 1, corpus, rewire_fraction=3)
    with pytest.raises(ValueError, match="steps=8 is no more than the 8 steps before frame 1"):
        xe.branch(folder, 1, corpus, steps=8)
    with pytest.raises(IndexError, match="frame 9 of 3"):
        xe.branch(folder, 9, corpus)
    with pytest.raises(BranchError, match="the corpus 'tiny' of .* cannot be loaded by its name; .* corpus="):
        xe.branch(folder, 1)
    with pytest.raises(BranchError, match="fingerprint .* goes on with the same documents only"):
        xe.branch(folder, 1, tiny_corpus(seed=1, texts=False))
    dense = xe.train(corpus, xe.Recipe.method("dense", encoder="features"), steps=3, progress=False)
    with pytest.raises(IndexError, match="its output layer is not sparse"):
        xe.branch(dense, 0, corpus)


def test_a_machine_that_comes_to_something_else_is_told_apart(folder, tmp_path):
    corpus = tiny_corpus(texts=False)
    header = json.loads((folder / "run.json").read_text())
    header["versions"]["torch"] = "1.0"
    (folder / "run.json").write_text(json.dumps(header))
    xe.branch(folder, 2, corpus)  # another version that gives the same is no obstacle
    path = folder / "connectivity" / "00001.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["new"][0, 0] ^= 1
    np.savez(path, **arrays)
    with pytest.raises(BranchError, match="are other than those recorded in frame 2 .* torch 1.0 there and"):
        xe.branch(folder, 2, corpus)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(BranchError, match="other new than those recorded in frame 1 .* torch 1.0 there and"):
        xe.branch(folder, 2, corpus, out=tmp_path / "out")
    failed = xe.Trace(tmp_path / "out")
    assert failed.status == "failed"


def test_another_loss_is_noticed_too(folder):
    trace = xe.Trace(folder)
    trace.events["step"][7]["loss"] *= 1.00001
    with pytest.raises(BranchError, match="another loss at step 8 .*processor may differ"):
        xe.branch(trace, 1, tiny_corpus(texts=False))


@pytest.mark.parametrize("damage, words", [
    (lambda p: p.write_bytes(p.read_bytes()[:-100]), "00000010.safetensors: not a checkpoint, or cut short"),
    (lambda p: p.write_bytes(b""), "00000010.safetensors: not a checkpoint"),
    (lambda p: p.write_bytes(p.read_bytes()[:300]), "not a checkpoint.*delete it, and an earlier one is used"),
])
def test_a_damaged_checkpoint_is_named(folder, damage, words):
    path = folder / "checkpoints" / "00000010.safetensors"
    damage(path)
    with pytest.raises(TraceError, match=words):
        xe.branch(folder, 2, tiny_corpus(texts=False))
    path.unlink()  # as the message says
    assert xe.branch(folder, 2, tiny_corpus(texts=False)).step_number == 16


def test_half_a_checkpoint_beside_is_no_checkpoint(folder):
    beside = folder / "checkpoints" / ".00000015.safetensors.x"  # as `replacing` leaves it if the process is killed
    beside.mkdir()
    (beside / "00000015.safetensors").write_bytes(b"half")
    assert xe.Trace(folder).checkpoints == [10, 20, 30]


def test_a_state_fits_its_own_run_only():
    corpus = tiny_corpus(texts=False)
    run = Run(corpus, xe.Recipe(**FEATURES), steps=20)
    drive(run, 3)
    state = run.state()
    with pytest.raises(ValueError, match="goes into a run that has taken no step; this one has taken 3"):
        run.restore(state)
    with pytest.raises(ValueError, match="the state is of another model"):
        Run(corpus, xe.Recipe(**FEATURES).replace(fan_in=3), steps=20).restore(state)
    alone = Run(corpus, xe.Recipe(**FEATURES), steps=20)
    alone.restore(state)
    assert drive(alone) == drive(run) and len(alone.trace.events["step"]) == 17
