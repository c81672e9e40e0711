"""Several runs in several processes: each is the run that it would have been alone."""

from __future__ import annotations

import numpy as np
import pytest
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
from xmc_explore.corpora import CorpusError

RECIPE = xe.Recipe(hidden=32, fan_in=4, aux_clusters=4, batch_size=32)
RECIPES = {"seed 0": RECIPE, "seed 1": RECIPE.replace(seed=1)}


@pytest.fixture(scope="module")
def corpus():
    return tiny_corpus(texts=False)


@pytest.mark.parametrize("processes", [1, 2])
def test_each_run_is_the_one_it_would_be_alone(corpus, tmp_path, processes):
    traces = xe.train_many(corpus, RECIPES, steps=12, out=tmp_path, processes=processes, progress=False)
    assert list(traces) == list(RECIPES)
    for name, trace in traces.items():
        alone = xe.train(corpus, RECIPES[name], steps=12, progress=False)
        assert trace.status == "finished" and trace.recipe == RECIPES[name]
        assert np.allclose(trace.history("loss")[1], alone.history("loss")[1], rtol=1e-4)
        assert np.array_equal(trace.connectivity(-1), alone.connectivity(-1))
    assert {p.name for p in tmp_path.iterdir()} == {"seed-0", "seed-1"}
    assert xe.Trace(tmp_path / "seed-1").recipe.seed == 1


def test_without_a_folder_traces_live_as_long_as_they_are_held(corpus):
    traces = xe.train_many(corpus, {"a": RECIPE}, steps=2, progress=False)
    folder = traces["a"].folder
    assert folder.exists()
    del traces
    assert not folder.exists()


def test_what_stops_a_run_comes_with_its_name(corpus, tmp_path):
    bad = RECIPE.replace(encoder="transformer")
    for processes in (1, 2):
        with pytest.raises(CorpusError, match="has no texts") as caught:
            xe.train_many(corpus, {"good": RECIPE, "bad": bad}, steps=8, out=tmp_path / str(processes),
                          processes=processes, progress=False)
        assert "in the run 'bad'" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("recipes", [{}, {"a b": RECIPE, "a-b": RECIPE}])
def test_names_must_tell_runs_apart(corpus, recipes):
    with pytest.raises(ValueError, match="a name of its own"):
        xe.train_many(corpus, recipes, steps=1)
