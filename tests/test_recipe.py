"""Recipes: to JSON and back, and what they refuse."""

import pytest

import xmc_explore as xe
from xmc_explore.recipe import LIVE, METHODS, PAPER


@pytest.mark.parametrize("name", METHODS)
def test_methods_go_to_json_and_back(name):
    recipe = xe.Recipe.method(name, seed=4)
    assert recipe.seed == 4 and xe.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", PAPER)
def test_published_settings_are_recipes(name):
    recipe = xe.Recipe.paper(name)
    assert recipe.encoder == "transformer" and recipe.growth_mode == "random" and recipe.rewire_end == 0.66
    assert recipe.fan_in == (64 if name == "Wiki10-31K" else 128)
    assert xe.Recipe.from_json(recipe.to_json()) == recipe


def test_amazon_670k_as_published():
    r = xe.Recipe.paper("Amazon-670K")
    assert (r.batch_size, r.epochs, r.encoder_lr, r.output_lr, r.loss) == (64, 110, 1e-5, 0.01, "squared_hinge")
    assert (r.prune_mode, r.rewire_threshold, r.rewire_interval) == ("threshold", 0.01, 800)
    assert r.aux_weight == 0.4 and r.aux_cutoff * r.epochs == pytest.approx(15)


@pytest.mark.parametrize("options, words", [
    (dict(fan_in=0), "fan_in must be at least 1; got 0"),
    (dict(fan_in=2.5), "fan_in must be of type int, such as 8; got 2.5"),
    (dict(rewire_fraction=1.2), "rewire_fraction must be between 0 and 1; got 1.2"),
    (dict(output="masked"), "output='masked'; choose one of"),
    (dict(reset_moments=1), "reset_moments must be of type bool"),
    (dict(probes=("budget",)), "probes must be of type str, such as 'budget,twin,snr'; got "),
    (dict(seed=True), "seed must be of type int"),
    (dict(output_lr=-1.0), "output_lr must be at least 0"),
    (dict(output_lr=float("nan")), "output_lr must be at least 0"),
    (dict(loss="cross_entropy"), "loss='cross_entropy'"),
    (dict(loss_interval=5), "loss_interval=5 needs logits='chunked'"),
    (dict(rounding="stochastic"), "rounding='stochastic' needs output_dtype='bfloat16'"),
    (dict(output_dtype="bfloat16"), "output_dtype='bfloat16' needs output_update='in_place', output_optimizer='sgd'"),
    (dict(output_dtype="float8_e4m3fn", output_update="in_place", output_optimizer="sgd"), "and momentum=0.0.*, 0.9"),
    (dict(output_dtype="float16"), "output_dtype='float16'; choose one of"),
])
def test_bad_values_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        xe.Recipe(**options)


def test_unknown_names_are_named_with_the_nearest():
    with pytest.raises(ValueError, match="no option 'rewire_fractoin'; did you mean 'rewire_fraction'"):
        xe.Recipe().replace(rewire_fractoin=0.1)
    with pytest.raises(ValueError, match="no method is called 'set'; choose one of 'dense'"):
        xe.Recipe.method("set")
    with pytest.raises(ValueError, match="no published settings for 'EURLex-4K'; there are some for Wiki10-31K"):
        xe.Recipe.paper("EURLex-4K")
    with pytest.raises(ValueError, match="not a recipe: line 1"):
        xe.Recipe.from_json("{")
    with pytest.raises(ValueError, match="expected an object of options, found list"):
        xe.Recipe.from_json("[]")


def test_live_options_are_options():
    assert set(LIVE) <= set(xe.Recipe.__dataclass_fields__)


@pytest.mark.parametrize(("seed", "words"), [(-1, "seed must be at least 0; got -1"), (2**70, "below 2\\*\\*63")])
def test_a_seed_that_no_generator_takes(seed, words):
    with pytest.raises(ValueError, match=words):
        xe.Recipe(seed=seed)


def test_what_is_no_text_is_no_recipe():
    with pytest.raises(ValueError, match="not a recipe: expected text, got NoneType"):
        xe.Recipe.from_json(None)
