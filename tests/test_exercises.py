"""Each exercise has a solution that passes, mistakes that are called by name, and a reference that stands in."""

from __future__ import annotations

import json
import linecache
import math
import re
import threading

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus

import xmc_explore
from xmc_explore import exercises as ex
from xmc_explore import memory
from xmc_explore.corpora import load_corpus
from xmc_explore.exercises import checking
from xmc_explore.exercises.checking import TRIALS, agree, difference, examine, statement
from xmc_explore.exercises.exercise import Knob, Prediction, WriteFunction, WriteKernel
from xmc_explore.exercises.n04_triton import tl
from xmc_explore.recipe import Recipe
from xmc_explore.training import train

ALL = ex.all_exercises()
WRITE = {name: e for name, e in ALL.items() if isinstance(e, WriteFunction)}
MISTAKES = [(e, m) for e in WRITE.values() for m in e.mistakes]


@pytest.fixture(autouse=True)
def own_record(monkeypatch, tmp_path):
    monkeypatch.setenv("XMC_EXPLORE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


# --- every exercise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", WRITE.values(), ids=WRITE)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_solution_as_it_would_stand_in_a_notebook_passes(exercise, seed):
    if exercise.missing():
        pytest.skip(exercise.missing())
    names, source = {"np": np, "torch": torch, "math": math, "tl": tl}, exercise.source()
    linecache.cache[exercise.name] = (len(source), None, source.splitlines(True), exercise.name)  # as a notebook does
    exec(compile(source, exercise.name, "exec"), names)  # our own source, not a user's
    right, kind, words, picture = examine(exercise, names[exercise.reference.__name__], seed)
    assert right and kind == "right", words
    assert (picture is None) == (exercise.picture is None)


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES, ids=[f"{e.name}: {m.name}" for e, m in MISTAKES])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_likely_mistake_is_called_by_its_name(exercise, mistake, seed):
    if exercise.missing():
        pytest.skip(exercise.missing())
    right, kind, words, picture = examine(exercise, mistake.function, seed)
    assert not right and kind == "wrong"
    assert (picture is None) == (exercise.picture is None)
    assert words == f"**{mistake.name}.** {mistake.words}"


@pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
def test_a_statement_has_all_that_a_student_needs(exercise):
    text = statement(exercise)
    assert exercise.statement.strip() in text and f"no more than {exercise.minutes} minutes" in text
    assert text.count("<details>") == text.count("</details>") == len(exercise.hints) + 1
    assert text.index("Hint") < text.index("<summary>Solution</summary>")
    assert exercise.solution().strip()
    assert 1 <= exercise.minutes <= 30


def test_there_are_enough_of_each_kind():
    kinds = [type(e) for e in ALL.values()]
    assert len(kinds) >= 20 and set(kinds) == {WriteFunction, WriteKernel, Prediction, Knob}


DRAWN = {name: e for name, e in WRITE.items() if e.picture}
ODD = {"a word": "a", "nothing": None, "a number": 3, "a list": [1, 2, [3]], "a dictionary": {"a": 1},
       "not a number": lambda t: np.full(t.shape, np.nan), "too large": lambda t: np.full(t.shape, 1e300),
       "one of each": lambda t: np.resize([np.nan, np.inf, 1e300, -1.0, 1.0], t.shape), "turned": lambda t: t.T,
       "one too few": lambda t: t[1:], "complex": lambda t: t + 1j, "objects": lambda t: t.astype(object),
       "trained": lambda t: torch.as_tensor(t.astype(float)).requires_grad_(), "a tensor": torch.as_tensor,
       "a generator": (i for i in range(3)), "empty": np.zeros(0)}


def test_pictures_are_where_they_say_more():
    assert list(DRAWN) == ["recall_per_bin", "tile_mask", "prune", "survival", "aux_schedule", "gradient_budget"]


@pytest.mark.parametrize("exercise", DRAWN.values(), ids=DRAWN)
def test_the_picture_of_a_right_answer_and_of_each_mistake_says_how_they_compare(exercise):
    for function in (exercise.reference, *(m.function for m in exercise.mistakes)):
        picture = examine(exercise, function, 3)[3]
        right = function is exercise.reference
        assert ("is the target everywhere" in picture.caption or "and no other" in picture.caption) == right
        assert picture.caption.startswith("On one of the random inputs") and "yours" in picture.alt
        assert picture.svg().startswith("<svg") and picture.table.columns.isin(["yours", "target"]).sum() == 2
        said = [t.name for t in picture.figure.data] + [a.text for a in picture.figure.layout.annotations]
        assert {"yours", "target"} <= {name.strip("</b>") for name in said}
        assert picture.figure.layout.template.layout.font.color  # the house's template


def test_without_plotly_an_answer_is_checked_and_not_drawn(monkeypatch):
    monkeypatch.setattr(checking, "find_spec", lambda name: None)
    exercise = DRAWN["prune"]
    assert examine(exercise, exercise.reference, 0)[0] and examine(exercise, exercise.reference, 0)[3] is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("exercise", DRAWN.values(), ids=DRAWN)
def test_no_odd_answer_stops_a_picture(exercise, odd):
    arguments = exercise.inputs(np.random.default_rng(0))
    target = exercise.reference(*arguments)
    picture = exercise.picture(arguments, odd(target) if callable(odd) else odd, target)
    assert picture.svg() and picture.html()
    assert math.isfinite(picture.figure.layout.height) and "nan" not in picture.caption + picture.alt


# --- the checker --------------------------------------------------------------------------------------------------


def stub(scores, labels, k):
    ...


def unfinished(scores, labels, k):
    raise NotImplementedError


@pytest.mark.parametrize("function", [stub, unfinished])
def test_unsolved_the_reference_stands_in_and_nothing_is_recorded(capsys, own_record, function):
    given = ex.check("precision_at_k")(function)
    assert "Not solved yet" in capsys.readouterr().out
    assert given.__name__ == function.__name__
    assert given(np.array([[3.0, 1, 2]]), np.array([[1, 0, 0]]), 2) == 0.5
    assert not own_record.exists()


def test_a_right_function_comes_back_as_it_is_and_is_recorded(capsys, own_record):
    own = WRITE["precision_at_k"].reference
    assert ex.check("precision_at_k")(own) is own
    assert "Right" in capsys.readouterr().out
    entry = json.loads(own_record.read_text())["precision_at_k"]
    assert entry["tries"] == 1 and entry["solved"]
    solved = ex.progress().set_index("exercise").loc["precision at k"]
    assert solved["tries"] == 1 and solved["solved"] == entry["solved"]


def test_a_wrong_function_is_told_where_it_is_off(capsys):
    given = ex.check("precision_at_k")(lambda scores, labels, k: 17.0)
    said = capsys.readouterr().out
    assert "Expected" in said and "got 17" in said and "random seed" in said
    assert given(np.array([[3.0, 1, 2]]), np.array([[1, 0, 0]]), 2) == 0.5
    assert "got shape [1]" in examine(WRITE["inverse_propensity"], lambda *a: np.ones(1), 0)[2]


def test_an_error_inside_is_told_in_words(capsys):
    ex.check("precision_at_k")(lambda scores, labels, k: scores[99])
    assert "stopped with `IndexError" in capsys.readouterr().out


def returns_nothing(scores, labels, k):
    top = np.argsort(-scores, axis=1)[:, :k]
    top.sum()


def adds_at_indices(grad, weight, indices, width):
    dx = torch.zeros(len(grad), width)
    dx[:, indices] += grad[:, :, None] * weight
    return dx


@pytest.mark.parametrize(("name", "wrong", "words"), [
    ("precision_at_k", returns_nothing, "returned `None`"),
    ("precision_at_k", lambda *a: 100 * WRITE["precision_at_k"].reference(*a), "100 times what it should be"),
    ("precision_at_k", lambda s, y, k: np.ones(4), "Expected a result of one number, got shape [4]"),
    ("precision_at_k", lambda s, y, k: "a", "got `'a'`"),
    ("recall_per_bin", lambda *a: {"head": 1}, "Expected a result of shape [3], got `dict`"),
    ("inverse_propensity", lambda *a: WRITE["inverse_propensity"].reference(*a) - 1, "1 too small"),
    ("inverse_propensity", lambda *a: list(WRITE["inverse_propensity"].reference(*a)), "return a NumPy array"),
    ("sparse_forward", lambda *a: WRITE["sparse_forward"].reference(*a).numpy(), "return a PyTorch tensor"),
    ("sparse_gradient_of_weight", lambda *a: -WRITE["sparse_gradient_of_weight"].reference(*a), "The sign is the"),
    ("sparse_gradient_of_x", adds_at_indices, "`dx[:, indices] += ...`"),
])
def test_what_students_do_is_told_in_words(capsys, name, wrong, words):
    usable = ex.check(name)(wrong)
    said = capsys.readouterr().out
    assert words in said and "Below, the reference stands in for it." in said
    assert usable is not wrong


def test_the_line_that_failed_is_shown():
    source = "def mine(scores, labels, k):\n    return scores.topk(k)\n"
    names = {}
    exec(compile(source, "<a cell>", "exec"), names)  # our own source, not a user's
    linecache.cache["<a cell>"] = (len(source), None, source.splitlines(True), "<a cell>")
    words = examine(WRITE["precision_at_k"], names["mine"], 0)[2]
    assert "has no attribute 'topk'` in line 2, `return scores.topk(k)` (inputs scores [" in words


def test_a_loop_without_an_end_can_be_interrupted(capsys, monkeypatch):
    said = threading.Event()
    monkeypatch.setattr(checking, "PATIENCE", 0.01)
    monkeypatch.setattr(checking, "_say", lambda kind, words: (print(words), said.set()))

    def endless(scores, labels, k):
        assert said.wait(60)  # the word comes first
        raise KeyboardInterrupt

    ex.check("precision_at_k")(endless)
    words = capsys.readouterr().out
    assert "Kernel → Interrupt Kernel" in words and "You stopped it before it came back" in words


def test_a_name_is_asked_for():
    with pytest.raises(TypeError, match="by its name"):
        ex.check(lambda: None)
    with pytest.raises(TypeError, match="run is a trace"):
        ex.reach("forty_bytes", 3)


def test_changed_inputs_are_noticed():
    def careless(scores, labels, k):
        result = WRITE["precision_at_k"].reference(scores, labels, k)
        scores *= 0
        return result

    assert "changed its inputs" in examine(WRITE["precision_at_k"], careless, 0)[2]


def test_inputs_are_fresh_each_time():
    seen = []
    ex.check("precision_at_k")(lambda scores, labels, k: seen.append(scores) or 1.0)
    ex.check("precision_at_k")(lambda scores, labels, k: seen.append(scores) or 1.0)
    assert len(seen) == 2 * TRIALS
    assert len({s.tobytes() for s in seen}) == len(seen)


def test_unknown_names_and_wrong_kinds():
    with pytest.raises(KeyError, match="did you mean 'precision_at_k'"):
        ex.show("precision_at_q")
    with pytest.raises(TypeError, match=r"answered with predict\(\.\.\.\)"):
        ex.check("one_answer")


def test_results_of_many_kinds_are_compared():
    assert agree(torch.tensor([1.0, 2]), np.array([1.0, 2]), 1e-6)
    assert agree((1.0, [2, 3]), (1.0, [2, 3]), 0) and not agree((1.0,), (1.0, 2.0), 0)
    assert agree({"a": [1, 1]}, {"a": np.ones(2)}, 0) and not agree({"b": 1}, {"a": 1}, 0)
    assert not agree("word", np.ones(2), 1) and not agree(None, 1.0, 1)
    assert agree(float("nan"), float("nan"), 0)
    assert "Part 2 of 2" in difference((1.0, 2.0), (1.0, 3.0))
    assert difference({1: 2.0, 3: 4.0}, {1: 2.0}) == "Key 3 should not be there"
    assert difference({1: 2.0}, {1: 2.0, 3: 4.0}) == "Key 3 is missing"
    assert difference({1: 2.0}, {1: 2.5}) == "At key 1: Expected 2.5, got 2"
    assert difference(["b", "a"], ["a", "b"]) == "Part 1 of 2: Expected `'a'`, got `'b'`"
    assert difference({1: 2.0}, 3.0) == "Expected `3.0`, got `{1: 2.0}`"
    assert "2 of 3 values differ, most of all at [2]" in difference(np.array([1.0, 2, 9]), np.array([1.0, 3, 3]))


class FewDocuments:
    """A corpus with one label on every second document."""

    def __init__(self):
        from scipy.sparse import csr_array

        labels = csr_array(np.array([[1, 0], [0, 1], [1, 1], [0, 1]], dtype=np.float32)[:, ::-1])
        self.label_frequency = np.array([30, 10])
        self.test = type("Split", (), {"labels": labels, "__len__": lambda _: 4})()


def test_a_prediction_is_compared_with_what_is_measured(capsys, own_record):
    ex.predict("one_answer", None)
    assert "No prediction yet" in capsys.readouterr().out and not own_record.exists()
    ex.predict("one_answer", 76, given=FewDocuments())
    assert "it is **75 %**" in capsys.readouterr().out
    assert json.loads(own_record.read_text())["one_answer"]["solved"]


@pytest.mark.parametrize("guess", ["7.7 GiB", True, float("nan"), float("inf"), [1, 2], ...])
def test_what_is_no_number_is_told_so_and_stops_no_notebook(capsys, own_record, guess):
    ex.predict("dense_gibibytes", guess)
    assert "one number" in capsys.readouterr().out or guess is ...
    assert not own_record.exists()


def test_numbers_of_every_kind_are_predictions(capsys):
    for guess in (np.float32(7.7), torch.tensor(7.7), np.array([7.7])):
        ex.predict("dense_gibibytes", guess)
    assert capsys.readouterr().out.count("You said 7.7, it is **7.679 GiB**") == 3


def test_a_wrong_prediction_is_told_how_one_gets_there(capsys):
    ex.predict("dense_gibibytes", 100)
    assert ALL["dense_gibibytes"].worked in capsys.readouterr().out


def test_what_was_tried_is_worked_out_to_what_the_recording_holds():
    tried = ALL["tried"]
    assert f"about {tried.answer(xmc_explore.load_recording('planted-set')):.0f} % because" in tried.worked


def test_a_known_trap_is_named(capsys):
    corpus = FewDocuments()
    corpus.label_frequency = np.array([30, 70])  # 70 % of the assignments, 50 % of the documents
    ex.predict("one_answer", 70, given=corpus)
    assert "You divided by the number of *assignments*" in capsys.readouterr().out


# --- progress -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["[1, 2", '{"precision_at_k": {"tries": "three"}}', '{"a": 1}'])
def test_a_damaged_record_is_set_aside(capsys, own_record, damaged):
    own_record.write_text(damaged)
    ex.check("precision_at_k")(WRITE["precision_at_k"].reference)
    assert "is now progress.unreadable.json" in capsys.readouterr().out
    assert own_record.with_name("progress.unreadable.json").read_text() == damaged
    assert json.loads(own_record.read_text())["precision_at_k"]["solved"]


def test_a_record_that_cannot_be_kept_stops_nobody(capsys, monkeypatch, own_record):
    own_record.write_text("a file")
    monkeypatch.setenv("XMC_EXPLORE_PROGRESS", str(own_record / "below.json"))  # below a file there is no place
    own = WRITE["precision_at_k"].reference
    assert ex.check("precision_at_k")(own) is own
    assert "progress is not kept" in (said := capsys.readouterr().out) and "Right" in said


def test_progress_can_be_off_or_forgotten(monkeypatch, own_record):
    ex.check("precision_at_k")(WRITE["precision_at_k"].reference)
    ex.forget()
    assert not own_record.exists()
    monkeypatch.setenv("XMC_EXPLORE_PROGRESS", "off")
    ex.check("precision_at_k")(WRITE["precision_at_k"].reference)
    assert (ex.progress()["tries"] == 0).all()


@pytest.mark.skipif(tl is None, reason="Triton is not installed")
def test_a_kernel_is_checked_against_plain_numbers():
    exercise = WRITE["own_kernel"]
    grad, x, indices = exercise.inputs(np.random.default_rng(0))
    exact = np.einsum("lb,lkb->lk", grad.astype(float), x.astype(float)[indices])
    np.testing.assert_allclose(exercise.call(exercise.reference, (grad, x, indices)), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(tl is None, reason="Triton is not installed")
def test_a_kernel_that_leaves_its_tensors_is_stopped_and_one_in_its_place_works(capsys):
    def own_kernel(grad, x, indices, dweight, n_labels, batch, K: tl.constexpr, BLOCK: tl.constexpr):
        label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(dweight + label, tl.load(grad + label * batch))

    usable = ex.check("own_kernel")(own_kernel)
    said = capsys.readouterr().out
    assert "OutOfBounds" in said and "is there a mask" in said and "`tl.store(" in said
    exercise = WRITE["own_kernel"]
    arguments = exercise.inputs(np.random.default_rng(0))
    assert agree(exercise.call(usable, arguments), exercise.call(exercise.reference, arguments), 0)


def test_without_triton_a_kernel_is_for_reading(monkeypatch, capsys):
    monkeypatch.setattr("xmc_explore.exercises.exercise.find_spec", lambda name: None)

    def own_kernel():
        """Nothing."""

    assert ex.check("own_kernel")(own_kernel) is own_kernel
    assert "Triton is not installed here" in capsys.readouterr().out


# --- single exercises ---------------------------------------------------------------------------------------------


class RunOf:
    """As much of a trace as a condition on it reads."""

    def __init__(self, recipe: Recipe, precision: float, weights: tuple[float, ...] = (0.0, 0.0)):
        self.recipe, self.precision, self.weights, self.steps = recipe, precision, weights, len(weights)

    def history(self, name):
        return np.arange(1, 1 + self.steps), np.array(self.weights)

    def metrics(self, split):
        return {"P@1": self.precision}


@pytest.mark.parametrize(("run", "reached", "words"), [
    (RunOf(Recipe(aux_weight=0.0), 33.0), True, "P@1 is 33.0 %"),
    (RunOf(Recipe(aux_weight=0.0), 20.0), False, "asked for are 28 %"),
    (RunOf(Recipe(), 33.0, (0.8, 0.0)), False, "set `aux_weight=0.0`"),
    (RunOf(Recipe(aux_weight=0.0, fan_in=64), 33.0), False, "fan-in of at most 8"),
    (RunOf(Recipe(aux_weight=0.0, output="dense"), 33.0), False, "must stay sparse"),
])
def test_doing_without_the_auxiliary_objective(run, reached, words):
    got, said = ALL["without_auxiliary"].condition(run)
    assert got is reached and words in said


def test_the_shares_of_the_budget_add_up_and_may_be_negative():
    budget = WRITE["gradient_budget"].reference
    assert budget(np.array([[2.0, 0.0], [-1.0, 0.0]])).tolist() == [2.0, -1.0]


def test_the_bill_of_a_layer_is_what_the_hint_says(tmp_path):
    corpus = tiny_corpus(texts=False)
    trace = train(corpus, Recipe(encoder="features", fan_in=6, aux_weight=0.0), steps=1, progress=False)
    assert ALL["own_layer"].answer(trace) == pytest.approx(corpus.n_labels * (18 * 6 + 16) / 2**20, rel=0.02)


PLANTED = dict(encoder="features", fan_in=16, rewire_interval=20, rewire_fraction=0.3, output_lr=0.02)  # notebook 05
KNOBS = {"forty_bytes": ("calls-small", 885), "tail_support": ("planted", 1200),
         "tail_searches_on": ("calls-small", 885), "without_auxiliary": ("calls-small", 885)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, e in ALL.items() if isinstance(e, Knob)])
def test_the_way_that_a_knob_exercise_shows_gets_there(name):
    corpus, steps = KNOBS[name]
    recipe = eval(ALL[name].recipe(), {"xe": xmc_explore, "planted": PLANTED})  # our own source, not a user's
    reached, words = ALL[name].condition(train(load_corpus(corpus), recipe, steps=steps, progress=False))
    assert reached, words


class Rewired:
    """As much of a sparse run as the conditions on its connections read."""

    def __init__(self, *, found: float | None = 0.4, precision: float = 30.0, frames: int = 20, steps: int = 1200,
                 **options):
        self.recipe, self.header, self.frames = Recipe(**options), {"steps": steps}, list(range(frames))
        self.found, self.precision, self.store = found, precision, None
        self.events = {"rewire": [] if found is None else [{"found/tail": found}]}

    def history(self, name):
        return np.array([1200]), np.array([self.found])

    def bins(self):
        return tiny_corpus().bins()

    def metrics(self):
        return {"P@1": self.precision}


@pytest.mark.parametrize(("run", "reached", "words"), [
    (Rewired(fan_in=16), True, "read 40 % of the features that decide them; asked for are 30 %"),
    (Rewired(fan_in=16, found=0.3), True, "read 30 %"),
    (Rewired(fan_in=16, found=0.29), False, "read 29 %"),
    (Rewired(fan_in=17), False, "fan-in of at most 16"),
    (Rewired(fan_in=16, steps=1201), False, "at most 1200 steps"),
    (Rewired(fan_in=16, output="dense"), False, "must stay sparse"),
    (Rewired(fan_in=16, found=None), False, "Nothing was found: rewire, on the planted corpus"),
])
def test_finding_the_support_of_the_tail(run, reached, words):
    got, said = ALL["tail_support"].condition(run)
    assert bool(got) is reached and words in said


@pytest.mark.parametrize(("run", "moved", "reached", "words"), [
    (Rewired(), dict(head=1.0, tail=1.5), True, "1.50 times as often (asked: 1.5), at a P@1 of 30.0 % (asked: 28)"),
    (Rewired(precision=28.0), dict(head=1.0, tail=2.0), True, "2.00 times as often"),
    (Rewired(), dict(head=1.0, tail=1.4), False, "1.40 times as often"),
    (Rewired(precision=27.9), dict(head=1.0, tail=2.0), False, "at a P@1 of 27.9 %"),
    (Rewired(), dict(head=0.0, tail=0.5), True, "one of a head label 0.00 times"),
    (Rewired(frames=9), dict(head=1.0, tail=2.0), False, "rewired ten times at least"),
    (Rewired(output="dense"), dict(head=1.0, tail=2.0), False, "must be sparse"),
])
def test_turning_around_who_moves(monkeypatch, run, moved, reached, words):
    monkeypatch.setattr("xmc_explore.exercises.n06_connectivity.moves", lambda store, of_label: moved)
    got, said = ALL["tail_searches_on"].condition(run)
    assert got is reached and words in said


def test_each_bin_has_assignments_whose_recall_is_asked_for():
    exercise = ex.find("recall_per_bin")
    for seed in range(2000):
        _, labels, bin_of_label = exercise.inputs(np.random.default_rng(seed))
        assert all(labels[:, bin_of_label == b].any() for b in range(3))


@pytest.mark.parametrize(("each", "precision", "reached"), [(36, 30.0, True), (41, 30.0, False), (36, 24.0, False)])
def test_forty_bytes_asks_for_both(each, precision, reached):
    class Run:
        events = {"step": [{"output_bytes": each * 50}]}
        label_frequency = np.ones(50)

        def metrics(self, split):
            return {"P@1": precision}

    got, said = ALL["forty_bytes"].condition(Run())
    assert got is reached and f"{each} bytes a label" in said and f"P@1 {precision} %" in said


def test_the_hints_to_forty_bytes_name_each_option_of_the_way_shown():
    exercise = ALL["forty_bytes"]
    options = re.findall(r"(\w+)=", exercise.worked)
    assert len(options) == 6 and all(f"{name}=" in " ".join(exercise.hints) for name in options)


def test_the_bill_of_a_label_is_the_ledgers():
    for fan_in, width, moments, gradients in ((8, 512, 2, True), (32, 768, 0, False), (5, 40_000, 1, True)):
        whole = memory.predicted("sparse", width, 100, fan_in, moments=moments, gradients=gradients)
        assert WRITE["bytes_a_label"].reference(fan_in, width, moments, gradients) == whole / 100
