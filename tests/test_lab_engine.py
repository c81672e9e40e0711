"""The engine of the laboratory: commands, snapshots, errors, threads."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import xmc_explore as xe
from xmc_explore.corpora import Corpus, Split
from xmc_explore.training import TrainingError
from xmc_explore.widgets import engine as engine_module
from xmc_explore.widgets.engine import THREAD_NAME, Engine

PATIENCE = 60  # seconds after which a test stops waiting: nothing in here takes long


def split(n: int, seed: int) -> Split:
    """Documents with 30 features, the first 20 of which are also their labels."""
    features = np.random.default_rng(seed).random((n, 30)) < 0.2
    features[:, 0] |= ~features[:, :20].any(1)
    return Split(csr_array(features[:, :20].astype(np.float32)), None, csr_array(features.astype(np.float32)))


CORPUS = Corpus("tiny", split(300, 0), split(60, 1), [f"label {i}" for i in range(20)])
RECIPE = xe.Recipe(encoder="features", fan_in=4, aux_clusters=4, warmup=5, rewire_interval=10, eval_interval=10,
                   batch_size=16)


@pytest.fixture
def make():
    """A function that makes engines; they are closed in the end."""
    made = []

    def make(recipe=RECIPE, *, start=True, steps=5000, **options):
        made.append(Engine(CORPUS, recipe, steps=steps, **options))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait(engine, condition):
    snapshot = engine.wait(condition, PATIENCE)
    assert condition(snapshot), snapshot
    return snapshot


def engine_threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def losses(engine):
    return engine.trace().history("loss")[1]


def test_a_new_engine_builds_and_then_waits(make):
    engine = make(start=False)
    assert engine.snapshot.state == "building"
    engine.start()
    snapshot = wait(engine, lambda s: s.state != "building")
    assert (snapshot.state, snapshot.step, snapshot.steps, snapshot.run) == ("paused", 0, 5000, 1)
    assert snapshot.features == 30 and snapshot.n_frames == len(snapshot.store) == 1


def test_play_advances_and_pause_stops_within_a_step(make):
    engine = make()
    engine.play()
    wait(engine, lambda s: s.step >= 25 and s.state == "playing")
    ticket = engine._post("pause")
    snapshot = wait(engine, lambda s: s.handled >= ticket)
    assert snapshot.state == "paused"
    time.sleep(0.2)
    assert engine.snapshot.step == snapshot.step
    assert snapshot.rewires == snapshot.step // 10 == snapshot.evaluations
    assert snapshot.steps_per_second > 0
    assert snapshot.record["step"] == snapshot.step
    assert "P@1" in snapshot.metrics


def test_pause_is_obeyed_before_the_next_step(make, monkeypatch):
    engine = make()
    wait(engine, lambda s: s.state == "paused")
    step, entered, go_on = engine._run.step, threading.Event(), threading.Event()

    def slow_step():
        entered.set()
        assert go_on.wait(PATIENCE)
        return step()

    monkeypatch.setattr(engine._run, "step", slow_step)
    engine.play()
    assert entered.wait(PATIENCE)
    engine.pause()  # in the middle of step 1
    go_on.set()
    assert wait(engine, lambda s: s.state == "paused" and s.step > 0).step == 1


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux alone")
def test_the_run_is_nicer_than_the_threads_that_answer_and_changes_places_with_them_often(make):
    def of_thread(name: str) -> int:
        return next(os.getpriority(os.PRIO_PROCESS, t.native_id) for t in threading.enumerate() if t.name == name)

    before = of_thread("MainThread")
    engine = make()
    engine.start()
    engine.wait(lambda s: s.state == "paused", PATIENCE)
    assert of_thread("MainThread") == before and of_thread(THREAD_NAME) == min(before + 5, 19)
    assert sys.getswitchinterval() <= 0.001


def test_no_step_begins_while_a_hand_is_answered_but_commands_are_obeyed(make, monkeypatch):
    monkeypatch.setattr(engine_module, "_WAY_SECONDS", PATIENCE)
    engine = make()
    wait(engine, lambda s: s.state == "paused")
    engine.make_way()
    until, _ = engine._way_until, engine.make_way()
    assert engine._way_until == until  # a hand that does not rest leaves as much time to the run
    engine.play()
    wait(engine, lambda s: s.state == "playing")
    engine.change(lr_factor=0.5)
    assert wait(engine, lambda s: "lr_factor" in s.message).step == 0
    engine._way_until = 0
    engine.pause()
    assert wait(engine, lambda s: s.state == "paused").step == 0
    engine.play()
    wait(engine, lambda s: s.step >= 3)
    engine.pause()
    at = wait(engine, lambda s: s.state == "paused").step
    engine._way_until = 0
    engine.make_way()
    engine.step()  # this one is itself the answer
    assert wait(engine, lambda s: s.step > at).step == at + 1


def test_a_pause_and_a_knob_do_not_wait_for_the_end_of_an_evaluation_and_commands_keep_their_order(make):
    engine = make()
    wait(engine, lambda s: s.state == "paused")
    within, go_on, found, ordinary = threading.Event(), threading.Event(), [], engine._run.meanwhile

    def meanwhile():
        within.set()
        go_on.wait(PATIENCE)
        ordinary()
        found.append(engine.snapshot)

    engine._run.meanwhile = meanwhile
    engine.play()
    assert within.wait(PATIENCE)
    engine.change(lr_factor=0.5)
    engine.pause()
    engine.step(2)
    engine.plan(fan_in=5)
    go_on.set()
    last = wait(engine, lambda s: s.state == "paused" and s.planned)
    assert (found[0].state, found[0].step, found[0].recipe.lr_factor, found[0].planned) == ("paused", 10, 0.5, {})
    assert found[0].evaluations == last.evaluations - 1
    assert wait(engine, lambda s: s.step == 12 and s.state == "paused").planned == {"fan_in": 5}
    assert [e["step"] for e in engine.trace().events["change"]] == [10]


def test_whoever_does_not_wait_for_steps_hears_of_commands_and_states(make):
    engine = make()
    wait(engine, lambda s: s.state == "paused")
    looked = []
    engine.step(30)
    engine.wait(lambda s: looked.append(s.step) or s.state == "paused" and s.step == 30, PATIENCE, steps=False)
    assert looked[-1] == 30 and len(looked) < 10


def test_step_takes_exactly_so_many_steps(make):
    engine = make()
    engine.step()
    assert wait(engine, lambda s: s.state == "paused" and s.step > 0).step == 1
    engine.step(3)
    engine.step(4)
    assert wait(engine, lambda s: s.state == "paused" and s.handled >= 4).step == 8
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match="whole number"):
            engine.step(wrong)


def test_a_change_takes_effect_with_the_next_step_and_is_recorded(make):
    engine = make(RECIPE.replace(lr_schedule="constant", warmup=0), start=False)
    engine.run_for(3)
    engine.change(lr_factor=0.5, rewire_interval=7)
    engine.run_for(12)
    trace = engine.trace()
    assert trace.history("lr")[1].tolist() == [1.0] * 3 + [0.5] * 12
    (change,) = trace.events["change"]
    assert (change["step"], change["options"]) == (3, {"lr_factor": 0.5, "rewire_interval": 7})
    assert trace.frames == [0, 7, 14]
    assert engine.snapshot.recipe.lr_factor == 0.5 and engine.snapshot.changes == 1


def test_a_bad_change_is_told_and_the_run_goes_on(make):
    engine = make()
    engine.step(2)
    engine.change(lr_factor=-1.0)
    assert "lr_factor must be at least 0; got -1.0" in wait(engine, lambda s: s.message).message
    engine.change(fan_in=3)
    assert "fan_in cannot change during a run" in wait(engine, lambda s: "fan_in" in s.message).message
    engine.change(lr_facto=1.0)
    assert "did you mean 'lr_factor'" in wait(engine, lambda s: "mean" in s.message).message
    engine.step(2)
    snapshot = wait(engine, lambda s: s.step == 4)
    assert (snapshot.recipe, snapshot.message) == (RECIPE, "")
    assert engine.trace().events["change"] == []


@pytest.mark.parametrize("growth_mode", ["random", "gradient"])
def test_rewire_now_comes_with_the_next_step(make, growth_mode):
    engine = make(RECIPE.replace(growth_mode=growth_mode, rewire_interval=0))
    engine.run_for(3)
    engine.change(rewire_now=True)
    assert "next step will rewire" in wait(engine, lambda s: s.changes == 1 and s.message).message
    engine.run_for(4)
    assert engine.trace().frames == [0, 4] and engine.snapshot.recipe.growth_mode == growth_mode


def test_a_planned_knob_waits_for_reset(make):
    engine = make()
    engine.run_for(2)
    engine.plan(fan_in=6, seed=3)
    engine.plan(hidden=0)
    assert wait(engine, lambda s: "hidden" in s.message).planned == {"fan_in": 6, "seed": 3}
    engine.plan(seed=0)
    assert "fan_in = 6" in wait(engine, lambda s: s.planned == {"fan_in": 6}).message
    assert engine.trace().recipe.fan_in == 4
    engine.reset()
    engine.run_for(1)
    assert engine.snapshot.planned == {} and engine.trace().recipe.fan_in == 6


# --- two runs


def test_two_runs_see_the_same_documents_and_take_turns(make, monkeypatch):
    engine = make(start=False)
    engine.run_for(20)
    engine.compare(RECIPE.replace(rewire_fraction=0.5, seed=9))
    engine.run_for(0)
    snapshot = engine.snapshot
    assert (snapshot.step, snapshot.other.step, snapshot.run) == (0, 20, 2) and snapshot.recipe.seed == 0
    engine.run_for(15)
    assert (engine.snapshot.step, engine.snapshot.other.step) == (15, 20)  # B has not gone past A yet
    for number in (1, 7):
        assert np.array_equal(engine._run.batch_rows(number), engine._other.run.batch_rows(number))
    engine.run_for(15)
    assert (engine.snapshot.step, engine.snapshot.other.step) == (30, 30)
    b, a = engine.trace(), engine.trace(other=True)
    assert (a.recipe.rewire_fraction, b.recipe.rewire_fraction) == (0.15, 0.5)
    assert losses(engine)[:10].tolist() == a.history("loss")[1][:10].tolist()  # the first rewire comes after step 10
    assert losses(engine)[10:].tolist() != a.history("loss")[1][10:].tolist()
    alone = make(start=False)
    alone.run_for(30)
    assert losses(alone).tolist() == a.history("loss")[1].tolist()


def test_knobs_turn_b_and_reset_starts_both_over(make):
    engine = make()
    engine.compare()
    engine.change(lr_factor=0.5)
    engine.plan(seed=4)
    engine.step(5)
    snapshot = wait(engine, lambda s: s.step == 5 and s.state == "paused")
    assert (snapshot.recipe.lr_factor, snapshot.other.recipe.lr_factor, snapshot.other.step) == (0.5, 1.0, 5)
    engine.reset()
    snapshot = wait(engine, lambda s: s.step == 0 and s.state == "paused")
    assert (snapshot.other.step, snapshot.recipe.seed, snapshot.other.recipe.seed) == (0, 4, 4)
    engine.step(2)
    assert wait(engine, lambda s: s.step == 2 and s.state == "paused").other.step == 2
    engine.single()
    engine.step(1)
    assert wait(engine, lambda s: s.step == 3 and s.state == "paused").other is None
    with pytest.raises(RuntimeError, match="no A"):
        engine.trace(other=True)


def test_where_a_fails_b_goes_on(make):
    engine = make(RECIPE.replace(output_lr=1e30, warmup=0, aux_weight=0.0, output_optimizer="sgd"), start=False)
    engine.compare(RECIPE)
    snapshot = engine.run_for(30)
    assert (snapshot.state, snapshot.step, snapshot.other.state) == ("paused", 30, "failed")
    assert "A failed" in snapshot.other.message and engine.trace(other=True).status == "failed"


def test_both_runs_end_at_their_end_and_at_close(make):
    engine = make(steps=15, start=False)
    engine.compare(RECIPE.replace(rewire_interval=5))
    snapshot = engine.run_for(15)
    assert (snapshot.state, snapshot.other.state) == ("finished", "finished")
    assert engine.trace(other=True).status == "finished" == engine.trace().status
    engine.reset()
    engine.run_for(3)
    engine.close()
    assert engine.trace(other=True).status == "interrupted" == engine.trace().status


# --- recordings


def test_a_recording_is_looked_at_and_never_trains(make):
    trace = xe.train(CORPUS, RECIPE, steps=25, progress=False)
    engine = Engine(None, trace=trace)
    snapshot = engine.run_for(10)
    assert (snapshot.state, snapshot.step, snapshot.n_frames, snapshot.records) == ("recorded", 25, 2, 25)
    assert "nothing trains" in snapshot.message and snapshot.record["step"] == 25 and "P@1" in snapshot.metrics
    engine.reset()
    engine.change(lr_factor=0.1)
    assert engine.run_for(1).step == 25 and engine.trace() is trace
    engine.close()


def test_a_new_run_beside_a_recording(make):
    trace = xe.train(CORPUS, RECIPE, steps=25, progress=False)
    engine = make(start=False, steps=25, trace=trace)
    engine.compare()
    snapshot = engine.run_for(25)
    assert (snapshot.state, snapshot.step, snapshot.other.state) == ("finished", 25, "recorded")
    assert losses(engine).tolist() == pytest.approx(trace.history("loss")[1].tolist(), rel=1e-6)
    engine.reset()
    assert engine.run_for(3).other.step == 25 and engine.trace(other=True) is trace


# --- branches


@pytest.mark.parametrize("kept", [True, False], ids=["from a copy", "from the start"])
def test_a_branch_goes_on_as_the_run_did_that_was_left_alone(make, monkeypatch, kept):
    monkeypatch.setattr(engine_module, "_STATE_STEPS", 7 if kept else 1000)
    alone, engine = make(start=False), make(start=False)
    engine.run_for(3)
    engine.change(rewire_now=True)
    alone.run_for(3)
    alone.change(rewire_now=True)
    alone.run_for(47)
    engine.run_for(29)
    assert engine.trace().frames == [0, 4, 10, 20, 30]
    engine.branch(3)
    engine.run_for(0)
    snapshot = engine.snapshot
    assert (snapshot.step, snapshot.other.step, snapshot.run, snapshot.state) == (20, 32, 2, "paused")
    assert len(snapshot.store) == 4
    engine.run_for(30)
    assert losses(engine).tolist() == losses(alone).tolist()
    assert (engine.snapshot.step, engine.snapshot.other.step) == (50, 50)


def test_a_branch_takes_the_knobs_as_they_stand(make):
    engine = make()
    engine.run_for(25)
    engine.change(lr_factor=0.5, rewire_interval=5)
    engine.branch(1, loss="squared_hinge")
    snapshot = wait(engine, lambda s: s.run == 2 and s.state == "paused")
    assert "continues from step 10" in snapshot.message
    assert (snapshot.recipe.lr_factor, snapshot.recipe.rewire_interval, snapshot.recipe.loss) == (
        0.5, 5, "squared_hinge")
    engine.step(5)
    snapshot = wait(engine, lambda s: s.step == 15 and s.state == "paused")
    b, a = engine.trace(), engine.trace(other=True)
    assert b.frames == [0, 10, 15] and a.frames == [0, 10, 20]
    assert b.history("loss")[1][:10].tolist() == a.history("loss")[1][:10].tolist()
    assert [e["step"] for e in a.events["change"]] == [25]


def test_a_branch_of_a_recording_needs_its_corpus(make):
    trace = xe.train(CORPUS, RECIPE, steps=25, progress=False)
    engine = Engine(None, trace=trace)
    engine.start()
    engine.branch(1)
    assert "No branch: the corpus 'tiny'" in wait(engine, lambda s: "No branch" in s.message).message
    assert engine.snapshot.state == "recorded"
    engine.close()
    engine = make(trace=trace, steps=25)
    engine.branch(1)
    snapshot = wait(engine, lambda s: s.state == "paused")
    assert (snapshot.step, snapshot.other.state, snapshot.other.step) == (10, "recorded", 25)
    engine.play()
    assert wait(engine, lambda s: s.state == "finished").step == 25
    assert losses(engine).tolist() == trace.history("loss")[1].tolist()


def test_a_run_beside_a_recording_needs_its_corpus(make):
    trace = xe.train(CORPUS, RECIPE, steps=25, progress=False)
    for corpus in (None, Corpus("another", split(300, 2), split(60, 1), CORPUS.label_names)):
        engine = Engine(corpus, trace=trace)
        engine.start()
        engine.compare()
        snapshot = wait(engine, lambda s: "No run beside it: " in s.message)
        assert snapshot.state == "recorded" and snapshot.other is None and "give" in snapshot.message
        engine.close()


def test_what_a_knob_says_and_b_does_not_take_goes_on_waiting(make):
    engine = make()
    engine.run_for(12)
    engine.plan(fan_in=2)
    engine.branch(1)
    snapshot = wait(engine, lambda s: s.run == 2 and s.state == "paused")
    assert snapshot.recipe.fan_in == 4 and snapshot.planned == {"fan_in": 2}
    engine.plan(seed=3)
    engine.compare()
    snapshot = wait(engine, lambda s: s.run == 3 and s.state == "paused")
    assert snapshot.recipe.fan_in == 2 and snapshot.planned == {"seed": 3}  # B has the seed of A
    engine.reset()
    snapshot = wait(engine, lambda s: s.run == 4 and s.state == "paused")
    assert (snapshot.recipe.seed, snapshot.other.recipe.seed, snapshot.planned) == (3, 3, {})


def test_a_run_without_frames_has_no_branch(make):
    engine = make(RECIPE.replace(output="dense"))
    engine.run_for(2)
    engine.branch(0)
    snapshot = wait(engine, lambda s: "no frame" in s.message)
    assert (snapshot.state, snapshot.step) == ("paused", 2)


# --- ends


def test_a_diverged_run_fails_in_words_and_reset_starts_another(make):
    engine = make(RECIPE.replace(output_lr=1e30, warmup=0, aux_weight=0.0, output_optimizer="sgd"))
    engine.play()
    snapshot = wait(engine, lambda s: s.state == "failed")
    assert "diverged" in snapshot.message and "lower" in snapshot.message
    failed = engine.trace()
    assert failed.status == "failed" and failed.steps == snapshot.step
    engine.play()
    engine.step()
    ticket = engine._post("pause")
    assert wait(engine, lambda s: s.handled >= ticket).state == "failed"
    engine.reset(RECIPE)
    snapshot = wait(engine, lambda s: s.state == "paused")
    assert (snapshot.step, snapshot.run, snapshot.message, snapshot.metrics) == (0, 2, "", {})
    assert engine.run_for(5).step == 5
    assert failed.steps == len(failed.history("loss")[0])  # what was recorded is still there


def test_a_run_that_cannot_be_built_fails_in_words_and_reset_starts_another(make):
    engine = make(RECIPE.replace(fan_in=31))
    assert "fan_in" in wait(engine, lambda s: s.state == "failed").message
    with pytest.raises(RuntimeError, match="no run yet"):
        engine.trace()
    engine.reset(RECIPE)
    assert wait(engine, lambda s: s.state == "paused").steps == 5000


def test_a_run_whose_folder_is_gone_fails_in_words_and_its_thread_goes_on(make, tmp_path):
    folder = tmp_path / "run"
    engine = make(out=folder)
    engine.run_for(12)
    shutil.rmtree(folder)
    engine.branch(1)
    assert "No branch" in wait(engine, lambda s: "No branch" in s.message).message
    engine.play()
    snapshot = wait(engine, lambda s: s.state == "failed")
    assert snapshot.message == f"the run can no longer be recorded in {folder} (No such file or directory)"
    assert len(engine_threads()) == 1 and snapshot.store.steps == [0, 10]
    engine.reset()
    assert wait(engine, lambda s: s.run == 2 and s.state == "paused").step == 0
    assert engine.run_for(12).n_frames == 2 and engine.trace().folder == folder
    engine.compare()  # A and B, and with all of it gone both start over, and end
    wait(engine, lambda s: s.other is not None and s.state == "paused")
    for gone in tmp_path.iterdir():
        shutil.rmtree(gone)
    engine.reset()
    assert wait(engine, lambda s: s.run == 4 and s.state == "paused").other.step == 0
    assert engine.run_for(3).other.step == 3
    for gone in tmp_path.iterdir():
        shutil.rmtree(gone)
    engine.close()
    assert engine.snapshot.state == "stopped" and engine_threads() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_fails_in_words_and_reset_starts_another(make):
    engine = make()
    engine.run_for(5)
    record = engine._run.trace
    record._file.close()
    record._file = open("/dev/full", "w")
    engine.play()
    snapshot = wait(engine, lambda s: s.state == "failed")
    assert snapshot.message == f"the run can no longer be recorded in {record.folder} (No space left on device)"
    assert record._file.closed
    engine.reset()
    wait(engine, lambda s: s.run == 2 and s.state == "paused")
    assert engine.run_for(12).step == 12


def test_any_error_of_a_step_reaches_the_snapshot(make, monkeypatch):
    engine = make()
    wait(engine, lambda s: s.state == "paused")

    def broken():
        raise KeyError("a defect")

    monkeypatch.setattr(engine._run, "step", broken)
    engine.play()
    assert wait(engine, lambda s: s.state == "failed").message == (
        "an unexpected error ended the run (KeyError: a defect)")
    assert len(engine_threads()) == 1


def test_run_for_raises_what_made_the_run_fail(make):
    diverging = RECIPE.replace(output_lr=1e30, warmup=0, aux_weight=0.0, output_optimizer="sgd")
    for start in (False, True):
        with pytest.raises(TrainingError, match="diverged"):
            make(diverging, start=start).run_for(50)


def test_reset_starts_at_0_with_a_new_trace_and_the_knobs_as_they_stand(make, tmp_path):
    engine = make(out=tmp_path / "run")
    engine.run_for(12)
    engine.change(lr_factor=0.5)
    first = engine.trace()
    engine.reset()
    snapshot = wait(engine, lambda s: s.run == 2 and s.state == "paused")
    assert (snapshot.step, snapshot.rewires, snapshot.evaluations, snapshot.changes) == (0, 0, 0, 0)
    assert snapshot.recipe == RECIPE.replace(lr_factor=0.5) and snapshot.steps_per_second is None
    second = engine.trace()
    assert (first.folder.name, second.folder.name) == ("run", "run-2")
    assert second.recipe.lr_factor == 0.5 and second.steps == 0
    assert xe.Trace(first.folder).status == "interrupted" and xe.Trace(first.folder).steps == 12


def test_the_end_of_a_run(make):
    engine = make(steps=15)
    engine.play()
    snapshot = wait(engine, lambda s: s.state == "finished")
    assert snapshot.step == 15 and snapshot.evaluations == 2 and "Reset" in snapshot.message
    engine.change(lr_factor=2.0)
    assert "waits for Reset" in wait(engine, lambda s: "waits" in s.message).message
    engine.play()
    assert wait(engine, lambda s: "finished" in s.message).step == 15
    trace = engine.trace()
    assert trace.status == "finished" and trace.events["eval"][-1]["final"] and trace.events["change"] == []
    engine.reset()
    assert wait(engine, lambda s: s.run == 2 and s.state == "paused").recipe.lr_factor == 2.0


def test_a_thread_makes_no_difference_and_neither_does_the_rest_of_the_process(make):
    alone = make(start=False)
    with torch.no_grad():  # what a cell may have set
        alone.run_for(40)
    torch.manual_seed(1)
    threaded, beside = make(), make(RECIPE.replace(seed=1))
    beside.play()
    threaded.run_for(25)
    threaded.step(15)
    wait(threaded, lambda s: s.step == 40 and s.state == "paused")
    beside.pause()
    assert wait(beside, lambda s: s.state == "paused").step > 0
    assert losses(alone).tolist() == losses(threaded).tolist()
    assert not np.array_equal(losses(beside)[:5], losses(alone)[:5])
    assert torch.is_grad_enabled()


def test_grad_mode_of_the_process_does_not_reach_the_worker(make):
    torch.set_grad_enabled(False)
    try:
        assert make().run_for(3).step == 3
        with torch.inference_mode():
            assert make(start=False).run_for(3).step == 3
    finally:
        torch.set_grad_enabled(True)


TWO_AT_ONCE = """
import sys
sys.path.insert(0, {tests!r})
import xmc_explore as xe
from corpus_for_tests import tiny_corpus
from xmc_explore.widgets.engine import Engine
engines = [Engine(tiny_corpus(), xe.Recipe(hidden=16, aux_weight=0.0), steps=5) for _ in range(2)]
for engine in engines:
    engine.start()
print([engine.run_for(2).step for engine in engines])
"""


def test_two_models_can_be_built_at_once_in_a_new_process():
    """The second import of a lazy module fails while the first is under way."""
    code = TWO_AT_ONCE.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[2, 2]\n", done.stderr


def test_a_trace_can_be_taken_while_the_run_is_playing(make):
    engine = make()
    engine.play()
    wait(engine, lambda s: s.step >= 10)
    for _ in range(5):
        trace = engine.trace()
        assert trace.notes == [] and trace.steps >= 10
        assert len(trace.history("loss")[0]) == trace.steps
    assert engine.snapshot.state == "playing"


def test_a_snapshot_does_not_change(make):
    engine = make(start=False)
    engine.run_for(15)
    early = engine.snapshot
    record = dict(early.record)
    engine.run_for(15)
    assert (early.step, early.rewires, early.record) == (15, 1, record)
    assert engine.snapshot.version > early.version
    with pytest.raises(AttributeError):
        early.step = 0


def test_close_leaves_no_thread_and_a_trace_that_loads(make):
    engine = make()
    engine.play()
    wait(engine, lambda s: s.step >= 5)
    engine.close()
    assert engine_threads() == []
    assert engine.snapshot.state == "stopped"
    trace = engine.trace()
    assert trace.status == "interrupted" and trace.steps == engine.snapshot.step
    engine.close()
    engine.start()
    assert engine_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        engine.play()


def test_an_engine_that_never_started_can_be_closed(make):
    engine = make(start=False)
    engine.close()
    assert engine.snapshot.state == "stopped"


def test_an_engine_that_nobody_holds_ends_its_thread():
    engine = Engine(CORPUS, RECIPE, steps=5000)
    engine.start()
    wait(engine, lambda s: s.state == "paused")
    (thread,) = engine_threads()
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive() and reference() is None


def test_what_closes_the_engines_at_exit(make):
    engines = [make(), make()]
    engine_module._close_all()
    assert engine_threads() == [] and [e.snapshot.state for e in engines] == ["stopped"] * 2


def test_an_interrupt_of_the_cell_pauses_the_thread(make, monkeypatch):
    engine = make()
    wait(engine, lambda s: s.state == "paused")
    ordinary = engine.wait

    def interrupted(condition, timeout=None, steps=True):
        monkeypatch.setattr(engine, "wait", ordinary)
        ordinary(lambda s: s.step >= 3, PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run_for(4000)
    assert 3 <= wait(engine, lambda s: s.state == "paused").step < 4000
    assert engine.run_for(2).state == "paused"


def test_an_interrupt_without_a_thread_ends_the_run(make, monkeypatch):
    engine = make(start=False)
    engine.run_for(2)

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run_for(2)
    assert engine.snapshot.state == "failed" and "Interrupted" in engine.snapshot.message
    assert engine.trace().status == "interrupted"
    engine.reset()
    assert engine.run_for(2).step == 2
